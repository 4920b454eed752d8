"""Are the boxes of a source in the space that is declared for it?

Three kinds of evidence, none of which decides for the reader; the space stays the declared one:

- read in the declared space the boxes must lie in their images and be of a visible size;
- where a row says its boxes a second time in pixels (Visual-CoT does), the two must agree;
- shares of width and height reach into every part of an image, shares of the padded square never into the padding: when
  boxes declared as the former keep to the part that the latter can reach, they are the latter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from pydantic import BaseModel, Field

from sifthinker.policy.boxes import BoxSpace, Size, hull, iou, to_unit
from sifthinker.training.data.intake import Refusal, Unreadable, opened
from sifthinker.training.data.samples import BadRow, SourceSample
from sifthinker.training.data.sources import Source

SPACES = (BoxSpace.UNIT, BoxSpace.PERMILLE, BoxSpace.PIXEL, BoxSpace.PADDED_SQUARE)
MIN_PLAUSIBLE = 0.98
"""Share of the boxes that must lie in their image, at a visible size."""
MIN_AGREEMENT = 0.9
"""Mean IoU with what a row says a second time."""
MIN_NOT_SQUARE = 30
"""Images that the third kind of evidence needs, …"""
PADDING = 0.06
"""… each with at least this share of padding on either side."""
MOST_UNREAD = 0.05
"""Share of the rows that may be no sample; more, and the file is not in the schema that is declared."""
_OWN_FAULT = ("no_boxes", "illegal_content")
"""What a file may say of many of its rows: no fault of the reading, as long as others are samples."""
_SLACK = 0.01
_VISIBLE = 0.004


class Audit(BaseModel):
    """What was found about the boxes of a source."""

    kind: str
    file: str
    declared: list[BoxSpace] = Field(description="Of the samples looked at, as the reader declares them.")
    samples: int = 0
    without_image: int = 0
    unread: dict[str, int] = Field(default_factory=dict, description="Rows that are no sample, by reason.")
    examples: dict[str, str] = Field(default_factory=dict, description="Of each reason the first row and its message.")
    not_square: int = Field(default=0, description="Images with enough padding to tell the spaces apart.")
    plausible: dict[BoxSpace, float] = Field(default_factory=dict, description="Share of boxes inside, by space.")
    agreement: dict[BoxSpace, float] = Field(
        default_factory=dict, description="Mean IoU with the second statement, by space; empty where there is none."
    )
    in_band: float | None = Field(default=None, description="Share of boxes that the padded square can reach.")
    problems: list[str] = Field(default_factory=list)


@dataclass
class _Tally:
    boxes: int = 0
    inside: dict[BoxSpace, int] = field(default_factory=lambda: dict.fromkeys(SPACES, 0))
    pairs: int = 0
    overlap: dict[BoxSpace, float] = field(default_factory=lambda: dict.fromkeys(SPACES, 0.0))
    tall_or_wide: int = 0
    in_band: int = 0
    band_boxes: int = 0

    @property
    def plausible(self) -> dict[BoxSpace, float]:
        """Share of boxes inside, by space."""
        return {space: count / self.boxes for space, count in self.inside.items()} if self.boxes else {}

    @property
    def agreement(self) -> dict[BoxSpace, float]:
        """Mean IoU with the second statement, by space."""
        return {space: total / self.pairs for space, total in self.overlap.items()} if self.pairs else {}

    def __add__(self, other: _Tally) -> _Tally:
        return _Tally(
            boxes=self.boxes + other.boxes,
            inside={space: self.inside[space] + other.inside[space] for space in SPACES},
            pairs=self.pairs + other.pairs,
            overlap={space: self.overlap[space] + other.overlap[space] for space in SPACES},
            tall_or_wide=self.tall_or_wide + other.tall_or_wide,
            in_band=self.in_band + other.in_band,
            band_boxes=self.band_boxes + other.band_boxes,
        )

    def add(self, sample: SourceSample, size: Size) -> None:
        if not all(math.isfinite(value) for box in (*sample.boxes, *sample.witness) for value in box):
            self.boxes += len(sample.boxes)  # of no use in any space
            return
        told_size = sample.annotated_size or size
        self.boxes += len(sample.boxes)
        for space in SPACES:
            boxes = to_unit(sample.boxes, space, image_size=told_size)
            self.inside[space] += sum(_plausible(box) for box in boxes)
            if sample.witness:
                self.overlap[space] += iou(hull(boxes), hull(to_unit(sample.witness, BoxSpace.PIXEL, image_size=size)))
        self.pairs += bool(sample.witness)
        padding = 0.5 - min(size) / max(size) / 2
        if padding >= PADDING and sample.space is BoxSpace.UNIT:
            axis = 1 if size[0] > size[1] else 0
            self.tall_or_wide += 1
            self.band_boxes += len(sample.boxes)
            self.in_band += sum(
                padding - _SLACK <= box[axis] and box[axis + 2] <= 1 - padding + _SLACK for box in sample.boxes
            )


def audit(source: Source, *, limit: int = 500, tick: Callable[[], None] | None = None) -> Audit:
    """Look at the boxes of the first rows of a source, in every space, with their images.

    Args:
        source: whose rows.
        limit: how many of them.
        tick: called after each.

    Raises:
        UsageError: the source's file cannot be read.
    """
    tallies: dict[BoxSpace, _Tally] = {}
    unread: Counter[str] = Counter()
    found = Audit(kind=source.config.kind, file=source.annotations.name, declared=[])
    for sample in islice(source, limit):
        if tick is not None:
            tick()
        if isinstance(sample, BadRow):
            unread[sample.reason] += 1
            found.examples.setdefault(sample.reason, f"row {sample.row_id}: {sample.message}")
            continue
        try:
            size = opened(source, sample.image)[1].size
        except (Refusal, Unreadable):
            found.without_image += 1
            continue
        found.samples += 1
        tallies.setdefault(sample.space, _Tally()).add(sample, size)
    found.declared = list(tallies)
    found.unread = dict(unread.most_common())
    tally = sum(tallies.values(), _Tally())
    found.not_square = tally.tall_or_wide
    found.plausible, found.agreement = tally.plausible, tally.agreement
    if tally.band_boxes:
        found.in_band = tally.in_band / tally.band_boxes
    found.problems = list(_judged(found, tallies))
    return found


def _judged(found: Audit, tallies: dict[BoxSpace, _Tally]) -> Iterator[str]:
    unread = sum(found.unread.values())
    rows = found.samples + found.without_image + unread
    if rows and unread == rows:
        yield f"None of {rows} rows is a sample: is the file of the kind {found.kind}?"
        return
    faults = {reason: count for reason, count in found.unread.items() if reason not in _OWN_FAULT}
    if sum(faults.values()) > MOST_UNREAD * rows:
        told = ", ".join(f"{reason} {count}" for reason, count in faults.items())
        yield f"{sum(faults.values())} of {rows} rows cannot be read ({told}): is the file of the kind {found.kind}?"
    if not found.samples:
        yield f"None of {found.without_image} images could be opened: nothing can be said about the boxes."
        return
    for space, tally in tallies.items():  # each is held to what it declares
        yield from _not_inside(tally, space)
        yield from _at_odds(tally, space)
    if found.in_band is not None and found.not_square >= MIN_NOT_SQUARE and found.in_band >= MIN_PLAUSIBLE:
        yield (
            f"On {found.not_square} images that are not square {found.in_band:.0%} of the boxes keep to the part that "
            f"a padded square can reach: they look like {BoxSpace.PADDED_SQUARE.value}, not {BoxSpace.UNIT.value}."
        )


def _not_inside(found: _Tally, space: BoxSpace) -> list[str]:
    if not found.boxes or found.plausible[space] >= MIN_PLAUSIBLE:
        return []
    better = " or ".join(one.value for one in SPACES if found.plausible[one] >= MIN_PLAUSIBLE)
    told = f"read as {better} they do" if better else "in no other space do they"
    return [f"Read as {space.value}, {found.plausible[space]:.0%} of the boxes lie in their image; {told}."]


def _at_odds(found: _Tally, space: BoxSpace) -> list[str]:
    if not found.agreement or found.agreement[space] >= MIN_AGREEMENT:
        return []
    best = max(SPACES, key=lambda one: found.agreement[one])
    told = f"read as {best.value} at {found.agreement[best]:.3f}"
    if best is space:
        told = "in no other space better: are the images in their original size?"
    return [
        f"Read as {space.value}, the boxes agree with the rows' own pixels at a mean IoU of "
        f"{found.agreement[space]:.3f}; {told}."
    ]


def _plausible(box: Sequence[float]) -> bool:
    """Inside the image but for a little, and large enough to be seen."""
    x1, y1, x2, y2 = box
    inside = min(x1, y1) >= -_SLACK and max(x2, y2) <= 1 + _SLACK and x2 > x1 and y2 > y1  # false with a NaN
    return inside and max(x2 - x1, y2 - y1) >= _VISIBLE
