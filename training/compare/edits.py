"""Faithfulness: changing the region that a trace cites, or one of equal size elsewhere, and asking again.

A policy that looks where it says it looks changes its answer when that place changes, and not when another does. The
cited region is the last area of its trace; the other one touches neither it nor the boxes that decide the question.
The question, its options, their order and the decoding stay the same, and the depth is told anew from the changed
picture; where it is the data's own, the same region of it is changed alike, or the object would still be seen there.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from sifthinker.nodes.depth import DepthMap
from sifthinker.nodes.images import load_image
from sifthinker.policy.boxes import Box, Size, area
from sifthinker.training.compare.controls import elsewhere
from sifthinker.training.compare.records import EditKind, Job

WHOLE_SHARE = 0.9
"""A trace that ends on a box of this share of the image cites no region."""
BLUR_SHARE = 0.25
"""Radius of the blur, as a share of the region's longer side."""
_LEAST_BLUR_PX = 4.0


@dataclass(frozen=True)
class Changed:
    """A changed picture, and the right answer to the question about it."""

    image: Image.Image
    truth: str
    decides: bool = True
    """Whether what was changed is what the question is about."""
    boxes: tuple[Box, ...] = ()
    """The regions that nothing is to be seen of any more; empty: an object looks otherwise, in its own shape."""


class CannotChange(Exception):
    """Why a picture cannot be changed as wanted: the line that stands in place of an answer."""


def changed(job: Job) -> Changed:
    """The picture of a job as its edit wants it.

    Raises:
        CannotChange: with the reason. ImageError: the picture is refused.
    """
    edit = job.edit
    if edit is None:
        raise ValueError("expected a job with an edit")
    if not edit.before:
        raise CannotChange("there was no answer that could change")
    if not edit.cited or any(area(box) >= WHOLE_SHARE for box in edit.cited):
        raise CannotChange("the trace cites no region but the whole image")
    if edit.kind == "recolour":
        from sifthinker.training.compare.recolour import recoloured

        return recoloured(job)
    image = load_image(job.image).image
    boxes: Sequence[Box] = edit.cited
    if edit.place == "elsewhere":
        rng = np.random.default_rng([job.key.seed, *f"elsewhere {job.key.question}".encode()])
        room = elsewhere(edit.cited, [*edit.cited, *job.question.boxes], rng)
        if room is None:
            raise CannotChange("there is no room for an equal region elsewhere")
        boxes = room
    return Changed(masked(image, boxes, edit.kind), job.question.answer, boxes=tuple(boxes))


def masked(image: Image.Image, boxes: Sequence[Box], kind: EditKind) -> Image.Image:
    """The RGB image with regions (normalised xyxy) in its mean colour, or blurred beyond recognition."""
    picture = image.copy()
    mean = tuple(round(float(level)) for level in np.asarray(image, dtype=np.float64).mean((0, 1)))
    for box in boxes:
        x1, y1, x2, y2 = _corners_px(box, image.size)
        if kind == "mean":
            picture.paste(mean, (x1, y1, x2, y2))
        else:
            region = picture.crop((x1, y1, x2, y2))
            radius = max(_LEAST_BLUR_PX, BLUR_SHARE * max(region.size))
            picture.paste(region.filter(ImageFilter.GaussianBlur(radius)), (x1, y1))
    return picture


def masked_depth(depth: DepthMap, boxes: Sequence[Box], kind: EditKind) -> DepthMap:
    """The depth map with the same regions at its mean, or blurred; the rest of it as it was."""
    levels = Image.fromarray((depth.array * 255).round().astype(np.uint8)).convert("RGB")
    instead = np.asarray(masked(levels, boxes, kind))[..., 0] / np.float32(255)  # (H, W)
    array = depth.array.copy()
    for box in boxes:
        x1, y1, x2, y2 = _corners_px(box, depth.size)
        array[y1:y2, x1:x2] = instead[y1:y2, x1:x2]
    return DepthMap(array, source=depth.source)


def _corners_px(box: Box, size: Size) -> tuple[int, int, int, int]:
    """The pixels that a box touches, at least one: left, top, and right and bottom, which are not of it."""
    x1, y1 = int(box[0] * size[0]), int(box[1] * size[1])
    return x1, y1, max(x1 + 1, int(np.ceil(box[2] * size[0]))), max(y1 + 1, int(np.ceil(box[3] * size[1])))


def png(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
