"""Scenes to train on, and the words that the tokenizer learns from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from sifthinker.training.scratch.pictures import view_scene
from sifthinker.training.scratch.recipe import ScratchRecipe
from sifthinker.training.world.questions import SceneView, make_questions
from sifthinker.training.world.scene import SCENES_PER_SEED, scene_seed
from sifthinker.training.world.traces import make_trace


class SceneStream:
    """Rendered scenes without end: new ones mixed with scenes seen before, which are asked other questions.

    Args:
        recipe: its seed, and how many scenes are kept: so many in each of two processes; more have as many in all.
        rank: of this process.
        first: scenes that it has made already.
        world: processes, each of which has scenes of its own.
    """

    def __init__(self, recipe: ScratchRecipe, rank: int, first: int, *, world: int = 1) -> None:
        self.recipe = recipe
        self.kept = recipe.scenes_kept(world)
        self.rng = np.random.default_rng([recipe.seed, rank, first])
        self.next = rank * (SCENES_PER_SEED // max(world, 2)) + first
        self.buffer: list[SceneView] = []

    def __iter__(self) -> Iterator[SceneView]:
        while True:
            if len(self.buffer) < 200 or self.rng.random() < self.recipe.new_scenes:
                view = view_scene(scene_seed("train", self.recipe.seed, self.next))
                self.next += 1
                if len(self.buffer) < self.kept:
                    self.buffer.append(view)
                else:
                    self.buffer[int(self.rng.integers(len(self.buffer)))] = view
                yield view
            else:
                yield self.buffer[int(self.rng.integers(len(self.buffer)))]


@cache
def corpus(scenes: int = 300) -> tuple[str, ...]:
    """Questions, options and texts from which the tokenizer learns its words: always the same, made once a process."""
    rng = np.random.default_rng(0)
    lines: list[str] = []
    for index in range(scenes):
        view = view_scene(scene_seed("train", 999_999, index), size=96)
        for question in make_questions(view, 10, rng):
            lines += [question.text, *question.options, *(f" {option}" for option in question.options)]
            lines += [step.text for step in make_trace(view, question, rng).steps]
    return tuple(lines)
