"""Task scores while a policy is trained: held-out questions, asked through the agent that a user runs.

A parse failure, a refusal and a crash are wrong answers; nothing is left out of the denominator. How many crashed is
told, since a GPU that was too small for the questions would otherwise look like a policy that has learnt nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from sifthinker.agent import create_focus_agent
from sifthinker.nodes.depth import FixedDepth
from sifthinker.policy.base import Policy
from sifthinker.policy.boxes import Box, hiou
from sifthinker.policy.errors import PolicyError, SifthinkerError
from sifthinker.training.data.load import open_depth
from sifthinker.training.data.records import Record
from sifthinker.training.data.samples import inside
from sifthinker.training.launch import own_rank
from sifthinker.training.rewards.matching import match, tagged_answer
from sifthinker.training.sft.recipe import Evaluation, TrainMode

logger = logging.getLogger(__name__)


class TaskScores(BaseModel):
    """Means over the questions asked, in one mode."""

    n: int
    accuracy: float = Field(description="Of answers: verified where that is possible, free texts by their similarity.")
    hiou: float = Field(description="Of the last area with the boxes that decide the question; no area: 0.")
    valid: float = Field(description="Share of completions that keep strictly to the grammar.")
    failed: int = Field(default=0, description="Questions that ended in an error; they count as wrong.")

    @property
    def score(self) -> float:
        """What the best checkpoint is chosen by: right and looking at the right place count alike."""
        return (self.accuracy + self.hiou) / 2


@dataclass(frozen=True)
class Told:
    """What one question came to."""

    id: str
    right: float
    hiou: float
    valid: bool
    error: str | None = None


def ask_all(
    policy: Policy, records: Sequence[Record], folder: Path, *, mode: TrainMode, settings: Evaluation, seed: int = 0
) -> list[Told]:
    """Ask every question once, greedily, its options in an order drawn from the seed.

    Args:
        policy: in the state that is to be scored.
        records, folder: the questions, and the folder that their files are relative to.
        mode: how the agent focuses.
        settings: budget and threads.
    """

    def one(record: Record) -> Told:
        options = list(record.options)
        np.random.default_rng([seed, *hashlib.sha256(record.id.encode()).digest()[:8]]).shuffle(options)
        try:
            depth = open_depth(folder, record.depth_map)
            agent = create_focus_agent(
                policy,
                depth="none" if depth is None else FixedDepth(depth),
                mode=mode,
                max_new_tokens=settings.max_new_tokens,
                deadline_s=3600.0,
                call_timeout_s=3600.0,  # a busy machine must not make a policy look worse
            )
            result = agent.ask(record.question, image=inside(folder, record.rgb), options=options)
        except SifthinkerError as error:
            return Told(record.id, 0.0, 0.0, False, str(error))
        return _told(record, result)

    with ThreadPoolExecutor(settings.workers) as pool:
        return list(pool.map(one, records))


def scores_of(told: Sequence[Told]) -> TaskScores:
    """Means over the questions. Questions that ended in an error are told to the log.

    Raises:
        PolicyError: every one ended in an error: that is no score of a policy.
    """
    errors = [one.error for one in told if one.error is not None]
    if errors and len(errors) == len(told):
        raise PolicyError(f"None of the {len(told)} held-out questions could be asked. The first: {errors[0]}")
    if errors and own_rank() == 0:
        logger.warning("%d of %d held-out questions failed and count as wrong: %s", len(errors), len(told), errors[0])
    return TaskScores(
        n=len(told),
        accuracy=_mean([one.right for one in told]),
        hiou=_mean([one.hiou for one in told]),
        valid=_mean([float(one.valid) for one in told]),
        failed=len(errors),
    )


def _told(record: Record, result: Any) -> Told:
    boxes: list[Box] = [box.bbox_2d for box in result.steps[-1].boxes] if result.steps else []
    said = tagged_answer(result.answer or "", result.trace_text)
    right = match(said, record.answer, record.options or None).score
    return Told(record.id, right, hiou(boxes, record.boxes) if boxes else 0.0, bool(result.valid_trace))


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if values else 0.0


def held_out(images: Sequence[str], questions: int, seed: int) -> tuple[list[int], list[int]]:
    """Records to train on and to ask, no image in both.

    Args:
        images: the hash of each record's image.
        questions: about so many records are held out: all records of an image, images in an order drawn from the seed.
        seed: of the draw.

    Returns:
        indices to train on, and indices to ask, each in order. At least one image is left to train on.
    """
    counts = Counter(images)
    drawn = sorted(counts, key=lambda image: hashlib.sha256(f"{seed}:{image}".encode()).hexdigest())
    asked: set[str] = set()
    total = 0
    for image in drawn[:-1]:
        if total >= questions:
            break
        asked.add(image)
        total += counts[image]
    train = [index for index, image in enumerate(images) if image not in asked]
    return train, [index for index, image in enumerate(images) if image in asked]
