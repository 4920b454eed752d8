"""The answers so far, on disk: a line each, there before the next is asked for, whatever happens to the process.

answers.jsonl   a line an answer, in the order in which they came
run.json        what the answers are answers to: data, policies, decoding; another run of the folder must fit
lock            the number of the process that works in the folder
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, overload

from pydantic import ValidationError

from sifthinker.policy.errors import DataError, UsageError
from sifthinker.policy.files import sync_folder, write_whole
from sifthinker.training.compare.adaptive import RULE_SETTINGS
from sifthinker.training.compare.records import Answered, Key
from sifthinker.training.folders import locked, unwritable

ANSWERS = "answers.jsonl"
RUN = "run.json"


class Rows(Sequence[Answered]):
    """The answers in a file, in the order in which they came. Only their places are held: every look reads the file.

    Args:
        path: `answers.jsonl`.
        starts: where the lines begin, in bytes.
    """

    def __init__(self, path: Path, starts: array[int]) -> None:
        self.path = path
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Answered]:
        """All of them, read one after another.

        Raises:
            DataError: the file was changed meanwhile, or is gone.
        """
        try:
            with self.path.open("rb") as file:
                for start in self._starts:
                    file.seek(start)
                    yield Answered.model_validate_json(file.readline())
        except (OSError, ValidationError) as error:
            raise DataError(f"{self.path} cannot be read any more ({error}): restore it.") from error

    @overload
    def __getitem__(self, index: int) -> Answered: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Answered | Rows:
        if isinstance(index, slice):
            return Rows(self.path, self._starts[index])
        return next(iter(self.picked([index])))

    def picked(self, numbers: Iterable[int]) -> Rows:
        """The answers of these numbers, in this order."""
        return Rows(self.path, array("Q", (self._starts[number] for number in numbers)))


_Way = tuple[str, int, str, str, str]
"""Policy, seed, mode, control and variant: what many keys share."""


class _Index:
    """Which answers stand in a file, and where: some hundred bytes an answer, however long it is."""

    def __init__(self) -> None:
        self.starts: array[int] = array("Q")
        self._numbers: dict[_Way, dict[str, int]] = {}

    def number(self, key: Key) -> int | None:
        """Which answer is that of a key, from 0; None: it was not given."""
        return self._numbers.get(_way(key), {}).get(key.question)

    def add(self, key: Key, start: int) -> None:
        """Know one more; the first answer of a key stays."""
        numbers = self._numbers.setdefault(_way(key), {})
        if key.question not in numbers:
            numbers[key.question] = len(self.starts)
            self.starts.append(start)

    def sorted(self) -> Iterator[int]:
        """The numbers of all answers by policy, question, seed, mode, control and variant."""
        for policy in sorted({way[0] for way in self._numbers}):
            numbers = [self._numbers[way] for way in sorted(self._numbers) if way[0] == policy]
            for question in sorted(set().union(*numbers)):
                yield from (found[question] for found in numbers if question in found)


def _way(key: Key) -> _Way:
    return key.policy, key.seed, key.mode, key.control, key.variant


class Journal:
    """The answers of a folder. To be used from one thread, in the process that has locked the folder."""

    def __init__(self, folder: Path, file: BinaryIO, index: _Index, *, repaired: bool) -> None:
        self.folder = folder
        self.repaired = repaired
        """Whether the last line was torn, and was cut off: that question is asked again."""
        self._index = index
        self._file = file
        self._end = file.seek(0, os.SEEK_END)

    def __contains__(self, key: Key) -> bool:
        return self._index.number(key) is not None

    def __len__(self) -> int:
        return len(self._index.starts)

    def get(self, key: Key) -> Answered | None:
        """The answer of a key, if it was given."""
        number = self._index.number(key)
        return None if number is None else self.rows()[number]

    def rows(self) -> Rows:
        """All answers so far, in the order in which they came."""
        return Rows(self.folder / ANSWERS, self._index.starts[:])

    def sorted_rows(self) -> Rows:
        """All answers so far by policy, question, seed, mode, control and variant, whatever order they came in."""
        return self.rows().picked(self._index.sorted())

    def add(self, row: Answered) -> None:
        """Keep an answer: after this no broken-off run loses it.

        Raises:
            DataError: the disk is full, or the folder cannot be written any more.
        """
        if row in self:
            return
        line = row.model_dump_json(exclude_defaults=True).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(error, self.folder, f"{len(self)} answers are kept. ") from error
        self._index.add(row, self._end)
        self._end += len(line)


@contextmanager
def opened(folder: Path, run: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal of a folder, for this process alone.

    Args:
        folder: made where it is not there.
        run: what the answers depend on, as plain data. A folder that holds answers must hold the same.

    Raises:
        UsageError: another process works in the folder, or its answers are to something else.
        DataError: a line in the middle cannot be read, or the folder cannot be written.
    """
    try:
        with locked(folder, doing="comparing"):
            index, good, torn = _read(folder / ANSWERS)
            both = _agreed(folder, run, answered=len(index.starts))
            write_whole(folder / RUN, lambda part: part.write_text(_plain(both), encoding="utf-8"))
            if torn:
                os.truncate(folder / ANSWERS, good)
            with (folder / ANSWERS).open("ab") as file:
                sync_folder(folder)
                yield Journal(folder, file, index, repaired=torn)
    except OSError as error:
        raise unwritable(error, folder) from error


