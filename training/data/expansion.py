"""Reverse expansion: from the boxes that decide a question back to the whole image (paper, section 3.1).

    answer boxes ← grown, overlaps merged ← their hull, if several are left ← sometimes a wrong area ← whole image

Read forwards, the list narrows down and corrects itself: it is the way that a trace looks. Every constant has a name
in `ExpansionConfig`.

**Growing.** All boxes grow by the same number of pixels on each side, a part of the way that is still to go:
max(rem_x · width, rem_y · height) / steps. The published rem of an axis is 1 − max(lo) − min(hi), which is negative for
boxes right of or below the middle: those grew by one pixel. Here rem is max(min(lo), 1 − max(hi)), the longest way that
the boxes together still have to an edge of the image: never negative, the same for a mirrored image, and `steps` such
steps reach the whole image.

**A wrong area** has the published size and place: next to a corner of the hull, else anywhere clear of it. Since the
hull of several boxes seldom leaves room, one of the boxes serves instead of it here, the area is clear of them all (it
covers less than `distractor_iou` of each: a large area may hold a small box whole at an IoU below that), and where its
random size finds no place, another one is tried.

`published=True` gives the published step and wrong area, and the published rounding (down to pixels, then to decimals).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.boxes import WHOLE, Box, Size, expand, hull, iou, pairwise_iou
from sifthinker.policy.trace import AreaBox

AreaKind = Literal["answer", "grown", "hull", "distractor", "whole"]


class ExpansionConfig(BaseModel):
    """The constants of the reverse expansion, with the paper's values where it has them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=5, ge=1, description="A step goes 1/steps of the way that is left to the whole image.")
    min_step_px: float = Field(default=1.0, ge=0, description="A step is at least so many pixels.")
    published: bool = Field(default=False, description="The published step, fault and rounding included.")
    hull: bool = Field(default=True, description="Whether several boxes get their hull as an area before them.")
    distractor: float = Field(default=0.5, ge=0, le=1, description="Share of samples with a wrong area to correct.")
    distractor_grow: float = Field(default=1.2, gt=0, description="A wrong area is the area's box, grown by this, …")
    distractor_scale: tuple[float, float] = Field(default=(0.7, 1.3), description="… scaled at random in this range, …")
    distractor_iou: float = Field(
        default=0.001,
        gt=0,
        le=1,
        description="… moved where its IoU is below this; also the share of a box that it covers, if not published.",
    )
    distractor_sizes: int = Field(default=8, ge=1, description="Sizes tried before there is none; published: 1.")
    distractor_attempts: int = Field(default=1000, ge=0, description="Places tried for each size.")
    same_iou: float = Field(
        default=0.98, gt=0, le=1, description="An area this close to its neighbour is left out (not if published)."
    )
    decimals: int = Field(default=3, ge=1, le=6, description="Of every number in a record.")

    @model_validator(mode="after")
    def _range(self) -> Self:
        low, high = self.distractor_scale
        if not 0 < low <= high < math.inf:
            raise ValueError(f"distractor_scale: expected two sizes, the smaller first, got {low:g} and {high:g}")
        return self


@dataclass(frozen=True)
class Area:
    """One area of the way: what it is for, and its boxes, normalised xyxy, with depths once measured."""

    kind: AreaKind
    boxes: tuple[AreaBox, ...]

    @property
    def xyxy(self) -> list[Box]:
        """The boxes without depths."""
        return [box.bbox_2d for box in self.boxes]


def forward_areas(boxes: Sequence[Box], size: Size, rng: np.random.Generator, config: ExpansionConfig) -> list[Area]:
    """The areas in the order in which a trace looks at them: the whole image first, the given boxes last.

    Args:
        boxes: what decides the question, valid normalised xyxy, at least one.
        size: (width, height) of the image in pixels.
        rng: decides whether there is a wrong area, and where.
        config: the constants.

    Returns:
        one to five areas, every number rounded to `config.decimals`.
    """
    return reverse_expansion(boxes, size, rng, config)[::-1]


def reverse_expansion(
    boxes: Sequence[Box], size: Size, rng: np.random.Generator, config: ExpansionConfig
) -> list[Area]:
    """The same in the order in which it is made: from the given boxes back to the whole image."""
    grown = merge_overlaps(grow(boxes, step_px(boxes, size, config), size))
    answer = [_rounded(box, size, config) for box in boxes]
    grown = [_rounded(box, size, config) for box in grown]
    around = hull(grown)
    areas = [_area("answer", answer), _area("grown", grown)]
    if len(grown) > 1 and config.hull:
        areas.append(_area("hull", [around]))
    if rng.random() < config.distractor:
        beside, clear_of = (around, [around]) if config.published else (grown[int(rng.integers(len(grown)))], grown)
        if (wrong := distractor(beside, clear_of, rng, config)) is not None:
            areas.append(_area("distractor", [wrong]))
    areas.append(_area("whole", [WHOLE]))
    return areas if config.published else _without_repeats(areas, config.same_iou)


def remaining(boxes: Sequence[Box], *, published: bool = False) -> tuple[float, float]:
    """How much of the width and of the height is left to grow into; see the module's text."""
    lows = [[box[axis] for box in boxes] for axis in (0, 1)]
    highs = [[box[axis + 2] for box in boxes] for axis in (0, 1)]
    x, y = (
        1 - max(low) - min(high) if published else max(min(low), 1 - max(high))
        for low, high in zip(lows, highs, strict=True)
    )
    return x, y


