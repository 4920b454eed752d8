"""Boxes in whatever way a model wrote them: what the lenient parser and the stream read the areas with.

A box is found as a list of four numbers; the depth and label beside it are looked up in the braces around it. Every
pattern is bounded or possessive, so that time is linear in the length of the text whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import TypeVar

from sifthinker.policy.boxes import WHOLE, Box, BoxSpace, Size, clip, to_unit
from sifthinker.policy.errors import TraceError
from sifthinker.policy.trace_model import AreaBox
from sifthinker.policy.trace_strict import scan_area, skip_space

_S = r"[ \t\r\n]{0,30}+"
_N = r"[-+]?+(?:[0-9]{1,60}+(?:\.[0-9]{0,60}+)?|\.[0-9]{1,60}+)(?:[eE][-+]?+[0-9]{1,9}+)?"
_VALUE = rf"[\"']?+({_N}|[-+]?+(?:nan|inf(?:inity)?|null|none))[\"']?+"
QUAD = re.compile(
    rf"[\[(]{_S}(?:[\[(]{_S})?{_VALUE}{_S},{_S}{_VALUE}{_S}(?:[\])]{_S})?,"
    rf"{_S}(?:[\[(]{_S})?{_VALUE}{_S},{_S}{_VALUE}{_S}[\])]",
    re.IGNORECASE | re.ASCII,
)
"""`[a, b, c, d]`, `(a, b, c, d)`, `[[a, b], [c, d]]` and `(a, b), (c, d)`, the numbers in quotes or not."""
_COMMA = rf"(?:{_S}[,;]{_S}|[ ])"
BARE_NUMBERS = re.compile(_S + _COMMA.join([_VALUE] * 4) + _S, re.IGNORECASE | re.ASCII)
"""Four numbers and nothing else, without brackets."""
DEPTH = re.compile(rf"[\"']?+\bdepth[\"']?+{_S}[:=]{_S}{_VALUE}", re.IGNORECASE | re.ASCII)
LABEL = re.compile(
    r"[\"'](?:label|name|object|description)[\"']\s{0,9}+:\s{0,9}+(?:\"([^\"\n]{1,200}+)\"|'([^'\n]{1,200}+)')"
)
BRACKET = re.compile(r"[\[\]{}]")
BETWEEN_BOXES = re.compile(r"(?:[\s,;]++|`{3}[a-zA-Z]{0,20}+)*")

T = TypeVar("T")

MOST_BOXES = 1000
"""Boxes of one area that are read."""
FAR = 0.5
"""How far outside the image, in widths or heights, a box may reach and still be clipped."""
SLACK = 1e-6
"""What a conversion's rounding may put outside the image without it being worth a word."""


class Problems:
    """What was wrong with a text, each a plain sentence, told once with its count; a flood is cut short."""

    MOST = 20

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._left_out = 0

    def add(self, sentence: str) -> None:
        """Note a problem."""
        if sentence in self._count or len(self._count) < self.MOST:
            self._count[sentence] = self._count.get(sentence, 0) + 1
        else:
            self._left_out += 1

    def __bool__(self) -> bool:
        return bool(self._count)

    def sentences(self) -> list[str]:
        """All of them, in the order in which they were met."""
        told = [text if count == 1 else f"{text} ({count} times)" for text, count in self._count.items()]
        return told if not self._left_out else [*told, f"There were {self._left_out} further problems."]


@dataclass(frozen=True)
class Place:
    """The declared space of a text's boxes, with the sizes that it needs."""

    space: BoxSpace = BoxSpace.UNIT
    image_size: Size | None = None
    resized_size: Size | None = None

    def check(self) -> None:
        """Raise UsageError when a size that the space needs is missing."""
        self.to_unit(WHOLE)

    def to_unit(self, numbers: Sequence[float]) -> Box:
        """A box of the space as normalised xyxy."""
        if self.space == BoxSpace.UNIT:
            x1, y1, x2, y2 = numbers
            return x1, y1, x2, y2
        return to_unit([numbers], self.space, image_size=self.image_size, resized_size=self.resized_size)[0]


@dataclass
class Found:
    """The boxes of one area, and the labels that stood beside them."""

    boxes: list[AreaBox] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


def read_area(text: str, start: int, end: int, place: Place, problems: Problems, name: str) -> Found:
    """What stands in an area, `text[start:end]`. `name` says which area it is ("Area 2"), for the problems."""
    if skip_space(text, start) >= end:
        problems.add(f"{name} is empty.")
        return Found()
    try:
        raw, at = scan_area(text, start)
        if skip_space(text, at) == end:
            first = _first(raw, problems, name)
            inner = [_inner(box.numbers, box.depth, place, problems, name) for box in first]
            return Found([box for box in inner if box is not None])
        wrong = "something stands after the list"
    except TraceError as error:
        wrong = str(error)
    quads = list(QUAD.finditer(text, start, end))
    if not quads and (bare := BARE_NUMBERS.fullmatch(text, start, end)):
        quads = [bare]
    if not quads:
        problems.add(f"{name} holds no box that can be read: {wrong}.")
        return Found()
    problems.add(f"{name} is not written as asked: {wrong}.")
    return read_quads(text, quads, start, end, place, problems, name)


