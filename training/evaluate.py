"""Scores a policy on questions with known answers and boxes, through the same agent that a user runs.

    sifthinker train score embedded --data world/test --modes internal,tools

A parse failure, a refusal and a crash are wrong answers; nothing is left out of the denominator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from sifthinker.agent import create_focus_agent
from sifthinker.nodes.context import Mode
from sifthinker.nodes.depth import DepthMap, FixedDepth, load_depth
from sifthinker.policy.base import Policy
from sifthinker.policy.boxes import Box, hiou
from sifthinker.policy.errors import SifthinkerError
from sifthinker.training.rewards.matching import tagged_answer
from sifthinker.training.world.dataset import QuestionRecord


class Scored(BaseModel):
    """What one question came to."""

    id: str
    family: str
    answer: str
    right: bool
    valid: bool
    hiou: float = Field(description="HIoU of the final area with the boxes that decide the question, in [0, 1].")
    depth_error: float | None = Field(description="Mean |said - measured| depth of the final area; None: none said.")
    seconds: float
    images: int
    tokens: int
    error: str | None = None


class Scores(BaseModel):
    """Means over all questions asked."""

    n: int
    accuracy: float
    hiou: float
    valid: float
    depth_error: float | None
    seconds: float
    images: float
    tokens: float
    families: dict[str, float] = Field(description="Accuracy by family.")


def score(
    policy: Policy,
    records: Sequence[QuestionRecord],
    folder: Path,
    *,
    mode: Mode,
    depth: str = "embedded",
    seed: int = 0,
    temperature: float = 0.0,
    workers: int = 16,
    on_done: Callable[[], None] | None = None,
) -> list[Scored]:
    """Ask every question once, with its options in an order drawn from the seed.

    Args:
        records, folder: questions, and the folder that their images are relative to.
        mode: how the agent focuses.
        depth: a depth source, or "exact" for the renderer's depth.
        seed: of the options' order, and of what is sampled: another seed for each question, the same in every policy.
        temperature: 0 is greedy; 1 samples as GRPO does, so that what it raises is what is scored.
        workers: questions under way at once; a local policy shares forward passes among them.
    """
    exact = depth == "exact"
    shared = None if exact else load_depth(depth)

    def one(record: QuestionRecord) -> Scored:
        options = list(record.options)
        rng = np.random.default_rng([seed, *record.id.encode()])
        rng.shuffle(options)
        try:
            measured_by = FixedDepth(DepthMap.from_png16(folder / record.depth)) if exact else shared
            agent = create_focus_agent(
                policy, depth=measured_by, mode=mode, temperature=temperature, seed=int(rng.integers(2**31))
            )
            result = agent.ask(record.question, image=folder / record.image, options=options)
        except SifthinkerError as error:
            return _failed(record, str(error))
        finally:
            if on_done is not None:
                on_done()
        return _scored(record, result)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, records))


def summary(scored: Sequence[Scored]) -> Scores:
    """Means over the questions."""
    families = sorted({s.family for s in scored})
    errors = [s.depth_error for s in scored if s.depth_error is not None]
    return Scores(
        n=len(scored),
        accuracy=_mean([s.right for s in scored]),
        hiou=_mean([s.hiou for s in scored]),
        valid=_mean([s.valid for s in scored]),
        depth_error=_mean(errors) if errors else None,
        seconds=_mean([s.seconds for s in scored]),
        images=_mean([s.images for s in scored]),
        tokens=_mean([s.tokens for s in scored]),
        families={name: _mean([s.right for s in scored if s.family == name]) for name in families},
    )


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _scored(record: QuestionRecord, result: Any) -> Scored:
    final: list[Any] = result.steps[-1].boxes if result.steps else []
    said: list[Box] = [box.bbox_2d for box in final]
    answer = tagged_answer(result.answer or "", result.trace_text)
    gaps = [abs(b.depth - b.measured_depth) for b in final if b.depth is not None and b.measured_depth is not None]
    return Scored(
        id=record.id,
        family=record.family,
        answer=answer,
        right=answer.strip() == record.answer,
        valid=result.valid_trace,
        hiou=hiou(said, [box.bbox_2d for box in record.boxes]) if said else 0.0,
        depth_error=float(np.mean(gaps)) if gaps else None,
        seconds=result.seconds,
        images=result.tokens.images,
        tokens=result.tokens.prompt + result.tokens.completion,
    )


def _failed(record: QuestionRecord, error: str) -> Scored:
    return Scored(
        id=record.id, family=record.family, answer="", right=False, valid=False, hiou=0.0,
        depth_error=None, seconds=0.0, images=0, tokens=0, error=error,
    )  # fmt: skip
