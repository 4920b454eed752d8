"""How well the boxes of an area lie on the boxes of a sample: what grounding and depth both ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

from sifthinker.policy.boxes import WHOLE, Box, area, best_matching, iou, pairwise_iou, union_iou

MOST_BOXES = 64
"""An area with more boxes than this, and more than four times those of the sample, names no place at all."""
FEW = 4
"""Up to so many boxes on either side plain Python is several times faster than arrays; the results are the same."""


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
    if len(pred) > FEW or len(true) > FEW:
        table = pairwise_iou(pred, true)
        found = [(row, column, float(table[row, column])) for row, column in best_matching(table)]
        union = float(union_iou(pred, true))
    else:
        found, union = _match_few(pred, true), _union_iou_of_few(pred, true)
    return Placement(len(pred), len(true), union, tuple([Pair(*pair) for pair in found]))


def place_area(pred: tuple[Box, ...], true: tuple[Box, ...]) -> Placement:
    """`place`, but boxes scattered by the hundred are in no place: without the work of finding out how little."""
    if len(pred) > max(MOST_BOXES, 4 * len(true)):
        return Placement(len(pred), len(true))
    return place(pred, true)


def start(true: tuple[Box, ...]) -> float:
    """HIoU of the whole image: where every trace starts, whatever the policy does."""
    return place((WHOLE,), true).hiou


def _match_few(pred: Sequence[Box], true: Sequence[Box]) -> list[tuple[int, int, float]]:
    """The best one-to-one matching, (pred, true, IoU) each, by trying them all."""
    table = [[iou(one, other) for other in true] for one in pred]
    if len(pred) <= len(true):
        rows = range(len(pred))
        best = max(permutations(range(len(true)), len(pred)), key=lambda order: sum([table[i][order[i]] for i in rows]))
        return [(row, best[row], table[row][best[row]]) for row in rows]
    columns = range(len(true))
    best = max(permutations(range(len(pred)), len(true)), key=lambda order: sum([table[order[j]][j] for j in columns]))
    return sorted([(best[column], column, table[best[column]][column]) for column in columns])


def _union_iou_of_few(pred: Sequence[Box], true: Sequence[Box]) -> float:
    """IoU of the regions that two lists of boxes cover."""
    first, second, both = _covered(pred), _covered(true), _covered([*pred, *true])
    return max(0.0, first + second - both) / both if both > 0 else 0.0


def _covered(boxes: Sequence[Box]) -> float:
    """Area of the region that boxes cover: of the first, and of the others where the first is not."""
    if not boxes:
        return 0.0
    (x1, y1, x2, y2), others = boxes[0], boxes[1:]
    shared: list[Box] = [
        (max(x1, left), max(y1, top), min(x2, right), min(y2, bottom))
        for left, top, right, bottom in others
        if left < x2 and x1 < right and top < y2 and y1 < bottom
    ]
    return area(boxes[0]) + _covered(others) - _covered(shared)
