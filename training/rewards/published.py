"""The rewards as the published code defines them, loopholes included: for reproduction and for comparison.

Same names and columns as in `sifthinker.training.rewards`. What the published code stumbles over earns 0 here as there;
so do boxes with NaN or infinity, where it would give NaN or what its geometry library makes of them.
Two inputs come in another form: the depth as a map instead of a coloured picture of it, and the judge's score from
`judge`, or, without one, from what can be verified.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.boxes import Box, best_matching, pairwise_iou, union_iou
from sifthinker.training.rewards.answer import Case, Judges, questions, sample_keys
from sifthinker.training.rewards.completions import Completion, column, text_of, truth_boxes
from sifthinker.training.rewards.matching import match
from sifthinker.training.rewards.measure import depth_maps, mean_depth
from sifthinker.training.rewards.progress import ProgressMemory, boosted, group_means
from sifthinker.training.rewards.published_reading import LooseArea, answer_of, areas, format_problem

TOLERANCE = 0.1
_WHOLE = [[0, 0, 1, 1]]
_STUMBLES = (TypeError, ValueError, OverflowError)


def format_reward(completions: Sequence[Completion], **columns: Any) -> list[float]:
    """1.0 where a search finds the tags in order and readable areas between them, else 0.0; see `format_problem`."""
    return [0.0 if format_problem(text_of(completion)) else 1.0 for completion in completions]


def answer_reward(
    completions: Sequence[Completion],
    answer: Sequence[str],
    options: Sequence[Sequence[str] | None] | None = None,
    previous: Sequence[float | None] | None = None,
    **columns: Any,
) -> list[float]:
    """The judge's score s of what stands in the first `<answer>`; s + (s − s_prev) where s is not below s_prev: 0 to 2.

    Args:
        completions: texts or lists of messages.
        answer: the right answers.
        options: for the verifier that stands in for the judge.
        previous: of each sample this reward's mean at its last visit, bonus included; None before the first.
        columns: what else TRL hands over.
    """
    scores = _scores(completions, answer, options, None, columns)
    before = [None] * len(scores) if previous is None else column("previous", previous, len(scores))
    return [boosted(score, last) for score, last in zip(scores, before, strict=True)]


class AnswerReward:
    """The published answer reward with its memory: what it keeps of a visit is the boosted mean, and never a zero.

    Args are those of `sifthinker.training.rewards.AnswerReward`. A judge that fails scores 0.
    """

    __name__ = "answer_reward"

    def __init__(
        self,
        *,
        judge: Judges | None = None,
        memory: ProgressMemory | None = None,
        gather: Callable[[list[Any]], list[Any]] | None = None,
    ) -> None:
        self.judge = judge
        self.memory = memory
        self.gather = gather

    def __call__(
        self,
        completions: Sequence[Completion],
        answer: Sequence[str],
        options: Sequence[Sequence[str] | None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """See `answer_reward`."""
        keys = sample_keys(len(completions), answer=answer, options=options, **columns)
        before = [None if self.memory is None else self.memory.previous(key) for key in keys]
        scores = _scores(completions, answer, options, self.judge, columns)
        rewards = [boosted(score, last) for score, last in zip(scores, before, strict=True)]
        if self.memory is not None:
            rows = list(zip(keys, rewards, strict=True))
            everyone = rows if self.gather is None else self.gather(rows)
            means = group_means([key for key, _ in everyone], [reward for _, reward in everyone])
            self.memory.record({key: mean for key, mean in means.items() if mean})
        return rewards


def grounding_reward(
    completions: Sequence[Completion], boxes: Sequence[Sequence[Any] | None], **columns: Any
) -> list[float]:
    """HIoU of the last area, plus what that is more than HIoU of the first area that is not the whole image: 0 to 2.

    HIoU has min(n_pred, n_true) in its pair term.

    Args:
        completions: texts or lists of messages.
        boxes: of each sample the boxes that decide the question, normalised xyxy; None: 0.
        columns: what else TRL hands over.
    """
    rows = zip(completions, column("boxes", boxes, len(completions)), strict=True)
    return [
        0.0 if row is None else ground(areas(text_of(completion)), truth_boxes(row)).score for completion, row in rows
    ]


def depth_reward(completions: Sequence[Completion], depth: Sequence[Any], **columns: Any) -> list[float]:
    """Share of all depths said, in all areas, that are within a tenth of the mean depth in their box: 0 to 1.

    Args:
        completions: texts or lists of messages.
        depth: of each sample a `DepthMap` or an (H, W) array, 0 near, 1 far; None: 0.
        columns: what else TRL hands over.
    """
    rows = zip(completions, depth_maps(column("depth", depth, len(completions))), strict=True)
    return [0.0 if row is None else judge_depths(areas(text_of(completion)), row).score for completion, row in rows]


@dataclass(frozen=True)
class Grounding:
    """The parts of the published grounding reward."""

    last: float = 0.0
    """HIoU of the last area."""
    first: float | None = None
    """HIoU of the first that is not the whole image; None where it could not be had."""

    @property
    def score(self) -> float:
        """HIoU and bonus."""
        return self.last if self.first is None else self.last + max(0.0, self.last - self.first)


@dataclass(frozen=True)
class Depths:
    """The parts of the published depth reward."""

    right: int
    said: int

    @property
    def score(self) -> float:
        """Their share."""
        return self.right / self.said if self.said else 0.0


def ground(found: Sequence[LooseArea], true: tuple[Box, ...]) -> Grounding:
    """The parts of the grounding reward of one completion."""
    if not found or not found[-1].boxes:
        return Grounding()
    try:
        last = _hiou(found[-1].boxes, true)
    except _STUMBLES:
        return Grounding()
    try:
        return Grounding(last, _hiou(next((area.boxes for area in found if area.boxes != _WHOLE), _WHOLE), true))
    except _STUMBLES:
        return Grounding(last)


def judge_depths(found: Sequence[LooseArea], depth: DepthMap) -> Depths:
    """The parts of the depth reward of one completion."""
    pairs = [pair for area in found for pair in zip(area.boxes, area.depths, strict=False)]
    return Depths(sum([_right(box, said, depth) for box, said in pairs]), sum([len(area.depths) for area in found]))


def _scores(
    completions: Sequence[Completion],
    answer: Sequence[str],
    options: Sequence[Sequence[str] | None] | None,
    judge: Judges | None,
    columns: dict[str, Any],
) -> list[float]:
    count = len(completions)
    truths = column("answer", answer, count)
    said = [str(answer_of(text_of(completion))) for completion in completions]  # no answer is judged as "None"
    if judge is not None:
        asked = questions(count, **columns)
        cases = [Case(*case) for case in zip(asked, truths, said, strict=True)]
        return [0.0 if score is None else score for score in judge(cases)]
    choices = [None] * count if options is None else column("options", options, count)
    return [match(*row).score for row in zip(said, truths, choices, strict=True)]


def _hiou(pred: Sequence[Any], true: tuple[Box, ...]) -> float:
    """½ (IoU of the unions + Σ matched IoU / min(n_pred, n_true)); raises on what is no box.

    Boxes without area are left out of the union only. Two empty sides count as equal.
    """
    covered = [box for box in pred if not _is_empty(box)]
    if any(not isinstance(number, (int, float)) or not math.isfinite(number) for box in covered for number in box):
        raise ValueError("not a box")
    union = 1.0 if not covered and not true else float(union_iou(covered, true))
    if not pred or not true:
        return (union + float(not pred and not true)) / 2
    table = pairwise_iou([[float(number) for number in box] for box in pred], true)
    return (union + sum(float(table[pair]) for pair in best_matching(table)) / min(table.shape)) / 2


def _is_empty(box: Any) -> bool:
    x1, y1, x2, y2 = box
    return bool(x2 <= x1 or y2 <= y1)


def _right(box: Any, said: Any, depth: DepthMap) -> bool:
    width, height = depth.size
    try:
        x1, y1, x2, y2 = box
        left, top = (min(max(math.floor(low * side), 0), side - 1) for low, side in ((x1, width), (y1, height)))
        right, bottom = (min(max(math.ceil(high * side), 0), side) for high, side in ((x2, width), (y2, height)))
        if right <= left or bottom <= top:
            return False
        mean = mean_depth(depth, (left / width, top / height, right / width, bottom / height))
        return bool(mean > 0 and abs(mean - said) / mean <= TOLERANCE)
    except _STUMBLES:
        return False
