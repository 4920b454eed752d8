"""Grounding: does the trace end on the boxes that decide the question, and how far did it get from the whole image?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sifthinker.policy.boxes import Box
from sifthinker.training.rewards.completions import Completion, Reading, column, readings, truth_boxes
from sifthinker.training.rewards.places import Placement, place_area, start


@dataclass(frozen=True)
class Grounding:
    """What the grounding reward of a completion is made of."""

    placement: Placement
    start: float
    """HIoU of the whole image."""

    @property
    def bonus(self) -> float:
        """What the focus gained over the whole image."""
        return max(0.0, self.placement.hiou - self.start)

    @property
    def score(self) -> float:
        """HIoU of the last area, and the bonus: in [0, 2]."""
        return self.placement.hiou + self.bonus


def grounding_reward(
    completions: Sequence[Completion],
    boxes: Sequence[Sequence[Any] | None],
    depth: Sequence[Any] | None = None,
    **columns: Any,
) -> list[float]:
    """HIoU of the last area with the sample's boxes, plus what that is more than HIoU of the whole image: in [0, 2).

    HIoU has max(n_pred, n_true) in its pair term, so each box too many costs. The bonus is measured from the whole
    image, where every trace starts, and not from the first box that the policy chose: a first box that was wrong and
    then corrected earns as much as one that was right, never more, and a wrong one is not worth choosing. Measured
    from the policy's own first box (the published form) a bad one on purpose would pay.

    Args:
        completions: texts or lists of messages. One that is not a trace earns 0.
        boxes: of each sample the boxes that decide the question, normalised xyxy. Without any the reward is 0.
        depth: as in `format_reward`.
        columns: what else TRL hands over.

    Raises:
        UsageError: a sample's boxes are not normalised xyxy, or a column has another length.
    """
    rows = column("boxes", boxes, len(completions))
    return [ground(one, truth_boxes(row)).score for one, row in zip(readings(completions, depth), rows, strict=True)]


def ground(reading: Reading, true: tuple[Box, ...]) -> Grounding:
    """The parts of the reward of one completion."""
    return Grounding(place_area(reading.last_boxes, true), start(true))
