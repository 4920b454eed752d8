"""Finished samples on disk, so that a run can end at any moment and go on later.

    journal/00003.jsonl      samples of shard 3 that are finished, one a line, in the order in which they finished
    records/00003.parquet    its records, once all its samples are finished
    rejected/00003.parquet   and its rejects

A shard is made of a fixed stretch of the build's samples, so which records are in which shard does not depend on when a
run was broken off. A finished sample is a line of its shard's journal; when the last one is there, the journal becomes
two Parquet files, each of which appears whole, and is removed. A line that was cut off is done again; nothing else is,
unless its rejects are reopened: then the rest of the shard is a journal again, beside the Parquet files that it will
replace.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from sifthinker.policy.files import sync_folder, write_whole
from sifthinker.training.data.records import Record, Reject
from sifthinker.training.data.tables import RECORDS, REJECTS, records_in, rejects_in, write_table


class Entry(BaseModel):
    """A line of a journal: a sample's position and what became of it."""

    model_config = ConfigDict(extra="forbid")

    position: int
    record: Record | None = None
    reject: Reject | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.record is None) == (self.reject is None):
            raise ValueError("expected a record or a reject")
        return self


class ShardStore:
    """The shards of a folder; to be used from one thread.

    Args:
        folder: locked by the caller.
        size: samples of a shard.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self._finished: dict[int, set[int]] = {}  # of open shards
        self._closed: set[int] = set()
        for name in ("journal", "records", "rejected"):
            (folder / name).mkdir(exist_ok=True)

    def finished(self, position: int) -> bool:
        """Whether a sample of that position needs no more work."""
        shard = position // self.size
        return self.closed(shard) or position in self._of(shard)

    def closed(self, shard: int) -> bool:
        """Whether a shard has become Parquet."""
        if shard not in self._closed:
            if self._journal(shard).exists() or not all(path.exists() for path in self._files(shard)):
                return False
            self._closed.add(shard)
        return True

    def add(self, entry: Entry) -> None:
        """Keep a finished sample: after this a broken-off run does not lose it.

        Raises:
            OSError: the disk is full, or the folder cannot be written any more.
        """
        line = _line(entry)
        shard = entry.position // self.size
        finished = self._of(shard)
        with self._journal(shard).open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        finished.add(entry.position)

    def close_full(self, position: int, total: int | None = None) -> bool:
        """Close the shard of a position if all its samples are finished.

        Args:
            position: of any sample of the shard.
            total: samples of the whole build, once that is known: the last shard may have fewer than `size`.
        """
        shard = position // self.size
        expected = self.size if total is None else min(self.size, total - shard * self.size)
        if self.closed(shard) or expected <= 0 or len(self._of(shard)) < expected:
            return False
        entries = sorted(self._read(shard), key=lambda entry: entry.position)
        records, rejected = self._files(shard)
        kept = [entry.record for entry in entries if entry.record is not None]
        refused = [entry.reject for entry in entries if entry.reject is not None]
        write_whole(records, lambda part: write_table(kept, RECORDS, part))
        write_whole(rejected, lambda part: write_table(refused, REJECTS, part))
        self._journal(shard).unlink()
        sync_folder(self.folder / "journal")
        self._closed.add(shard)
        self._finished.pop(shard, None)
        return True

    def close_all(self, total: int) -> None:
        """Close every shard whose samples are all finished, the last one included; `total` is of the whole build."""
        for start in range(0, total, self.size):
            self.close_full(start, total)

    def reasons(self) -> Counter[str]:
        """The rejects of all shards by their reason, those in journals too."""
        entries = (entry for shard in self._shards() for entry in self._entries(shard))
        return Counter(entry.reject.reason for entry in entries if entry.reject is not None)

    def reopen(self, reasons: Collection[str]) -> int:
        """Take back the rejects of these reasons: their samples are to be done again. How many they are.

        A shard is open again once its journal is there, which appears whole: whenever this is broken off, each sample
        is finished or to be done, and never both.
        """
        reopened = 0
        for shard in self._shards():
            entries = self._entries(shard)
            kept = [entry for entry in entries if entry.reject is None or entry.reject.reason not in reasons]
            if len(kept) < len(entries):
                self._write(shard, kept)
                reopened += len(entries) - len(kept)
        return reopened

    def _shards(self) -> list[int]:
        """The shards of which anything is finished."""
        found = {path.stem for path in (self.folder / "journal").glob("[0-9]*.jsonl")}
        return sorted(int(stem) for stem in found | {path.stem for path in (self.folder / "rejected").glob("[0-9]*")})

    def _entries(self, shard: int) -> list[Entry]:
        """What is finished of a shard, open or closed."""
        if not self.closed(shard):
            return self._read(shard)
        records, rejected = self._files(shard)
        found = [Entry(position=one.provenance.position, record=one) for one in records_in(records)]
        return found + [Entry(position=one.position, reject=one) for one in rejects_in(rejected)]

    def _write(self, shard: int, entries: Sequence[Entry]) -> None:
        """Make a shard an open one that holds these entries."""
        text = b"".join(map(_line, entries))
        write_whole(self._journal(shard), lambda part: part.write_bytes(text))
        self._closed.discard(shard)
        self._finished.pop(shard, None)

    def _of(self, shard: int) -> set[int]:
        """The finished positions of an open shard; what a broken-off run left half-written is cut off."""
        if shard not in self._finished:
            self._finished[shard] = {entry.position for entry in self._read(shard)}
        return self._finished[shard]

    def _read(self, shard: int) -> list[Entry]:
        path = self._journal(shard)
        if not path.exists():
            return []
        entries: dict[int, Entry] = {}
        good = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    entry = Entry.model_validate_json(line)
                except ValidationError:
                    break
                if not line.endswith(b"\n"):
                    break
                entries.setdefault(entry.position, entry)
                good += len(line)
        if good < path.stat().st_size:
            os.truncate(path, good)
        return list(entries.values())

    def _journal(self, shard: int) -> Path:
        return self.folder / "journal" / f"{shard:05d}.jsonl"

    def _files(self, shard: int) -> tuple[Path, Path]:
        name = f"{shard:05d}.parquet"
        return self.folder / "records" / name, self.folder / "rejected" / name


def _line(entry: Entry) -> bytes:
    return entry.model_dump_json(exclude_none=True).encode() + b"\n"
