"""What TRL hands to a reward, in plain form: the texts of completions, their strict reading, the rows of a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from sifthinker.policy.boxes import Box, is_valid
from sifthinker.policy.errors import TraceError, UsageError
from sifthinker.policy.trace import AreaBox, Trace, parse

T = TypeVar("T")

Completion = str | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""A text, or what a chat template made of it: a message or a list of messages."""


@dataclass(frozen=True)
class Reading:
    """A trace with a text to each area, or why a text is none. Shared between rewards: not to be changed."""

    trace: Trace | None
    reason: str = ""
    """Reason code of the `TraceError`, or "text"."""
    message: str = ""

    @property
    def last(self) -> list[AreaBox]:
        """The boxes of the last area; none where there is no trace."""
        return self.trace.steps[-1].boxes if self.trace else []

    @property
    def last_boxes(self) -> tuple[Box, ...]:
        """The same without depths."""
        return tuple([box.bbox_2d for box in self.last])


@lru_cache(maxsize=4096)
def read(text: str, require_depth: bool = True) -> Reading:
    """Read a text by the strict parser; each area must have a text that says something.

    Four rewards ask for each text, so the last ones are remembered.
    """
    try:
        trace = parse(text, require_depth=require_depth)
    except TraceError as error:
        return Reading(None, error.reason, str(error))
    silent = next((number for number, step in enumerate(trace.steps, 1) if not says_something(step.text)), None)
    if silent is not None:  # or the thinking would wither away: nothing else pays for it
        return Reading(None, "text", f"The text of area {silent} is empty, or has no letter and no digit in it.")
    return Reading(trace)


def says_something(text: str) -> bool:
    """Whether a text has a letter or a digit in it: white space, points and what is not seen say nothing."""
    return any(character.isalnum() for character in text)


def readings(completions: Sequence[Completion], depth: Sequence[object] | None = None) -> list[Reading]:
    """The strict reading of each completion. A row whose `depth` is None was not asked for depths and may say none."""
    if depth is None:
        return [read(text_of(completion)) for completion in completions]
    rows = column("depth", depth, len(completions))
    return [read(text_of(one), row is not None) for one, row in zip(completions, rows, strict=True)]


def text_of(completion: Completion) -> str:
    """The text of a completion.

    Of messages, the assistant's, one after another (its turns joined are the trace). A template that took the thinking
    out of the text (`reasoning_content` or `thinking`) has it put back.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(completion, str):
        return completion
    turns: list[Any] = [completion] if isinstance(completion, Mapping) else list(completion)
    if not all(isinstance(turn, Mapping) for turn in turns):
        raise UsageError(f"Expected a completion as a text or a list of messages, got {str(completion)[:80]}.")
    return "".join([_turn(turn) for turn in turns if turn.get("role", "assistant") == "assistant"])


def _turn(turn: Mapping[str, Any]) -> str:
    content = turn.get("content") or ""
    if not isinstance(content, str):
        parts: Sequence[Any] = content if isinstance(content, Sequence) else [content]
        if not all(isinstance(part, Mapping) for part in parts):
            raise UsageError(f"Expected a message's content as a text or a list of parts, got {str(content)[:80]}.")
        content = "".join([part.get("text") or "" for part in parts])
    thinking = turn.get("reasoning_content") or turn.get("thinking")
    return f"<think>{thinking}</think>{content}" if thinking else content


def column(name: str, values: Sequence[T] | None, count: int) -> Sequence[T]:
    """A column of the batch, checked to have an entry for each completion.

    Raises:
        UsageError: it is missing, or of another length.
    """
    if values is None or isinstance(values, str) or len(values) != count:
        got = "none" if values is None else repr(values[:40]) if isinstance(values, str) else str(len(values))
        raise UsageError(f"Expected the column {name!r} with an entry for each of {count} completions, got {got}.")
    return values


def truth_boxes(boxes: Sequence[Any] | None) -> tuple[Box, ...]:
    """The boxes of a sample, normalised xyxy; entries may be objects with `bbox_2d` as well. None is no box.

    Raises:
        UsageError: one is not a box of that form. Boxes in pixels are to be converted when the data is read.
    """
    found = []
    for entry in () if boxes is None else boxes:
        numbers: Any = entry.get("bbox_2d") if isinstance(entry, Mapping) else getattr(entry, "bbox_2d", entry)
        try:
            box = tuple([float(number) for number in numbers])
        except (TypeError, ValueError):
            box = ()
        if not is_valid(box):
            raise UsageError(
                f"Expected the sample's boxes as normalised (x1, y1, x2, y2) in [0,1] with x2 > x1 and y2 > y1, got "
                f"{str(entry)[:80]}: convert them by `to_unit` where the data is read."
            )
        found.append(box)
    return tuple(found)  # type: ignore[arg-type]
