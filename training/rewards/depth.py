"""Depth: does the trace know how far away the things are that it ends on?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.boxes import Box
from sifthinker.training.rewards.completions import Completion, Reading, column, readings, truth_boxes
from sifthinker.training.rewards.measure import depth_maps, mean_depth
from sifthinker.training.rewards.places import Pair, place_area

TOLERANCE = 0.1
"""A depth may be off by this share of the measured mean, …"""
FLOOR = 0.1
"""… or of this depth where the mean is smaller: a hundredth is always allowed, or two decimals could not say it."""
_ROUNDING = 1e-6  # of maps in float32: a depth on the very edge of the tolerance is right
PLACE_IOU = 0.5
"""A box is in a right place when it overlaps the true box that it is matched with by this IoU."""


@dataclass(frozen=True)
class SaidDepth:
    """A box of the last area that is in a right place, with its depth as said and as measured."""

    pair: Pair
    said: float
    measured: float

    @property
    def allowed(self) -> float:
        """By how much what was said may be off."""
        return TOLERANCE * max(self.measured, FLOOR)

    @property
    def right(self) -> bool:
        """Whether it is within the tolerance."""
        return abs(self.said - self.measured) <= self.allowed + _ROUNDING


@dataclass(frozen=True)
class Depths:
    """What the depth reward of a completion is made of."""

    n_pred: int
    n_true: int
    said: tuple[SaidDepth, ...] = ()

    @property
    def score(self) -> float:
        """Share of the boxes with a right depth, of all that were said or should have been: in [0, 1]."""
        return sum([one.right for one in self.said]) / max(self.n_pred, self.n_true, 1)


def depth_reward(
    completions: Sequence[Completion], boxes: Sequence[Sequence[Any] | None], depth: Sequence[Any], **columns: Any
) -> list[float]:
    """Share of the last area's boxes that are in a right place and whose depth is right there: in [0, 1].

    A depth is right within a tenth of max(measured mean, `FLOOR`). A box counts only if it is matched with a true box
    at an IoU of `PLACE_IOU` or more, and the share is of max(n_pred, n_true) boxes: right depths of wrong places, and
    easy boxes said besides, earn nothing. Only the last area counts, as in grounding: counted over all areas, a share
    could be raised by further areas whose depth is easy (the whole image, again and again).

    Args:
        completions: texts or lists of messages. One that is not a trace earns 0.
        boxes: of each sample the boxes that decide the question, normalised xyxy.
        depth: of each sample a `DepthMap` or an (H, W) array, 0 near, 1 far; a row without (None) earns 0.
        columns: what else TRL hands over.

    Raises:
        UsageError: a sample's boxes are not normalised xyxy, or a column has another length.
        DepthError: a depth map that is none.
    """
    maps = depth_maps(column("depth", depth, len(completions)))
    rows = zip(readings(completions, maps), column("boxes", boxes, len(completions)), maps, strict=True)
    return [judge_depths(reading, truth_boxes(row), depth_map).score for reading, row, depth_map in rows]


def judge_depths(reading: Reading, true: tuple[Box, ...], depth: DepthMap | None) -> Depths:
    """The parts of the reward of one completion."""
    area = reading.last
    placement = place_area(reading.last_boxes, true)
    said: list[SaidDepth] = []
    for pair in placement.pairs:
        stated = area[pair.pred].depth
        if depth is not None and stated is not None and pair.iou >= PLACE_IOU:
            said.append(SaidDepth(pair, stated, mean_depth(depth, area[pair.pred].bbox_2d)))
    return Depths(placement.n_pred, placement.n_true, tuple(said))