def read_quads(
    text: str, quads: Sequence[re.Match[str]], start: int, end: int, place: Place, problems: Problems, name: str
) -> Found:
    """The boxes at the given lists of four, with depth and label from the braces around each."""
    found = Found()
    before = start
    quads = _first(quads, problems, name)
    for index, quad in enumerate(quads):
        after = quads[index + 1].start() if index + 1 < len(quads) else end
        depth = None
        opened = text.rfind("{", before, quad.start())
        if opened >= 0:
            closed = text.find("}", quad.end(), after)
            closed = after if closed < 0 else closed
            said = DEPTH.search(text, opened, closed)
            depth = number(said[1]) if said else None
            if label := LABEL.search(text, opened, closed):
                found.labels.append((label[1] or label[2]).strip())
        box = _inner([number(value) for value in quad.groups()], depth, place, problems, name)
        if box is not None:
            found.boxes.append(box)
        before = quad.end()
    return found


def _first(boxes: Sequence[T], problems: Problems, name: str) -> Sequence[T]:
    """No more boxes than an area may hold."""
    if len(boxes) > MOST_BOXES:
        problems.add(f"{name} holds more than {MOST_BOXES} boxes; the rest was left out.")
    return boxes[:MOST_BOXES]


def find_groups(
    text: str, start: int, end: int, *, most: int | None = None
) -> list[tuple[int, int, list[re.Match[str]]]]:
    """Boxes in prose, `text[start:end]`: (start, end, lists of four) of each group that stands in one piece.

    A group is the whole bracketed structure around its boxes (a JSON list, an object, a tool call), so that what is
    left of the prose once the groups are cut out reads as prose. Neighbouring structures are one group.

    Args:
        text, start, end: where to look.
        most: look no further once there are more groups than so many; the last one may then be cut short.
    """
    if QUAD.search(text, start, end) is None:
        return []
    spans = _structures(text, start, end)
    span = next(spans, None)
    groups: list[tuple[int, int, list[re.Match[str]]]] = []
    for quad in QUAD.finditer(text, start, end):
        begin, stop = quad.span()
        while span is not None and span[1] <= begin:
            span = next(spans, None)
        if span is not None and span[0] <= begin:
            begin, stop = span[0], max(stop, span[1])
        if groups and (begin < groups[-1][1] or BETWEEN_BOXES.fullmatch(text, groups[-1][1], begin)):
            first, last, members = groups[-1]
            groups[-1] = (first, max(last, stop), members)
            members.append(quad)
        else:
            if most is not None and len(groups) > most:
                break
            groups.append((begin, stop, [quad]))
    return groups


def _structures(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The outermost bracketed stretches of a text; one that never closes (cut off) reaches to the end."""
    depth = opened = 0
    for bracket in BRACKET.finditer(text, start, end):
        if bracket[0] in "[{":
            if depth == 0:
                opened = bracket.start()
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                yield opened, bracket.end()
    if depth:
        yield opened, end


def number(written: str) -> float:
    """A number as written, NaN for what is not one."""
    try:
        return float(written)
    except ValueError:
        return nan


def _inner(
    numbers: Sequence[float], depth: float | None, place: Place, problems: Problems, name: str
) -> AreaBox | None:
    """Numbers of the declared space as a box of the inner form, or None where they are no box."""
    x1, y1, x2, y2 = place.to_unit(numbers)
    if not (isfinite(x1) and isfinite(y1) and isfinite(x2) and isfinite(y2)):
        problems.add(f"{name}: the box {_told(numbers)} was left out, because not all its numbers are finite.")
        return None
    if x1 > x2 or y1 > y2:
        problems.add(f"{name}: the corners of the box {_told(numbers)} were swapped.")
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    over = max(-x1, -y1, x2 - 1, y2 - 1)  # how far it reaches outside
    if over > FAR:
        problems.add(
            f"{name}: the box {_told(numbers)} was left out, because it reaches far outside the image if read as "
            f"{place.space.value!r} (is that the space in which the policy writes?)."
        )
        return None
    if over > 0:
        if over > SLACK or place.space == BoxSpace.UNIT:
            problems.add(f"{name}: the box {_told(numbers)} was clipped to the image.")
        x1, y1, x2, y2 = clip((x1, y1, x2, y2))
    if not (x1 < x2 and y1 < y2):
        problems.add(f"{name}: the box {_told(numbers)} was left out, because it covers nothing of the image.")
        return None
    if depth is not None and not 0.0 <= depth <= 1.0:
        if isfinite(depth):
            problems.add(f"{name}: the depth {depth:g} was clipped to [0,1].")
            depth = min(max(depth, 0.0), 1.0)
        else:
            problems.add(f"{name}: the depth {depth} was left out, because it is not a finite number.")
            depth = None
    return AreaBox(bbox_2d=(x1, y1, x2, y2), depth=depth)


def _told(numbers: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in numbers) + "]"
