"""What was tried, a line for each piece of it, so that a long run may end at any moment and goes on where it ended."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Piece:
    """What came of one piece of a check: a round of a fault, or some thousands of inputs."""

    tried: int = 0
    failures: list[str] = field(default_factory=list)
    sums: dict[str, int] = field(default_factory=dict)
    """Counts beside it ("struck", "loaded"), which add up over the pieces."""
    peaks: dict[str, float] = field(default_factory=dict)
    """Figures of which the largest is told ("slowest, s")."""
    notes: list[str] = field(default_factory=list)
    """How faults were made, where there are several ways."""


@dataclass(frozen=True)
class Row:
    """A check: so many inputs, tried piece by piece, each piece by its number and always the same."""

    group: str
    name: str
    """Its own within the group."""
    title: str
    unit: str
    """What is counted: rounds, texts, files."""
    total: int
    """How many of them the long run tries."""
    size: int
    """How many a piece tries."""
    run: Callable[[int, int], Piece]
    """Called with the number of a piece and its size."""

    @property
    def key(self) -> str:
        """Its name everywhere."""
        return f"{self.group}/{self.name}"

    def pieces(self, scale: float = 1.0) -> list[int]:
        """The numbers of the pieces of a share of it, at least one."""
        return list(range(max(1, -(-round(self.total * scale) // self.size))))


@dataclass
class Line:
    """A piece that was run."""

    key: str
    number: int
    seconds: float
    day: str
    about: str
    """With which versions."""
    piece: Piece


class Ledger:
    """The lines of a file; the last one of a piece counts. Lines of other versions, and half lines, do not."""

    def __init__(self, path: Path, about: str) -> None:
        self.path = path
        self.about = about
        self.lines: dict[tuple[str, int], Line] = {}
        for line in self._read():
            self.lines[line.key, line.number] = line

    def _read(self) -> Iterator[Line]:
        if not self.path.exists():
            return
        for text in self.path.read_bytes().split(b"\n"):
            try:
                fields = json.loads(text)
            except ValueError:
                continue
            line = Line(**{**fields, "piece": Piece(**fields["piece"])})
            if line.about == self.about:
                yield line

    def add(self, line: Line) -> None:
        """Append a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            half = file.read() not in (b"", b"\n")  # of a run that was killed while it wrote
            file.write((b"\n" if half else b"") + json.dumps(asdict(line)).encode() + b"\n")
        self.lines[line.key, line.number] = line

    def of(self, row: Row) -> list[Line]:
        """The lines of a check, by number."""
        return sorted((line for line in self.lines.values() if line.key == row.key), key=lambda line: line.number)

    def done(self, row: Row) -> set[int]:
        """The pieces of a check that were run without a failure."""
        return {line.number for line in self.of(row) if not line.piece.failures}

    def seconds(self, row: Row) -> float:
        """How long a piece of a check took on average; 0 where none was run."""
        lines = self.of(row)
        return sum(line.seconds for line in lines) / len(lines) if lines else 0.0


def told(row: Row, lines: list[Line]) -> tuple[str, str, str, str, str, str]:
    """A check as a row of the table: what, fault (and how), tried, failures, time, day or days."""
    sums: Counter[str] = Counter()
    peaks: dict[str, float] = {}
    for line in lines:
        sums.update(line.piece.sums)
        for name, value in line.piece.peaks.items():
            peaks[name] = max(value, peaks.get(name, value))
    tried = sum(line.piece.tried for line in lines)
    parts = [f"{tried:,} {row.unit}", *(f"{count:,} {name}" for name, count in sums.items())]
    parts += [f"{name} {value:g}" for name, value in peaks.items()]
    notes = sorted({note for line in lines for note in line.piece.notes})
    failures = sum(len(line.piece.failures) for line in lines)
    days = sorted({line.day for line in lines})
    took = f"{sum(line.seconds for line in lines):.0f} s"
    title = row.title + (f" ({', '.join(notes)})" if notes else "")
    return row.group, title, ", ".join(parts), str(failures), took, " – ".join(dict.fromkeys((days[0], days[-1])))
