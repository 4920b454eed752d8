"""Boxes: the one form used inside the program, the spaces it is converted from and to, and the geometry of scores.

Inside the program a box is `(x1, y1, x2, y2)`, each from 0 to 1 of the width or height of the upright image, origin top
left, with x2 > x1 and y2 > y1. Every other space is converted at the border by `to_unit` and `from_unit`; which space
numbers are in is declared by whoever brought them, never guessed from the values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Literal

import numpy as np
import numpy.typing as npt

from sifthinker.policy.errors import UsageError

Box = tuple[float, float, float, float]
"""Normalised xyxy."""

Size = tuple[int, int]
"""(width, height) in pixels."""

_HUGE = 1e150  # beyond it an area is not finite
_STRIP = 128  # columns of cells of `union_iou` at a time
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
"""The whole image."""


class BoxSpace(StrEnum):
    """What the four numbers of a box mean."""

    UNIT = "unit"
    """0–1 of width and height: the form used inside the program."""
    PERMILLE = "permille"
    """0–1000 of width and height (Qwen3-VL)."""
    PIXEL = "pixel"
    """Pixels of the upright image."""
    RESIZED = "resized"
    """Pixels of the image after the processor's resize (Qwen2.5-VL)."""
    PADDED_SQUARE = "padded_square"
    """0–1 of the square to which the image is padded, the padding shared evenly between both sides (VisCoT)."""


def to_unit(
    boxes: Iterable[Sequence[float]],
    space: BoxSpace,
    *,
    image_size: Size | None = None,
    resized_size: Size | None = None,
) -> list[Box]:
    """Boxes of `space` as normalised xyxy. Nothing is rounded or clipped: `from_unit` gives the same boxes back.

    Args:
        boxes: four numbers each, xyxy in `space`.
        space: the declared space.
        image_size: (width, height) of the upright image; needed for PIXEL and PADDED_SQUARE.
        resized_size: (width, height) that the processor made of it; needed for RESIZED.

    Raises:
        UsageError: the size that the space needs is missing or not positive.
    """
    (scale_x, shift_x), (scale_y, shift_y) = _axes(space, image_size, resized_size)
    return [
        ((x1 - shift_x) / scale_x, (y1 - shift_y) / scale_y, (x2 - shift_x) / scale_x, (y2 - shift_y) / scale_y)
        for x1, y1, x2, y2 in boxes
    ]


def from_unit(
    boxes: Iterable[Sequence[float]],
    space: BoxSpace,
    *,
    image_size: Size | None = None,
    resized_size: Size | None = None,
) -> list[Box]:
    """Normalised xyxy as boxes of `space`: the reverse of `to_unit`, with the same arguments and errors."""
    (scale_x, shift_x), (scale_y, shift_y) = _axes(space, image_size, resized_size)
    return [
        (x1 * scale_x + shift_x, y1 * scale_y + shift_y, x2 * scale_x + shift_x, y2 * scale_y + shift_y)
        for x1, y1, x2, y2 in boxes
    ]