def _read(path: Path) -> tuple[_Index, int, bool]:
    """Which answers there are, the length of what is whole, and whether the last line was torn."""
    index = _Index()
    good = 0
    if not path.exists():
        return index, good, False
    size = path.stat().st_size
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = Answered.model_validate_json(line)
            except ValidationError as error:
                if good + len(line) < size:
                    raise DataError(
                        f"{path}, line {number} cannot be read, and it is not the last: the file was changed. Restore "
                        "it, or name another folder."
                    ) from error
                return index, good, True
            if not line.endswith(b"\n"):
                return index, good, True
            index.add(row, good)
            good += len(line)
    return index, good, False


def _agreed(folder: Path, run: Mapping[str, Any], *, answered: int) -> Mapping[str, Any]:
    """What the folder's answers are answers to, with what this run adds: further policies, mode adaptive's rule.

    Of a policy what both say must be the same: the rule is said only where mode adaptive is asked, and folders of
    earlier versions say less.
    """
    path = folder / RUN
    if not answered or not path.is_file():
        return run
    try:
        before = _as_now(json.loads(path.read_text(encoding="utf-8")))
        known = dict(before["policies"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({error}): restore it, or name another folder.") from error
    now = json.loads(_plain(run))
    asked: dict[str, dict[str, Any]] = now["policies"]
    now["policies"] = {name: {**known.get(name, {}), **asked.get(name, {})} for name in {**known, **asked}}
    before["policies"] = {name: {**told, **known.get(name, {})} for name, told in now["policies"].items()}
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise UsageError(
                f"{folder} holds {answered} answers of another comparison: {_difference(name, before, now)}. Name "
                "another folder."
            )
    return now


def _as_now(before: dict[str, Any]) -> dict[str, Any]:
    """Without what earlier versions wrote of mode adaptive for all modes alike."""
    for setting in RULE_SETTINGS:
        before.get("decoding", {}).pop(setting, None)
    for policy in before["policies"].values():
        policy.get("profile", {}).pop("calibration", None)
    return before


def _difference(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old, new = before.get(name), now.get(name)
    if isinstance(old, dict) and isinstance(new, dict):
        inner = next(key for key in sorted({*old, *new}) if old.get(key) != new.get(key))
        return _difference(f"{name} {inner}", {f"{name} {inner}": old.get(inner)}, {f"{name} {inner}": new.get(inner)})
    return f"{name} was {_short(old)}, now it is {_short(new)}"


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _plain(run: Mapping[str, Any]) -> str:
    return json.dumps(run, ensure_ascii=False, indent=1, sort_keys=True, default=str) + "\n"
