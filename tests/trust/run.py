"""The long check of what this package promises under faults and attacks; prints a table of what was tried.

    python tests/trust/run.py                        everything, the quickest first; hours on two cores
    python tests/trust/run.py --minutes 30           for so long; run again, it goes on where it ended
    python tests/trust/run.py --only ask,chat        some of: ask, chat, data, compare, train, inputs, crowd
    python tests/trust/run.py --only "chat/full disk" --piece 7     one round again, by the number that failed
    python tests/trust/run.py --scale 0.01           a share of every count
    python tests/trust/run.py --again                from the start

Each finished piece (a round of a fault, some thousands of inputs) is a line of `runs/trust.jsonl`: a run that is broken
off, or killed, has lost nothing. Pieces that failed are tried again. Ends with 1 if anything failed.
`--page FILE` writes the table of all that was tried with these versions into docs/trust.md between its marks; rows of
what was not tried stay as they are.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from trust import crowd, harness, inputs, rounds  # noqa: E402
from trust.ledger import Ledger, Line, Row, told  # noqa: E402

GROUPS = (*rounds.COMMANDS, "inputs", "crowd")
BEGIN, END = "<!-- trust: table -->", "<!-- /trust -->"
PASSES = (0.03, 0.1, 0.3, 1.0)
"""Shares of its count that every check reaches before any goes further."""
COMMON = 50
"""Failures of one piece that are told; a fault in a parser may show in every text."""

Cells = tuple[str, str, str, str, str, str]
"""What, which fault (and how it was made), what was tried, failures, time, day."""


def chosen_rows(only: list[str]) -> list[Row]:
    """The checks of these groups or with these names."""
    rows = [*rounds.rows(), *inputs.rows(), *crowd.rows()]
    if strange := [name for name in only if name not in {*GROUPS, *(row.key for row in rows)}]:
        raise SystemExit(f"unknown: {', '.join(strange)}; known are {', '.join([*GROUPS, *(r.key for r in rows)])}")
    return [row for row in rows if row.group in only or row.key in only]


def left(rows: list[Row], ledger: Ledger, scale: float) -> Iterator[tuple[Row, int]]:
    """What is still to be tried: every check a little, then more of each; the quickest first."""
    tried: set[tuple[str, int]] = set()
    for share in PASSES:
        for row in sorted(rows, key=ledger.seconds):
            for number in row.pieces(share * scale):
                if number not in ledger.done(row) and (row.key, number) not in tried:
                    tried.add((row.key, number))
                    yield row, number


def run(rows: list[Row], ledger: Ledger, pieces: Iterator[tuple[Row, int]], until: float) -> int:
    """Try pieces until a moment of `time.monotonic`; the number of failures."""
    failures = 0
    for row, number in pieces:
        if time.monotonic() >= until:
            break
        started = time.monotonic()
        piece = row.run(number, row.size)
        seconds = round(time.monotonic() - started, 2)
        ledger.add(Line(row.key, number, seconds, today(), ledger.about, piece))
        print(f"{row.key} {number}: {piece.tried} {row.unit}, {seconds} s", flush=True)
        for failure in piece.failures[:COMMON]:
            print(f"    {failure}", flush=True)
        failures += len(piece.failures)
    return failures


def table(rows: list[Cells]) -> str:
    head = ("what", "fault or attack", "tried", "failures", "time", "day")
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def merged(page: str, rows: list[Cells]) -> list[Cells]:
    """The rows of a page, those that were tried now in their place."""

    def key(row: Cells) -> tuple[str, str]:
        return row[0], row[1].partition(" (")[0]

    inside = page.partition(BEGIN)[2].partition(END)[0]
    cells = [line.strip("| ").split(" | ") for line in inside.splitlines() if line.startswith("| ")]
    old: list[Cells] = [tuple(line) for line in cells[2:] if len(line) == 6]  # type: ignore[misc]
    found = {key(row): row for row in [*old, *rows]}
    return sorted(found.values(), key=lambda row: GROUPS.index(row[0]) if row[0] in GROUPS else len(GROUPS))


def today() -> str:
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()


def about() -> str:
    names = ("sifthinker", "torch", "transformers", "langgraph", "pillow", "numpy", "httpx", "pydantic")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores; {versions}."


def written(page: Path, rows: list[Cells]) -> None:
    """Put the rows into a page."""
    text = page.read_text(encoding="utf-8")
    inside = f"{BEGIN}\n{table(merged(text, rows))}\n\n{about()}\n{END}"
    found = re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: inside, text, flags=re.DOTALL)
    page.write_text(found, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(GROUPS))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so many")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the counts")
    parser.add_argument("--piece", type=int, default=None, help="only this round or piece, also if it was tried")
    parser.add_argument("--ledger", type=Path, default=TESTS.parent / "runs" / "trust.jsonl")
    parser.add_argument("--again", action="store_true", help="forget what was tried before")
    parser.add_argument("--page", type=Path, default=None)
    chosen = parser.parse_args()
    if chosen.again:
        chosen.ledger.unlink(missing_ok=True)
    rows = chosen_rows([name.strip() for name in chosen.only.split(",")])
    until = time.monotonic() + 60 * chosen.minutes
    if trained := [row for row in rows if row.group == "train"]:
        if len(trained) == len(rows):
            harness.PRELOADED.append("trust.preload_training")
        else:  # children that train begin with torch, the others without: two servers of children
            rows = [row for row in rows if row not in trained]
    ledger = Ledger(chosen.ledger, about())
    pieces = left(rows, ledger, chosen.scale) if chosen.piece is None else ((row, chosen.piece) for row in rows)
    failures = run(rows, ledger, pieces, until)
    if trained and trained != rows:
        words = ["--only", ",".join(row.key for row in trained), "--scale", str(chosen.scale)]
        words += ["--ledger", str(chosen.ledger)] + ([] if chosen.piece is None else ["--piece", str(chosen.piece)])
        words += ["--minutes", str(max(0.0, (until - time.monotonic()) / 60))]
        failures += subprocess.run([sys.executable, __file__, *words], check=False).returncode
        ledger = Ledger(chosen.ledger, about())
    known = rows if trained == rows else [*rows, *trained]
    cells = [told(row, lines) for row in known if (lines := ledger.of(row))]
    print(f"\n{table(cells)}\n\n{about()}")
    if chosen.page is not None:
        written(chosen.page, cells)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