def _axes(
    space: BoxSpace, image_size: Size | None, resized_size: Size | None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(scale, shift) of x and of y such that a value in `space` is `unit * scale + shift`."""
    match space:
        case BoxSpace.UNIT:
            return (1.0, 0.0), (1.0, 0.0)
        case BoxSpace.PERMILLE:
            return (1000.0, 0.0), (1000.0, 0.0)
        case BoxSpace.PIXEL:
            width, height = _checked(image_size, space, "image_size")
            return (width, 0.0), (height, 0.0)
        case BoxSpace.RESIZED:
            width, height = _checked(resized_size, space, "resized_size")
            return (width, 0.0), (height, 0.0)
        case BoxSpace.PADDED_SQUARE:
            width, height = _checked(image_size, space, "image_size")
            side = max(width, height)
            return (width / side, (side - width) / side / 2), (height / side, (side - height) / side / 2)
        case _:
            known = ", ".join(repr(one.value) for one in BoxSpace)
            raise UsageError(f"expected a box space, one of {known}, got {space!r}")


def _checked(size: Size | None, space: BoxSpace, name: str) -> Size:
    if size is None or len(size) != 2 or min(size) <= 0:
        raise UsageError(f"boxes in the space {space.value!r} need {name}=(width, height) in pixels, got {size!r}")
    return size


def is_valid(box: Sequence[float]) -> bool:
    """Whether it is a box of the inner form: four finite numbers in [0,1] with x2 > x1 and y2 > y1."""
    if len(box) != 4:
        return False
    x1, y1, x2, y2 = box
    return 0.0 <= x1 < x2 <= 1.0 and 0.0 <= y1 < y2 <= 1.0  # false with a NaN


def clip(box: Sequence[float]) -> Box:
    """The part of a box inside the image; without area (so not valid) when it lies outside.

    Raises:
        ValueError: one of the numbers is NaN.
    """
    if any(math.isnan(value) for value in box):
        raise ValueError(f"expected four numbers, got {tuple(box)}")
    x1, y1, x2, y2 = (min(max(float(value), 0.0), 1.0) for value in box)
    return x1, y1, x2, y2


def area(box: Sequence[float]) -> float:
    """Share of the image that a box covers, 0 for a box with swapped corners."""
    x1, y1, x2, y2 = box
    return max(x2 - x1, 0.0) * max(y2 - y1, 0.0)


def hull(boxes: Sequence[Sequence[float]]) -> Box:
    """The smallest box around all boxes.

    Raises:
        ValueError: there are none.
    """
    if not boxes:
        raise ValueError("expected at least one box to draw a hull around, got none")
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def expand(box: Sequence[float], factor: float) -> Box:
    """A box grown about its centre to `factor` times its width and height, then clipped to the image."""
    x1, y1, x2, y2 = box
    grow_x, grow_y = (x2 - x1) * (factor - 1) / 2, (y2 - y1) * (factor - 1) / 2
    return clip((x1 - grow_x, y1 - grow_y, x2 + grow_x, y2 + grow_y))


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes, in [0,1]; 0 where both are without area."""
    shared = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - shared
    return shared / union if union > 0 else 0.0


def pairwise_iou(a_xyxy: npt.ArrayLike, b_xyxy: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """IoU of each box of one list with each of another: (N, 4) and (M, 4) give (N, M).

    A box with a number that is not finite, or beyond 1e150, covers nothing; so too in `union_iou` and `hiou`.
    """
    a, b = _as_xyxy(a_xyxy, "a_xyxy"), _as_xyxy(b_xyxy, "b_xyxy")
    low = np.maximum(a[:, None, :2], b[None, :, :2])  # (N, M, 2)
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0.0, None).prod(-1)  # (N, M)
    area_a = np.clip(a[:, 2:] - a[:, :2], 0.0, None).prod(-1)  # (N,)
    area_b = np.clip(b[:, 2:] - b[:, :2], 0.0, None).prod(-1)  # (M,)
    union = area_a[:, None] + area_b[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def union_iou(a_xyxy: npt.ArrayLike, b_xyxy: npt.ArrayLike) -> float:
    """Exact IoU of the regions that two lists of boxes cover, (N, 4) and (M, 4); 0 where nothing is covered.

    The edges cut the plane into a grid of at most 2(N + M) by 2(N + M) cells, each covered whole or not at all. Time is
    quadratic in the number of boxes, memory linear: columns of cells are counted a strip at a time.
    """
    a, b = _as_xyxy(a_xyxy, "a_xyxy"), _as_xyxy(b_xyxy, "b_xyxy")
    if not len(a) or not len(b):
        return 0.0
    every = np.concatenate([a, b])  # (N + M, 4)
    owner = (np.arange(len(every)) >= len(a)).astype(np.intp)  # 0: of a, 1: of b
    covers = (every[:, 2] > every[:, 0]) & (every[:, 3] > every[:, 1])
    every, owner = every[covers], owner[covers]
    xs, ys = np.unique(every[:, 0::2]), np.unique(every[:, 1::2])
    widths, heights = np.diff(xs), np.diff(ys)
    left, right = np.searchsorted(xs, every[:, 0]), np.searchsorted(xs, every[:, 2])
    low, high = np.searchsorted(ys, every[:, 1]), np.searchsorted(ys, every[:, 3])
    shared = union = 0.0
    before = np.zeros((2, 1, len(ys)), dtype=np.int64)  # boxes over each stretch of y where the last strip ended
    for first in range(0, len(widths), _STRIP):
        width = widths[first : first + _STRIP]
        change = np.zeros((2, len(width), len(ys)), dtype=np.int64)  # boxes that begin (+) or end (-), by owner
        for column, sign in ((left, 1), (right, -1)):
            here = (column >= first) & (column < first + len(width))
            of, at = owner[here], column[here] - first
            np.add.at(change, (of, at, low[here]), sign)
            np.add.at(change, (of, at, high[here]), -sign)
        change[:, :1] += before
        begun = np.cumsum(change, axis=1)
        before = begun[:, -1:]
        inside = np.cumsum(begun, axis=2)[:, :, :-1] > 0  # (2, columns, stretches)
        shared += float(width @ (inside[0] & inside[1]) @ heights)
        union += float(width @ (inside[0] | inside[1]) @ heights)
    return shared / union if union > 0 else 0.0


def hiou(pred_xyxy: npt.ArrayLike, true_xyxy: npt.ArrayLike, *, pair_norm: Literal["max", "min"] = "max") -> float:
    """Hierarchical IoU of two lists of boxes, (N, 4) and (M, 4), in [0,1]; 0 where one list is empty.

    HIoU = ½ (IoU of the unions + Σ IoU of matched pairs / norm), pairs matched one to one so that the sum is largest.
    `pair_norm` "max" divides by max(N, M), so that each box too many or too few costs; "min" is the published form.
    """
    pred, true = _as_xyxy(pred_xyxy, "pred_xyxy"), _as_xyxy(true_xyxy, "true_xyxy")
    if not len(pred) or not len(true):
        return 0.0
    pairs = pairwise_iou(pred, true)
    matched = sum(float(pairs[row, column]) for row, column in best_matching(pairs))
    norm = max(pairs.shape) if pair_norm == "max" else min(pairs.shape)
    return (union_iou(pred, true) + matched / norm) / 2


def best_matching(gain: npt.ArrayLike) -> list[tuple[int, int]]:
    """The one-to-one pairs (row, column) of an (N, M) table with the largest sum: min(N, M) pairs, by row.

    The Hungarian method by shortest augmenting paths with potentials, O(min² · max).

    Raises:
        ValueError: it is no table, or holds a number that is not finite.
    """
    table = np.asarray(gain, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"expected a table of shape (N, M), got {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("expected finite numbers in the table, got one that is not")
    if table.shape[0] > table.shape[1]:
        return sorted((row, column) for column, row in best_matching(table.T))
    own = table.argmax(1) if table.size else np.zeros(0, dtype=np.intp)
    if len(np.unique(own)) == len(table):  # each row has its best to itself
        return [(row, int(column)) for row, column in enumerate(own)]
    cost = -table
    rows, columns = cost.shape
    u, v = np.zeros(rows), np.zeros(columns)
    row_of = np.full(columns, -1)
    for start in range(rows):
        shortest = np.full(columns, np.inf)
        came_from = np.full(columns, -1)  # the column before on the path
        done = np.zeros(columns, dtype=bool)
        row, column, reached = start, -1, 0.0
        while True:
            slack = reached + cost[row] - u[row] - v
            better = ~done & (slack < shortest)
            shortest[better] = slack[better]
            came_from[better] = column
            column = int(np.argmin(np.where(done, np.inf, shortest)))
            reached = float(shortest[column])
            if row_of[column] < 0:
                break
            done[column] = True
            row = int(row_of[column])
        u[start] += reached
        u[row_of[done]] += reached - shortest[done]
        v[done] -= reached - shortest[done]
        while column >= 0:  # turn the path around
            before = int(came_from[column])
            row_of[column] = row_of[before] if before >= 0 else start
            column = before
    return sorted((int(row), column) for column, row in enumerate(row_of) if row >= 0)


def _as_xyxy(boxes: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"expected {name} of shape (N, 4), got {array.shape}")
    covers = (np.abs(array) < _HUGE).all(axis=1, keepdims=True)  # false with a NaN
    return array if covers.all() else np.where(covers, array, 0.0)
