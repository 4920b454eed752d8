"""The incremental parser: fed a trace piece by piece as it is generated, it tells each part as it closes.

Import from `sifthinker.policy.trace`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sifthinker.policy.boxes import BoxSpace, Size
from sifthinker.policy.trace_areas import Place, Problems, read_area
from sifthinker.policy.trace_layout import cleaned
from sifthinker.policy.trace_model import TAG, AreaBox

_TAGS = [f"<{mark}{name}>" for name in ("think", "area", "text", "answer") for mark in ("", "/")]
_BEGINNINGS = frozenset(tag[:length] for tag in _TAGS for length in range(1, len(tag)))
_LONGEST = max(map(len, _BEGINNINGS))


@dataclass(frozen=True)
class AreaEvent:
    """An area closed. `index` counts the steps from 0."""

    index: int
    boxes: list[AreaBox]


@dataclass(frozen=True)
class TextEvent:
    """A text closed: what was seen in the area of step `index`."""

    index: int
    text: str


@dataclass(frozen=True)
class AnswerEvent:
    """The answer closed."""

    answer: str


TraceEvent = AreaEvent | TextEvent | AnswerEvent


class TraceStream:
    """Reads a trace from pieces cut anywhere, in time linear in their length.

    On a text that `parse` accepts, the events are the parts of its trace, wherever the pieces are cut. On any other
    text it goes on as well as it can and never raises: boxes are read as by `parse_lenient`, areas without a box are
    passed over, and a part that is not closed ends where the next one begins.

        stream = TraceStream()
        for piece in pieces:
            for event in stream.feed(piece):
                ...
        for event in stream.close():
            ...

    Args:
        space: the space in which the policy writes boxes; events hold normalised xyxy.
        image_size: (width, height) of the upright image, where the space needs it.
        resized_size: (width, height) after the processor's resize, where the space needs it.

    Raises:
        UsageError: a size that the space needs is missing.
    """

    def __init__(
        self,
        *,
        space: BoxSpace = BoxSpace.UNIT,
        image_size: Size | None = None,
        resized_size: Size | None = None,
    ) -> None:
        self._place = Place(space, image_size, resized_size)
        self._place.check()
        self._open: str | None = None
        self._parts: list[str] = []
        self._held = ""  # the end of what was fed, where it may be the beginning of a tag
        self._index = -1
        self._closed = False

    def feed(self, piece: str) -> list[TraceEvent]:
        """The parts that a further piece of text closes, in order. After `close` nothing is read any more."""
        if self._closed:
            return []
        if self._held:
            piece = self._held + piece
            self._held = ""
        elif "<" not in piece:
            self._keep(piece)
            return []
        events: list[TraceEvent] = []
        at = 0
        for tag in TAG.finditer(piece):
            self._keep(piece[at : tag.start()])
            name = tag[0].strip("</>")
            if self._open:
                events += self._end()
            if name != "think" and not tag[0].startswith("</"):
                self._open = name
            at = tag.end()
        last = piece.rfind("<", max(at, len(piece) - _LONGEST))
        if last >= 0 and piece[last:] in _BEGINNINGS:
            self._held = piece[last:]
            self._keep(piece[at:last])
        else:
            self._keep(piece[at:])
        return events

    def close(self) -> list[TraceEvent]:
        """The text has ended: the part that stands open, if it holds anything."""
        if self._closed:
            return []
        self._keep(self._held)
        self._closed = True
        return self._end() if self._open and any(map(str.strip, self._parts)) else []

    def _keep(self, words: str) -> None:
        if self._open and words:
            self._parts.append(words)

    def _end(self) -> list[TraceEvent]:
        """The event of the part that stands open, if it makes one."""
        part, text = self._open, cleaned("".join(self._parts), Problems())
        self._open = None
        self._parts = []
        if part == "area":
            found = read_area(text, 0, len(text), self._place, Problems(), "The area")
            if not found.boxes:
                return []
            self._index += 1
            return [AreaEvent(self._index, found.boxes)]
        if part == "text":
            return [TextEvent(max(self._index, 0), text.strip())]
        return [AnswerEvent(text.strip())]
