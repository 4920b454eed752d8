"""What starting imports beyond what it is held against, by package: `python -X importtime`, the least of some runs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

from performance.lines.starting import CLI, LANGGRAPH, QUESTION
from performance.measure import ROOT, NotHere

RUNS = 3
_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
_SPLIT = ("sifthinker", "torch")  # packages whose parts are told apart


def tables() -> str:
    """Both tables as Markdown."""
    graph = ("-c", LANGGRAPH)
    agent = ("-c", "from sifthinker.agent import create_focus_agent")
    bare = ("-c", f"import torch, transformers; {LANGGRAPH}")
    ask = ("-c", CLI, "ask", "examples/images/blocks.png", QUESTION)
    return "\n\n".join(
        [
            _beyond("`from sifthinker.agent import create_focus_agent`", agent, "langgraph", graph, count=5),
            _beyond("a cold `sifthinker ask`", ask, "torch, transformers and langgraph", bare, count=14),
        ]
    )


def _beyond(name: str, way: Sequence[str], base_name: str, base: Sequence[str], *, count: int) -> str:
    mine, theirs = _least(way), _least(base)
    new = {module: seconds for module, seconds in mine.items() if module not in theirs}
    packages: Counter[str] = Counter()
    for module, seconds in new.items():
        parts = module.split(".")
        packages[".".join(parts[:2]) if parts[0] in _SPLIT else parts[0]] += seconds
    rows = [f"| {package} | {seconds / 1000:.0f} ms |" for package, seconds in packages.most_common(count)]
    rest = sum(packages.values()) - sum(seconds for _, seconds in packages.most_common(count))
    whole = f"| **whole: {len(new):,} modules** | **{sum(new.values()) / 1000:.0f} ms** |"
    head = f"| {name}, beyond {base_name} ({sum(theirs.values()) / 1000:.0f} ms) | importing |\n|---|---|"
    return "\n".join([head, *rows, f"| all else | {rest / 1000:.0f} ms |", whole])


def _least(arguments: Sequence[str]) -> dict[str, int]:
    """Microseconds that each module took by itself, the least of the runs."""
    found: dict[str, int] = {}
    for _ in range(RUNS):
        run = subprocess.run(
            [sys.executable, "-X", "importtime", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise NotHere(f"`python {' '.join(arguments)[:80]}` ended with {run.returncode}: {run.stderr[-300:]}")
        for microseconds, module in _LINE.findall(run.stderr):
            found[module] = min(int(microseconds), found.get(module, int(microseconds)))
    return found
