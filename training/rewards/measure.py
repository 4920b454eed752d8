"""Mean depth in boxes, cheap for maps that are measured a few times and for maps that are measured often.

An integral image makes `DepthMap.mean` constant in time, but costs as much as some ten passes over the map, and the map
of a training sample is measured only a few times, in small boxes. So the first boxes of a map are summed directly; once
that has come to a few maps' worth of pixels, the map's integral image takes over: neither is ever paid without need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.boxes import Box

PASSES = 4
"""So many maps' worth of pixels are summed directly before the integral image is made."""

_summed: WeakKeyDictionary[DepthMap, int] = WeakKeyDictionary()
"""Pixels summed directly, by map."""


def mean_depth(depth: DepthMap, box: Box) -> float:
    """Mean depth within a valid box (normalised xyxy): equal to `depth.mean(box)`."""
    width, height = depth.size
    x1, x2, y1, y2 = box[0] * width, box[2] * width, box[1] * height, box[3] * height
    summed = _summed.get(depth, 0) + int((x2 - x1 + 1) * (y2 - y1 + 1))
    if summed > PASSES * depth.array.size or x2 - x1 < 1e-6 or y2 - y1 < 1e-6:
        return depth.mean(box)
    _summed[depth] = summed
    columns, across = _span(x1, x2, width)
    rows, down = _span(y1, y2, height)
    total = float(down @ (depth.array[rows, columns] @ across.astype(np.float32)))  # float32 as the map: no copy of it
    return min(max(total / ((x2 - x1) * (y2 - y1)), 0.0), 1.0)


def depth_maps(column: Sequence[Any]) -> list[DepthMap | None]:
    """The rows of a depth column as depth maps: each a `DepthMap`, an (H, W) array with 0 near and 1 far, or None.

    An array that stands in several rows (the completions of a group) becomes one map, which is not kept beyond the
    column: an array may be filled anew, and then the map would be another's.

    Raises:
        DepthError: an array of another shape, or with values outside [0, 1].
    """
    made: dict[int, DepthMap] = {}  # by identity: the column keeps its arrays alive
    maps: list[DepthMap | None] = []
    for row in column:
        if row is None or isinstance(row, DepthMap):
            maps.append(row)
            continue
        if id(row) not in made:
            made[id(row)] = DepthMap(np.asarray(row))
        maps.append(made[id(row)])
    return maps


def _span(low: float, high: float, side: int) -> tuple[slice, NDArray[np.float64]]:
    """The pixels of a side that [low, high] touches, and the part of each that it covers."""
    first, last = min(int(low), side - 1), min(math.ceil(high), side)
    weights = np.ones(last - first)
    weights[0] -= low - first
    weights[-1] -= last - high
    return slice(first, last), weights
