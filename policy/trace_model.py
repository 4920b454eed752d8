"""The trace as data, its tags, and how it is written. Import these names from `sifthinker.policy.trace`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sifthinker.policy.boxes import Box, BoxSpace, Size, from_unit, is_valid
from sifthinker.policy.errors import TraceError

TAG = re.compile(r"</?(?:think|area|text|answer)>")
"""The tags of the grammar. Neither a text nor an answer may hold one."""

SURROGATE = re.compile(r"[\ud800-\udfff]")
"""Half a UTF-16 pair: a character that no file and no terminal can hold."""


def _valid(box: Box) -> Box:
    if not is_valid(box):
        raise ValueError(f"expected (x1, y1, x2, y2) in [0,1] with x2 > x1 and y2 > y1, got {box}")
    return box


class AreaBox(BaseModel):
    """A box of an area, with what the policy holds its depth to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bbox_2d: Annotated[Box, AfterValidator(_valid)] = Field(description="Normalised xyxy.")
    depth: float | None = Field(default=None, ge=0.0, le=1.0, description="0 near, 1 far; None: not said.")


class Step(BaseModel):
    """An area and what was seen there."""

    model_config = ConfigDict(extra="forbid")

    boxes: list[AreaBox] = Field(description="The boxes of the area, at least one where a parser made the step.")
    text: str = Field(default="", description="What the policy wrote about the area.")


class Trace(BaseModel):
    """The parsed reasoning: steps, then the answer."""

    model_config = ConfigDict(extra="forbid")

    steps: list[Step]
    answer: str


def render(
    trace: Trace,
    *,
    decimals: int = 3,
    space: BoxSpace = BoxSpace.UNIT,
    image_size: Size | None = None,
    resized_size: Size | None = None,
) -> str:
    """A trace in its one canonical spelling: no white space between the tags, texts and answer stripped.

    `parse(render(trace))` is the trace, its numbers rounded to `decimals`. See `render_boxes` for the arguments.

    Raises:
        TraceError: the trace cannot be written: no step, a step without a box, a tag in a text or in the answer, half
            a surrogate pair, or an empty answer. `offset` is the index of the step (the number of steps: the answer).
    """
    if not trace.steps:
        raise TraceError("steps", 0, "expected at least one step in the trace, got none")
    parts = ["<think>"]
    for index, step in enumerate(trace.steps):
        if not step.boxes:
            raise TraceError("no_box", index, f"expected at least one box in step {index + 1}, got none")
        boxes = render_boxes(
            step.boxes, decimals=decimals, space=space, image_size=image_size, resized_size=resized_size
        )
        parts += ["<area>", boxes, "</area><text>", _writable(step.text, index, f"text {index + 1}"), "</text>"]
    answer = _writable(trace.answer, len(trace.steps), "the answer")
    if not answer:
        raise TraceError("answer", len(trace.steps), "expected an answer, got an empty one")
    return "".join([*parts, "</think><answer>", answer, "</answer>"])


def render_boxes(
    boxes: Sequence[AreaBox],
    *,
    decimals: int = 3,
    space: BoxSpace = BoxSpace.UNIT,
    image_size: Size | None = None,
    resized_size: Size | None = None,
) -> str:
    """The JSON list of an area, without white space: `[{"bbox_2d":[0.120,0.340,0.560,0.780],"depth":0.410}]`.

    Every number has exactly `decimals` decimals, so that a value has one spelling. A box that rounding would leave
    without width or height is widened by one unit of the last decimal. A depth that is None is left out.

    Args:
        boxes: what to write.
        decimals: of each coordinate and each depth. In a space other than UNIT coordinates have none in PERMILLE,
            PIXEL and RESIZED (whole numbers), and depths keep `decimals`.
        space: the space to write the boxes in; the sizes are those that `from_unit` needs.
    """
    whole = space in (BoxSpace.PERMILLE, BoxSpace.PIXEL, BoxSpace.RESIZED)
    digits = 0 if whole else decimals
    limits = from_unit([(0.0, 0.0, 1.0, 1.0)], space, image_size=image_size, resized_size=resized_size)[0]
    parts = []
    for box in boxes:
        x1, y1, x2, y2 = from_unit([box.bbox_2d], space, image_size=image_size, resized_size=resized_size)[0]
        left, right = _spelt(x1, x2, limits[0], limits[2], digits)
        top, bottom = _spelt(y1, y2, limits[1], limits[3], digits)
        depth = "" if box.depth is None else f',"depth":{_number(round(box.depth * 10**decimals), decimals)}'
        parts.append(f'{{"bbox_2d":[{left},{top},{right},{bottom}]{depth}}}')
    return "[" + ",".join(parts) + "]"


def _spelt(low: float, high: float, least: float, most: float, decimals: int) -> tuple[str, str]:
    """Two ends of an extent, rounded and still apart; the end that moved is the one nearer to its true place."""
    unit = 10**decimals
    first, last = round(low * unit), round(high * unit)
    if first == last:
        up = (low + high) * unit >= 2 * first
        if last + 1 > most * unit:
            up = False
        elif first - 1 < least * unit:
            up = True
        first, last = (first, last + 1) if up else (first - 1, last)
    return _number(first, decimals), _number(last, decimals)


def _number(units: int, decimals: int) -> str:
    return f"{units / 10**decimals:.{decimals}f}"


def _writable(text: str, index: int, name: str) -> str:
    text = text.strip()
    if found := TAG.search(text):
        raise TraceError("nested", index, f"expected no tag of the trace in {name}, got {found[0]}")
    if SURROGATE.search(text):
        raise TraceError("surrogate", index, f"expected whole characters in {name}, got half a surrogate pair")
    return text
