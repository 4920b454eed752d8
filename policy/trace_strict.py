"""The strict parser: a text is a trace, or it is not, and then why and where.

One pass from left to right, each character looked at a bounded number of times. Import from `sifthinker.policy.trace`.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from sifthinker.policy.boxes import is_valid
from sifthinker.policy.errors import TraceError
from sifthinker.policy.trace_model import SURROGATE, TAG, AreaBox, Step, Trace

WHITE = " \t\r\n"
"""What may stand between the tags, and in the JSON of an area."""
SPACE = re.compile(rf"[{WHITE}]*")
# Possessive in the digits, so that a failed match is never tried again with fewer. ASCII digits only. No group is
# possessive here or elsewhere: up to CPython 3.11.4 such a group, where it fails, keeps what it had read (gh-106052).
NUMBER = re.compile(r"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?+[0-9]++)?(?![0-9.eE+\-])")
WORD = re.compile(r"[^\s,:\[\]{}<]{1,40}")
KEY = re.compile(r'"([^"\\<\n]{0,40})"')
_S = r"[ \t\r\n]*+"
_N = r"(-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?+[0-9]++)?)"
_QUAD = rf"\[{_S}" + rf"{_S},{_S}".join([_N] * 4) + rf"{_S}\]"
OBJECT = re.compile(rf'{_S}\{{{_S}"bbox_2d"{_S}:{_S}{_QUAD}{_S}(?:,{_S}"depth"{_S}:{_S}{_N}{_S})?\}}')
"""An object as it is nearly always written: read at once. Anything else is walked through, to say what is wrong."""


class RawBox(NamedTuple):
    """An object of an area as it was written: numbers in whatever space, not yet judged."""

    numbers: tuple[float, float, float, float]
    depth: float | None
    offset: int
    offsets: tuple[int, ...]
    """Where each of the four numbers begins."""
    depth_offset: int


def parse(text: str, *, require_depth: bool = True) -> Trace:
    """The trace that the whole of a text is.

    White space (space, tab, line breaks) may stand between the tags and inside the JSON; texts and answer come
    stripped. Time is linear in the length of the text.

    Args:
        text: `<think>` (`<area>`JSON`</area><text>`…`</text>`)+ `</think><answer>`…`</answer>`, boxes normalised xyxy.
        require_depth: False accepts boxes that say no depth (policies that are not asked for it).

    Raises:
        TraceError: with the offset in characters and one of the reasons
            "empty" (nothing but white space), "tag" (another tag was expected), "outside" (text outside the tags),
            "unclosed" (the text ends inside a tag), "nested" (a tag inside an area, text or answer), "steps" (no area),
            "json" (an area is not a list of objects), "keys" (an object has not exactly the keys bbox_2d and depth),
            "no_box" (an empty area), "number" (not a finite decimal number), "range" (a number outside [0,1]),
            "order" (x2 ≤ x1 or y2 ≤ y1), "depth" (no depth), "answer" (an empty answer), "surrogate" (half a
            surrogate pair).
    """
    if found := SURROGATE.search(text):
        raise TraceError(
            "surrogate", found.start(), f"expected whole characters, got half a surrogate pair at {found.start()}"
        )
    at = skip_space(text, 0)
    if at == len(text):
        raise TraceError("empty", at, "expected a trace, got no text")
    at = _tag(text, at, "<think>")
    steps: list[Step] = []
    while True:
        at = skip_space(text, at)
        if steps and text.startswith("</think>", at):
            break
        if text.startswith("</think>", at):
            raise TraceError("steps", at, f"expected at least one <area> before </think>, got none at {at}")
        at = _tag(text, at, "<area>")
        raw, at = scan_area(text, at)
        at = _tag(text, at, "</area>", reason="json")
        boxes = [judged(box, require_depth=require_depth) for box in raw]
        at = _tag(text, at, "<text>")
        content, at = _until(text, at, "</text>")
        steps.append(Step(boxes=boxes, text=content))
    at = _tag(text, at, "</think>")
    at = _tag(text, at, "<answer>")
    start = at
    answer, at = _until(text, at, "</answer>")
    if not answer:
        raise TraceError("answer", start, f"expected an answer, got an empty one at {start}")
    at = skip_space(text, at)
    if at < len(text):
        raise TraceError("outside", at, f"expected nothing after </answer>, got {seen(text, at)} at {at}")
    return Trace(steps=steps, answer=answer)


def last_area_strict(text: str, *, require_depth: bool = True) -> list[AreaBox]:
    """The boxes of the last area of an unfinished span (tool mode stops it after `</area>`), by the rules of `parse`.

    What stands before the area is not judged.

    Raises:
        TraceError: there is no area, or the last one breaks the grammar; reasons as in `parse`.
    """
    opened = text.rfind("<area>")
    if opened < 0:
        raise TraceError("steps", len(text), "expected an <area> in the text, got none")
    raw, at = scan_area(text, opened + len("<area>"))
    at = skip_space(text, _tag(text, at, "</area>", reason="json"))
    if at < len(text):
        raise TraceError("outside", at, f"expected nothing after </area>, got {seen(text, at)} at {at}")
    return [judged(box, require_depth=require_depth) for box in raw]


def judged(raw: RawBox, *, require_depth: bool) -> AreaBox:
    """A box as written, as a box of the inner form.

    Raises:
        TraceError: "number", "range", "order" or "depth".
    """
    named = [*zip(("x1", "y1", "x2", "y2"), raw.numbers, raw.offsets, strict=True)]
    if raw.depth is not None:
        named.append(("depth", raw.depth, raw.depth_offset))
    for name, value, offset in named:
        if not math.isfinite(value):
            raise TraceError("number", offset, f"expected a finite number for {name}, got {value} at {offset}")
        if not 0.0 <= value <= 1.0:
            raise TraceError("range", offset, f"expected {name} in [0,1], got {value:g} at {offset}")
    if not is_valid(raw.numbers):
        x1, y1, x2, y2 = raw.numbers
        raise TraceError(
            "order",
            raw.offset,
            f"expected x2 > x1 and y2 > y1, got [{x1:g}, {y1:g}, {x2:g}, {y2:g}] at {raw.offset}",
        )
    if require_depth and raw.depth is None:
        raise TraceError("depth", raw.offset, f"expected the key depth beside bbox_2d at {raw.offset}")
    return AreaBox(bbox_2d=raw.numbers, depth=raw.depth)


def scan_area(text: str, at: int) -> tuple[list[RawBox], int]:
    """The JSON list of an area from `at` on, and the offset after it. Numbers are read, not judged.

    Raises:
        TraceError: "json", "keys", "number", "no_box", "nested" or "unclosed".
    """
    at = _mark(text, at, "[")
    boxes: list[RawBox] = []
    if text.startswith("]", skip_space(text, at)):
        raise TraceError("no_box", at, f"expected at least one box in the area, got none at {at}")
    while True:
        box, at = _scan_object(text, at)
        boxes.append(box)
        at = skip_space(text, at)
        if text.startswith(",", at):
            at += 1
            continue
        return boxes, _mark(text, at, "]")


def _scan_object(text: str, at: int) -> tuple[RawBox, int]:
    if found := OBJECT.match(text, at):
        x1, y1, x2, y2, said = (None if one is None else float(one) + 0.0 for one in found.groups())
        opened = text.index("{", at)
        return (
            RawBox(
                (x1, y1, x2, y2),  # type: ignore[arg-type]
                said,
                opened,
                (found.start(1), found.start(2), found.start(3), found.start(4)),
                found.start(5),
            ),
            found.end(),
        )
    at = _mark(text, at, "{")
    opened = at - 1
    numbers: list[tuple[float, int]] | None = None
    depth: tuple[float, int] | None = None
    while True:
        at = skip_space(text, at)
        key = KEY.match(text, at)
        if key is None:
            raise _wrong(text, at, '"bbox_2d" or "depth"')
        if key[1] not in ("bbox_2d", "depth"):
            raise TraceError("keys", at, f"expected the keys bbox_2d and depth, got {key[0]} at {at}")
        if (numbers if key[1] == "bbox_2d" else depth) is not None:
            raise TraceError("keys", at, f"expected each key once, got {key[0]} again at {at}")
        at = _mark(text, key.end(), ":")
        if key[1] == "depth":
            value, offset, at = _scan_number(text, at)
            depth = (value, offset)
        else:
            at = _mark(text, at, "[")
            numbers = []
            for index in range(4):
                at = _mark(text, at, ",") if index else at
                value, offset, at = _scan_number(text, at)
                numbers.append((value, offset))
            at = _mark(text, at, "]")
        at = skip_space(text, at)
        if text.startswith(",", at):
            at += 1
            continue
        end = _mark(text, at, "}")
        if numbers is None:
            raise TraceError("keys", opened, f"expected the key bbox_2d in the object at {opened}")
        (x1, a), (y1, b), (x2, c), (y2, d) = numbers
        said = depth[0] if depth else None
        return RawBox((x1, y1, x2, y2), said, opened, (a, b, c, d), depth[1] if depth else -1), end


def _scan_number(text: str, at: int) -> tuple[float, int, int]:
    """A JSON number: its value, where it begins, and the offset after it."""
    at = skip_space(text, at)
    found = NUMBER.match(text, at)
    if found is None:
        if at < len(text) and not TAG.match(text, at) and text[at] not in ",:[]{}":
            raise TraceError("number", at, f"expected a decimal number, got {seen(text, at)} at {at}")
        raise _wrong(text, at, "a number")
    return float(found[0]) + 0.0, at, found.end()  # + 0.0 makes of -0.0 a plain zero


def skip_space(text: str, at: int) -> int:
    """The offset after the white space at `at`."""
    if text[at : at + 1] not in WHITE:
        return at
    found = SPACE.match(text, at)
    return found.end() if found else at


def seen(text: str, at: int) -> str:
    """What stands at an offset, short enough for a message."""
    if at >= len(text):
        return "the end of the text"
    found = TAG.match(text, at) or WORD.match(text, at)
    return repr(found[0] if found else text[at])


def _mark(text: str, at: int, mark: str) -> int:
    """The offset after a required bracket, comma or colon."""
    at = skip_space(text, at)
    if not text.startswith(mark, at):
        raise _wrong(text, at, repr(mark))
    return at + 1


def _wrong(text: str, at: int, expected: str) -> TraceError:
    if at >= len(text):
        return TraceError("unclosed", at, f"expected {expected}, got the end of the text at {at}")
    reason = "nested" if TAG.match(text, at) else "json"
    return TraceError(reason, at, f"expected {expected} in the area, got {seen(text, at)} at {at}")


def _tag(text: str, at: int, tag: str, *, reason: str = "outside") -> int:
    """The offset after a required tag, before which only white space may stand."""
    at = skip_space(text, at)
    if text.startswith(tag, at):
        return at + len(tag)
    if at >= len(text):
        raise TraceError("unclosed", at, f"expected {tag}, got the end of the text at {at}")
    if TAG.match(text, at):
        reason = "tag"
    raise TraceError(reason, at, f"expected {tag}, got {seen(text, at)} at {at}")


def _until(text: str, at: int, tag: str) -> tuple[str, int]:
    """What stands before the required closing tag, stripped, and the offset after it."""
    found = TAG.search(text, at)
    if found is None:
        raise TraceError("unclosed", len(text), f"expected {tag}, got the end of the text at {len(text)}")
    if found[0] != tag:
        raise TraceError("nested", found.start(), f"expected {tag}, got {found[0]} at {found.start()}")
    return text[at : found.start()].strip(), found.end()
