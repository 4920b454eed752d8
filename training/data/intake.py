"""What a sample brings, checked: its image can be opened, and its boxes lie in it when read in their declared space."""

from __future__ import annotations

import math
from pathlib import Path

from sifthinker.nodes.images import LoadedImage, load_image
from sifthinker.policy.boxes import Box, BoxSpace, Size, area, clip, hull, iou, is_valid, to_unit
from sifthinker.policy.errors import DataError, DepthError, ImageError
from sifthinker.training.data.config import BuildConfig
from sifthinker.training.data.samples import SourceSample, fault_of, inside
from sifthinker.training.data.sources import Source

MIN_INSIDE = 0.8
"""Of a box at least this share must lie in the image; what sticks out is cut off."""
_ASPECT = 0.02


class Refusal(Exception):
    """A sample that cannot become a record: a reason to count by, and a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Unreadable(Exception):
    """A file of a sample that the system cannot read now, which says nothing about the sample: see `fault_of`."""


def refused(reason: str, error: DataError | ImageError | DepthError) -> Refusal | Unreadable:
    """What becomes of a sample one of whose files cannot be used."""
    return Unreadable(str(error)) if fault_of(error) else Refusal(reason, str(error))


def opened(source: Source, name: str) -> tuple[Path, LoadedImage]:
    """The file of a sample's image, and the image.

    Raises:
        Refusal: "outside", or "image:CODE" with a code of `ImageError`. Unreadable: the system cannot read it now.
    """
    try:
        path = inside(source.images, name, links=source.config.links)
        return path, load_image(path)
    except DataError as error:
        raise refused("outside", error) from error
    except ImageError as error:
        raise refused(f"image:{error.reason}", error) from error


def normalised(sample: SourceSample, size: Size, config: BuildConfig) -> list[Box]:
    """The boxes of a sample as normalised xyxy, once it is sure that they can be meant so.

    Raises:
        Refusal: "size" (the boxes are for an image of another shape), "outside_image", "too_small", "too_many", or
            "box_space" (the sample says its boxes twice, and the two disagree).
    """
    annotated = sample.annotated_size
    if annotated is not None and abs(annotated[0] * size[1] / (annotated[1] * size[0]) - 1) > _ASPECT:
        raise Refusal(
            "size", f"The boxes are for an image of {annotated[0]} × {annotated[1]}, but it is {size[0]} × {size[1]}."
        )
    if len(sample.boxes) > config.max_boxes:
        raise Refusal("too_many", f"Expected at most {config.max_boxes} boxes, got {len(sample.boxes)}.")
    shown = annotated if annotated is not None and sample.space is BoxSpace.PIXEL else size
    boxes = [_inside_image(box, sample) for box in to_unit(sample.boxes, sample.space, image_size=shown)]
    for x1, y1, x2, y2 in boxes:
        if min((x2 - x1) * size[0], (y2 - y1) * size[1]) < config.min_box_px:
            raise Refusal("too_small", f"Expected boxes of at least {config.min_box_px:g} pixels a side.")
    if sample.witness:
        said = to_unit(sample.witness, BoxSpace.PIXEL, image_size=size)
        agreement = iou(hull(boxes), hull(said))
        if not agreement >= config.min_witness_iou:  # also with a NaN
            raise Refusal(
                "box_space",
                f"The box read as {sample.space.value} and the row's own pixels have an IoU of {agreement:.2f} on an "
                f"image of {size[0]} × {size[1]}: is this the image in its original size?",
            )
    return boxes


def _inside_image(box: Box, sample: SourceSample) -> Box:
    if all(math.isfinite(value) for value in box) and area(box) > 0:
        kept = clip(box)
        if is_valid(kept) and area(kept) >= MIN_INSIDE * area(box):
            return kept
    shown = ", ".join(f"{value:.3g}" for value in box)
    raise Refusal(
        "outside_image",
        f"A box read as {sample.space.value} is ({shown}) of width and height, which is not in the image: are the "
        "boxes in another space?",
    )
