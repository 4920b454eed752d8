"""The rows of an annotation file, one after another: a JSON array or JSON lines, whatever its size.

Only the row at hand is in memory. Which of the two a file is follows from its first character, since an array begins
with a bracket and a line with a brace.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from sifthinker.policy.errors import UsageError

MAX_ROW = 8_000_000
"""Characters of one row; a longer one is no row of a data set."""
_CHUNK = 1 << 20

Row = dict[str, Any]


class RowError(Exception):
    """A row that cannot be used: `reason` is a code, the message says what was expected and what came."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def read_rows(path: Path) -> Iterator[Row | RowError]:
    """The rows of a file in order. A line that is not an object comes as a `RowError` with the reason "json".

    Raises:
        UsageError: no such file, not UTF-8, or an array that is broken (what follows cannot be found then).
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.read(1)
            while first.isspace():
                first = file.read(1)
            if first == "[":
                yield from _array(file, path)
            elif first:
                yield from _lines(file, first)
    except OSError as error:
        raise UsageError(f"Cannot read {path} ({error.strerror}): name an annotation file.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}).") from error


def _lines(file: TextIO, first: str) -> Iterator[Row | RowError]:
    line = first + file.readline(MAX_ROW)
    while line:
        if len(line) >= MAX_ROW:
            while line and not line.endswith("\n"):
                line = file.readline(MAX_ROW)
            yield RowError("json", f"Expected a row of at most {MAX_ROW} characters, got a longer one.")
        elif line.strip():
            yield _row(line)
        line = file.readline(MAX_ROW)


def _row(line: str) -> Row | RowError:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return RowError("json", f"Expected a JSON object in one line: {error}.")
    if not isinstance(found, dict):
        return RowError("json", f"Expected a JSON object, got {type(found).__name__}.")
    return found


def _array(file: TextIO, path: Path) -> Iterator[Row | RowError]:
    """The objects of an array whose opening bracket has been read."""
    decoder = json.JSONDecoder()
    text, at, index = "", 0, 0
    while True:
        at = _skip(text, at, " \t\r\n" if index == 0 else " \t\r\n,")
        if at < len(text):
            if text[at] == "]":
                return
            try:
                found, end = decoder.raw_decode(text, at)
            except RecursionError as error:
                raise _broken(path, index, "it is nested too deeply") from error
            except ValueError as error:
                if len(text) - at > MAX_ROW:
                    raise _broken(path, index, "it has no end") from error
                cut_off = error
            else:
                index += 1
                at = end
                is_object = isinstance(found, dict)
                yield found if is_object else RowError("json", f"Expected an object, got {type(found).__name__}.")
                continue
        else:
            cut_off = None
        more = file.read(max(_CHUNK, len(text) - at))  # doubled, so that a long row is seldom read anew
        if not more:
            raise _broken(path, index, "the file ends there") from cut_off
        text, at = text[at:] + more, 0


def _skip(text: str, at: int, spaces: str) -> int:
    while at < len(text) and text[at] in spaces:
        at += 1
    return at


def _broken(path: Path, index: int, how: str) -> UsageError:
    return UsageError(f"{path} is not a JSON array: entry {index + 1} cannot be read ({how}). Fetch the file again.")
