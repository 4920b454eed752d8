"""The command: which lines are measured, the table, the JSON."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from performance.figures import Figure
from performance.machine import in_words, machine
from performance.measure import NotHere
from performance.page import BEGIN, END, HEAD, heading_row, missing_row, put, row

LINES = {
    "focus": "Focus loop: the KV cache against encoding the conversation anew each turn",
    "batching": "Batching: sixteen questions at once against one after another",
    "server": "Server: bounded concurrency keeps it busy",
    "depth": "Depth: against transformers' implementation on the same weights",
    "rewards": "Rewards: all four together, by the completion",
    "overhead": "Framework: what graph, parsing, cropping and bookkeeping add to a focus step",
    "parsing": "Incremental parsing: linear in the completion",
    "starting": "Starting: imports, --help, a cold `ask`",
    "warm": "Warm: a question on the embedded policy",
    "grpo": "Training: a GRPO step against TRL's own",
    "loading": "Training: rendering, loading and collation, as a share of the step",
    "memory": "Memory of data build and compare, at 1,000 and 20,000 records",
}
"""Name of a line: its heading. Each is a module of `performance.lines` with `figures(repeat)`."""

PROFILES = ("focus", "batching", "rewards", "starting")
"""What `performance.profiles` can take apart."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code: 1 where a line could not be measured, 2 for wrong use."""
    asked = _parser().parse_args(arguments)
    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' progress bars would stand between the lines
    if asked.profile:
        print(import_module("performance.profiles").printed(asked.profile))
        return 0
    names = asked.only or list(LINES)
    if asked.list:
        width = max(map(len, LINES))
        print("\n".join(f"{name:{width}}  {heading}" for name, heading in LINES.items()))
        return 0
    where = machine()
    found: list[dict[str, Any]] = []
    failed = False
    table = None if asked.json else _Table(in_words(where))
    for name in names:
        began, now = time.perf_counter(), machine()
        figures: list[Figure] = []
        missing = ""
        if table is not None:
            table.begin(LINES[name])
        try:
            for figure in _figures(name, asked.repeat):
                figures.append(figure)
                if table is not None:
                    table.add(figure)
        except NotHere as error:
            missing, failed = str(error), True
        except ImportError as error:
            missing, failed = f"needs {error.name}, which is not installed", True
        seconds = time.perf_counter() - began
        if asked.page is not None:
            put(
                asked.page, LINES[name], figures, missing,
                machine=now, repeat=asked.repeat, order=list(LINES.values()),
            )  # fmt: skip
        found.append(
            {
                "line": name,
                "heading": LINES[name],
                "seconds": round(seconds, 1),
                "missing": missing,
                "figures": [figure.to_dict() for figure in figures],
            }
        )
        if table is not None and missing:
            table.lack(missing)
    if asked.json:
        print(json.dumps({"machine": where, "repeat": asked.repeat, "lines": found}, ensure_ascii=False, indent=1))
    elif table is not None:
        table.close(asked.repeat)
    return int(failed)


def _figures(name: str, repeat: int) -> Iterator[Figure]:
    yield from import_module(f"performance.lines.{name}").figures(repeat)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python tests/performance",
        description="Measures what the framework costs, against what one would use instead, and prints the table.",
    )
    parser.add_argument("--only", action="append", metavar="NAME", choices=LINES, help="only this line; once for each")
    parser.add_argument("--repeat", type=_positive, default=5, metavar="N", help="repetitions of each line (5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    parser.add_argument(
        "--page",
        type=_page,
        metavar="FILE",
        help="put the rows of each line into a page, between its marks",
    )
    parser.add_argument("--profile", metavar="NAME", choices=PROFILES, help="where the time goes, before and after")
    parser.add_argument("--list", action="store_true", help="print the names of the lines")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("expected at least 1")
    return value


def _page(text: str) -> Path:
    path = Path(text)
    if not path.is_file() or not all(mark in path.read_text(encoding="utf-8") for mark in (BEGIN, END)):
        raise argparse.ArgumentTypeError(f"expected a page with the marks {BEGIN} and {END}, got {text}")
    return path


class _Table:
    """Prints each figure as soon as it is there, as Markdown that reads as a table on a terminal too."""

    def __init__(self, where: str) -> None:
        print(f"{where}\n")
        print(HEAD)
        self._notes: list[str] = []
        self._missed = self._counted = 0

    def begin(self, heading: str) -> None:
        print(heading_row(heading), flush=True)

    def add(self, figure: Figure) -> None:
        print(row(figure), flush=True)
        if figure.note:
            self._notes.append(f"{figure.what}: {figure.note}")
        if figure.reached is not None:
            self._counted += 1
            self._missed += not figure.reached

    def lack(self, missing: str) -> None:
        print(missing_row(missing), flush=True)

    def close(self, repeat: int) -> None:
        print(f"\n{self._counted - self._missed} of {self._counted} targets reached, {repeat} repetitions each.\n")
        print("\n".join(f"- {note}" for note in self._notes))
