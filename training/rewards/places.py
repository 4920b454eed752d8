"""How well the boxes of an area lie on the boxes of a sample: what grounding and depth both ask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sifthinker.policy.boxes import WHOLE, Box, best_matching, iou, pairwise_iou, union_iou

MOST_BOXES = 64
"""An area with more boxes than this, and more than four times those of the sample, names no place at all."""


@dataclass(frozen=True)
class Pair:
    """A predicted box and the true box that it is matched with."""

    pred: int
    true: int
    iou: float


@dataclass(frozen=True)
class Placement:
    """Predicted boxes against true ones: IoU of the two unions, and the pairs of the best one-to-one matching."""

    n_pred: int
    n_true: int
    union: float = 0.0
    pairs: tuple[Pair, ...] = ()

    @property
    def matched(self) -> float:
        """Sum of the pairs' IoU."""
        return sum([pair.iou for pair in self.pairs])

    @property
    def hiou(self) -> float:
        """`sifthinker.policy.boxes.hiou`, with max(n_pred, n_true) in the pair term."""
        return (self.union + self.matched / max(self.n_pred, self.n_true, 1)) / 2

    @property
    def loosest(self) -> float:
        """The published form of it, with min(n_pred, n_true): boxes too many or too few are free in the pair term."""
        return (self.union + self.matched / max(min(self.n_pred, self.n_true), 1)) / 2


@lru_cache(maxsize=4096)
def place(pred: tuple[Box, ...], true: tuple[Box, ...]) -> Placement:
    """Where boxes lie. Two rewards ask, and samples come in groups, so the last ones are remembered."""
    if not pred or not true:
        return Placement(len(pred), len(true))
    if len(pred) == len(true) == 1:
        overlap = iou(pred[0], true[0])
        return Placement(1, 1, overlap, (Pair(0, 0, overlap),))
    table = pairwise_iou(pred, true)
    pairs = tuple([Pair(row, column, float(table[row, column])) for row, column in best_matching(table)])
    return Placement(len(pred), len(true), float(union_iou(pred, true)), pairs)


def place_area(pred: tuple[Box, ...], true: tuple[Box, ...]) -> Placement:
    """`place`, but boxes scattered by the hundred are in no place: without the work of finding out how little."""
    if len(pred) > max(MOST_BOXES, 4 * len(true)):
        return Placement(len(pred), len(true))
    return place(pred, true)


def start(true: tuple[Box, ...]) -> float:
    """HIoU of the whole image: where every trace starts, whatever the policy does."""
    return place((WHOLE,), true).hiou
