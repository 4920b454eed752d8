"""What a source yields: a question about an image, its answer and the boxes that decide it, as the source says them."""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sifthinker.policy.boxes import BoxSpace, Size
from sifthinker.policy.errors import DataError
from sifthinker.policy.trace_model import SURROGATE, TAG
from sifthinker.training.data.rows import Row, RowError

Numbers = tuple[float, float, float, float]
"""xyxy in the space that the sample declares."""

MAX_TEXT = 8_000
"""Characters of a question or an answer."""
CONTROL = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|<(?:image|video|audio)>|</?tool_(?:response|call)>|[\x00-\x08\x0b\x0c\x0e-\x1f]"
)
"""What steers a model instead of being read: turn marks, image placeholders, control characters."""
_NO_FILE = frozenset({errno.ENOENT, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP})


class SourceSample(BaseModel):
    """A question as a source states it. Nothing is converted yet: `boxes` are in the declared `space`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row_id: str = Field(description="What the source itself calls the row.")
    dataset: str = Field(description="The data set that the row comes from: sources mix several.")
    split: str = ""
    family: str = Field(default="", description="Kind of question, where the source tells it.")
    image: str = Field(description="File name relative to the source's folder of images.")
    question: str
    answer: str
    options: tuple[str, ...] = ()
    boxes: tuple[Numbers, ...] = Field(description="The boxes that decide the question, xyxy in `space`.")
    space: BoxSpace = Field(description="Declared by the reader, never guessed.")
    labels: tuple[str, ...] = Field(default=(), description="What is in each box, where the source tells it.")
    annotated_size: Size | None = Field(default=None, description="(width, height) that the boxes are for.")
    witness: tuple[Numbers, ...] = Field(
        default=(), description="The same boxes, or their hull, said a second time in pixels: what an audit compares."
    )
    depth: str | None = Field(default=None, description="16-bit depth PNG, 0 near, beside the images.")
    text: str | None = Field(default=None, description="A trace that the source brings, in its own words.")
    depth_picture: str | None = Field(default=None, description="A picture of depth that the source brings.")


class BadRow(BaseModel):
    """A row that is no sample, and why."""

    model_config = ConfigDict(frozen=True)

    row_id: str
    reason: str
    message: str


def text_of(row: Row, key: str, *, default: str | None = None) -> str:
    """A field that must be a text, or a number taken as one; white space at its ends is left out.

    Raises:
        RowError: "text" (missing, empty, too long, half a surrogate pair), "control" (it holds what steers a model).
    """
    value = row.get(key, default)
    if type(value) is int or (isinstance(value, float) and math.isfinite(value)):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise RowError("text", f"Expected a text in {key!r}, got {_shown(value)}.")
    return checked_text(value.strip(), key)


def checked_text(text: str, name: str) -> str:
    """The text, once it is sure that it can stand in a record and in a prompt.

    Raises:
        RowError: as `text_of`.
    """
    if len(text) > MAX_TEXT:
        raise RowError("text", f"Expected at most {MAX_TEXT} characters in {name!r}, got {len(text)}.")
    if SURROGATE.search(text):
        raise RowError("text", f"Expected whole characters in {name!r}, got half a surrogate pair.")
    if found := CONTROL.search(text) or TAG.search(text):
        raise RowError("control", f"Expected plain text in {name!r}, got {found[0]!r}, which would steer the model.")
    return text


def texts_of(row: Row, key: str) -> tuple[str, ...]:
    """A field that is a list of texts, or missing.

    Raises:
        RowError: "text" or "control".
    """
    values = row.get(key) or []
    if not isinstance(values, (list, tuple)):
        raise RowError("text", f"Expected a list of texts in {key!r}, got {_shown(values)}.")
    return tuple(text_of({key: value}, key) for value in values)


def boxes_of(value: Any) -> tuple[Numbers, ...]:
    """Boxes from what a file says: a list of four numbers each. Whether they lie in the image is judged later.

    Raises:
        RowError: "no_boxes" (none), "boxes" (not four numbers each).
    """
    if value is None or value == []:
        raise RowError("no_boxes", "Expected the boxes that decide the question, got none.")
    if not isinstance(value, (list, tuple)):
        raise RowError("boxes", f"Expected a list of boxes, got {_shown(value)}.")
    return tuple(box_of(box) for box in value)


def box_of(value: Any) -> Numbers:
    """Four numbers.

    Raises:
        RowError: "boxes".
    """
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise RowError("boxes", f"Expected a box of four numbers, got {_shown(value)}.")
    try:
        x1, y1, x2, y2 = (float(number) for number in value if not isinstance(number, (bool, str)))
    except (TypeError, ValueError, OverflowError) as error:
        raise RowError("boxes", f"Expected a box of four numbers, got {_shown(value)}.") from error
    return x1, y1, x2, y2


def size_of(row: Row) -> Size | None:
    """(width, height) where a row says both.

    Raises:
        RowError: "boxes" (they are no whole positive numbers).
    """
    width, height = row.get("width"), row.get("height")
    if width is None or height is None:
        return None
    edges = [
        int(edge) for edge in (width, height) if type(edge) in (int, float) and 0 < edge < 1e6 and edge == int(edge)
    ]
    if len(edges) != 2:
        raise RowError("boxes", f"Expected width and height in pixels, got {_shown([width, height])}.")
    return edges[0], edges[1]


def inside(folder: Path, name: str, *, links: bool = False) -> Path:
    """The file of a folder that a row or record names.

    Args:
        folder: what names are relative to.
        name: with forward slashes; no drive, no leading slash, no step upwards.
        links: whether a symbolic link may lead out of the folder.

    Raises:
        DataError: the name leads out of the folder, or the system cannot look there (`fault_of` tells which).
    """
    parts = PurePosixPath(name)
    if not name or parts.is_absolute() or ".." in parts.parts or "\\" in name or ":" in name or "\0" in name:
        raise DataError(f"Expected a file name inside the data set's folder, got {_shown(name)}.")
    path = folder / parts
    try:
        path.exists()  # half a surrogate pair, or a name that no file can have
        leads_out = not links and not path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        if fault := fault_of(error):
            why = f"{_shown(name)} cannot be looked for ({fault.strerror}): is its disk there, and may it be read?"
            raise DataError(why) from error
        raise DataError(f"{_shown(name)} can be the name of no file ({type(error).__name__}): correct it.") from error
    if leads_out:
        raise DataError(f"{_shown(name)} is a link that leads out of the data set's folder: put the file itself there.")
    return path


def fault_of(error: BaseException) -> OSError | None:
    """What the system failed at, where an error comes of that: a disk, a mount, a right, too many open files.

    None where it comes of the file: there is none of that name, or it holds something else.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return None if cause.errno in _NO_FILE else cause
        cause = cause.__cause__
    return None


def short_text(row: Row, key: str, fallback: str) -> str:
    """A field that names something (a data set, a split, a family), or the fallback where it is missing."""
    value = row.get(key)
    return checked_text(value.strip(), key)[:80] if isinstance(value, str) and value.strip() else fallback


def row_name(row: Row, keys: Sequence[str], position: int) -> str:
    """What a source calls a row: the first of these fields that it has, else its position."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, (str, int)) and str(value).strip():
            return checked_text(str(value).strip(), key)[:200]
    return str(position)


def _shown(value: Any) -> str:
    """A value for a message, short."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
