"""The table in Markdown: on a terminal as it comes, and between the marks of a page, line by line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from performance.figures import Figure, number
from performance.machine import in_words

BEGIN, END = "<!-- performance: table -->", "<!-- /performance -->"
HEAD = "| measured | against | median (range) | target | reached |\n|---|---|---|---|---|"


def heading_row(heading: str, measured: str = "") -> str:
    """The row above those of a line."""
    return f"| **{heading}** | {measured} | | | |"


def row(figure: Figure) -> str:
    """A figure as a row."""
    low, high = (number(value) for value in figure.spread)
    spread = f" ({low} – {high})" if low != high else ""
    value = f"{number(figure.value)} {figure.unit}{spread}"
    return f"| {figure.what} | {figure.against} | {value} | {figure.target} | {figure.verdict} |"


def missing_row(missing: str) -> str:
    """What stands in place of figures that could not be had."""
    return f"| not measured: {missing} | | | | |"


def put(
    page: Path,
    heading: str,
    figures: Sequence[Figure],
    missing: str,
    *,
    machine: dict[str, Any],
    repeat: int,
    order: Sequence[str],
) -> None:
    """Put the rows of a line into a page, in place of those that it has of that line; the others stay.

    Args:
        page: with both marks.
        heading: of the line.
        figures, missing: what came out.
        machine: where and when, see `performance.machine`.
        repeat: repetitions.
        order: of the headings.

    Raises:
        ValueError: the page lacks the marks.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"Expected the marks {BEGIN} and {END} in {page}, to put the table between them.")
    before, _, rest = text.partition(BEGIN)
    inside, _, after = rest.partition(END)
    blocks = _blocks(inside)
    times = "once" if repeat == 1 else f"{repeat} repetitions"
    rows = [*map(row, figures), *([missing_row(missing)] if missing else [])]
    blocks[heading] = [heading_row(heading, f"{machine['date']}, load {machine['load']}, {times}"), *rows]
    known = sorted(blocks, key=lambda name: order.index(name) if name in order else len(order))
    lines = [HEAD, *(line for name in known for line in blocks[name])]
    about = in_words(machine).partition(" · ")[2].replace("\n", "; ")
    about = re.sub(r" · load before [^;]*", "", about)
    table = "\n".join(lines)
    page.write_text(f"{before}{BEGIN}\n{table}\n\n{about}.\n{END}{after}", encoding="utf-8")


def _blocks(inside: str) -> dict[str, list[str]]:
    """The rows of a table by their heading."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in inside.splitlines():
        if match := re.match(r"\| \*\*(.+?)\*\* \|", line):
            name = match[1]
            found[name] = []
        if name and line.startswith("|"):
            found[name].append(line)
    return found