def step_px(boxes: Sequence[Box], size: Size, config: ExpansionConfig) -> float:
    """By how many pixels each side of each box moves out."""
    rem_x, rem_y = remaining(boxes, published=config.published)
    return max(rem_x * size[0] / config.steps, rem_y * size[1] / config.steps, config.min_step_px)


def grow(boxes: Sequence[Box], by_px: float, size: Size) -> list[Box]:
    """Every box with each side moved out by so many pixels, clipped to the image."""
    dx, dy = by_px / size[0], by_px / size[1]
    return [(max(x1 - dx, 0.0), max(y1 - dy, 0.0), min(x2 + dx, 1.0), min(y2 + dy, 1.0)) for x1, y1, x2, y2 in boxes]


def merge_overlaps(boxes: Sequence[Box]) -> list[Box]:
    """The boxes with any two that overlap replaced by their hull, again and again until none do."""
    merged: list[Box] = []
    for box in boxes:
        while (index := next((i for i, other in enumerate(merged) if _overlap(box, other)), -1)) >= 0:
            box = hull([box, merged.pop(index)])
        merged.append(box)
    return merged


def distractor(beside: Box, clear_of: Sequence[Box], rng: np.random.Generator, config: ExpansionConfig) -> Box | None:
    """A box of about the same size elsewhere: beyond a corner of the given box where that fits, else anywhere.

    None where no place is found that is clear of every box of `clear_of`, as `config.distractor_iou` says.
    """
    for _ in range(1 if config.published else config.distractor_sizes):
        scale = float(rng.uniform(*config.distractor_scale))
        found = _elsewhere(beside, expand(expand(beside, config.distractor_grow), scale), clear_of, rng, config)
        if found is not None:
            return found
    return None


def _elsewhere(
    beside: Box, wrong: Box, clear_of: Sequence[Box], rng: np.random.Generator, config: ExpansionConfig
) -> Box | None:
    """A box of the size of `wrong` at a free place, the corners of `beside` first."""
    x1, y1, x2, y2 = wrong
    width, height = x2 - x1, y2 - y1
    lefts = [left for left in (beside[2], beside[0] - width) if 0 <= left <= 1 - width]
    tops = [top for top in (beside[3], beside[1] - height) if 0 <= top <= 1 - height]
    corners = rng.permutation([(left, top) for left in lefts for top in tops]).reshape(-1, 2)
    anywhere = rng.random((config.distractor_attempts, 2)) * [1 - width, 1 - height]
    low = np.concatenate([corners, anywhere])  # (places, 2)
    places = np.round(np.concatenate([low, np.minimum(low + np.array([width, height]), 1.0)], axis=1), config.decimals)
    touched = pairwise_iou(places, clear_of) if config.published else covered(places, clear_of)
    free = np.flatnonzero((touched < config.distractor_iou).all(axis=1))
    if not len(free):
        return None
    left, top, right, bottom = places[free[0]].tolist()
    return rounded((left, top, right, bottom), config.decimals)


def covered(places: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """The share (N, M) of each of M boxes that each of N places (N, 4) covers; never less than their IoU."""
    inner = np.asarray(boxes, dtype=np.float64)  # (M, 4)
    low = np.maximum(places[:, None, :2], inner[None, :, :2])
    high = np.minimum(places[:, None, 2:], inner[None, :, 2:])
    shared = np.clip(high - low, 0.0, None).prod(-1)
    return np.asarray(shared / np.maximum((inner[:, 2:] - inner[:, :2]).prod(-1), 1e-12))


def rounded(box: Box, decimals: int) -> Box:
    """The box with so many decimals; a side that this would leave without length is one unit of the last long."""
    unit = 10**decimals
    out: list[tuple[float, float]] = []
    for axis in (0, 1):
        low, high = round(box[axis] * unit), round(box[axis + 2] * unit)
        if high <= low:
            low = min(low, unit - 1)
            high = low + 1
        out.append((low / unit, high / unit))
    (x1, x2), (y1, y2) = out
    return x1, y1, x2, y2


def measured(areas: Sequence[Area], depth: DepthMap | None, decimals: int) -> list[Area]:
    """The areas with the mean depth of each box as it is written, rounded likewise; unchanged without a map."""
    if depth is None:
        return list(areas)
    return [
        Area(
            area.kind,
            tuple(AreaBox(bbox_2d=box, depth=round(depth.mean(box), decimals)) for box in area.xyxy),
        )
        for area in areas
    ]


def _area(kind: AreaKind, boxes: Sequence[Box]) -> Area:
    return Area(kind, tuple(AreaBox(bbox_2d=box) for box in boxes))


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _rounded(box: Box, size: Size, config: ExpansionConfig) -> Box:
    """The box as a record writes it; the published pipeline first cuts it down to whole pixels."""
    if config.published:
        width, height = size
        x1, y1, x2, y2 = box
        box = (
            math.floor(x1 * width) / width,
            math.floor(y1 * height) / height,
            math.floor(x2 * width) / width,
            math.floor(y2 * height) / height,
        )
    return rounded(box, config.decimals)


def _without_repeats(areas: list[Area], same_iou: float) -> list[Area]:
    """Areas of one box that show what the area kept before them shows are left out; the answer's always stays."""
    kept = [areas[0]]
    for area in areas[1:]:
        last = kept[-1]
        single = len(area.boxes) == len(last.boxes) == 1
        if not single or iou(area.xyxy[0], last.xyxy[0]) < same_iou:
            kept.append(area)
        elif area.kind == "whole" and last.kind != "answer":
            kept[-1] = area
    return kept
