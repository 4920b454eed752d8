"""How much of a training step goes into rendering scenes, loading and collating them, when nothing is hidden behind it.

Two trainers: the one that makes the embedded policy from nothing, and GRPO on scenes of its own. The time spent in the
functions that make a batch is taken over the time of the step that waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from performance.figures import Figure
from performance.lines.grpo import our_trainer, step_timer

STEPS = 6


def figures(repeat: int, *, steps: int = STEPS) -> Iterator[Figure]:
    """See `performance.command.LINES`."""
    share, parts = _scratch(repeat, steps)
    yield Figure(
        "training from nothing: rendering and collation, share of the step", share, "", "%", at_most=5, note=parts
    )
    share, parts = _grpo(repeat, steps)
    yield Figure("GRPO: rendering and rows, share of the step", share, "", "%", at_most=5, note=parts)


class _Stopwatch:
    """Adds up the time spent in functions that it wraps; a wrapped function within another is not counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside = False

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

        return wrapped

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def in_words(self, whole: float) -> str:
        """What the parts were, in percent of the whole."""
        return ", ".join(f"{name} {100 * seconds / whole:.1f} %" for name, seconds in self.seconds.items())


def _scratch(repeat: int, steps: int) -> tuple[list[float], str]:
    from sifthinker.training.recipes import load_recipe
    from sifthinker.training.scratch import train
    from sifthinker.training.scratch.pictures import view_scene
    from sifthinker.training.scratch.recipe import ScratchRecipe
    from sifthinker.training.scratch.stream import SceneStream

    settings = {key: value for key, value in load_recipe("embedded").items() if key != "trainer"}
    recipe = ScratchRecipe.model_validate(settings)
    shares: list[float] = []
    words = ""
    with TemporaryDirectory() as folder:
        trainer = train.Trainer(recipe, Path(folder))
        trainer.cursor.phase = "traces"
        stream = SceneStream(recipe, 0, 1000)
        stream.buffer = [view_scene(number) for number in range(10)] * 20  # as full as it is a minute after the start
        trainer.scenes = iter(stream)
        collate = train.collate
        for _ in range(repeat + 1):
            watch = _Stopwatch()
            samples = trainer._samples
            trainer._samples = watch.wrap("scenes and samples", samples)  # type: ignore[method-assign]
            train.collate = watch.wrap("collation", collate)
            try:
                began = time.perf_counter()
                for _ in range(steps):
                    loss, _told = trainer._trace_step()
                    for optimizer in trainer.optimizers:
                        optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    for optimizer in trainer.optimizers:
                        optimizer.step()
                whole = time.perf_counter() - began
            finally:
                train.collate = collate
                del trainer._samples
            shares.append(100 * watch.total / whole)
            words = f"{whole / steps:.2f} s a step; {watch.in_words(whole)}"
    return shares[1:], words  # the first warms up


def _grpo(repeat: int, steps: int) -> tuple[list[float], str]:
    from sifthinker.training.grpo import data
    from sifthinker.training.rewards import ProgressMemory

    shares: list[float] = []
    words = ""
    row = data.Scenes.row
    with TemporaryDirectory() as folder:
        for turn in range(repeat):
            watch, timer = _Stopwatch(), step_timer()
            data.Scenes.row = watch.wrap("scenes and rows", row)  # type: ignore[method-assign]
            try:
                our_trainer(Path(folder) / str(turn), steps, timer, True, ProgressMemory()).train()
            finally:
                data.Scenes.row = row  # type: ignore[method-assign]
            whole = sum(timer.seconds)
            shares.append(100 * watch.total / whole)
            words = f"{whole / steps:.2f} s a step; {watch.in_words(whole)}"
    return shares, words
