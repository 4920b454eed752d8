"""Starting: what an import costs, what `--help` costs, and a cold `ask` against the bare import of what it needs.

Each measurement is a new process. A first one of each fills the file cache and does not count.
"""

from __future__ import annotations

from collections.abc import Iterator

from performance.figures import Figure
from performance.measure import NotHere, child_seconds, ratios, rounds

from sifthinker.policy.load import EMBEDDED

CLI = "import sys; from sifthinker.agent.cli import main; sys.argv[0] = 'sifthinker'; main()"
QUESTION = "Which is closer to the camera, the purple cylinder or the yellow cylinder?"
HEAVY = ("torch", "transformers", "timm")
LANGGRAPH = "from langgraph.graph import StateGraph, MessagesState"


def figures(repeat: int) -> Iterator[Figure]:
    """See `performance.command.LINES`."""
    light = f"; import sys; assert not {{{', '.join(map(repr, HEAVY))}}} & set(sys.modules)"
    nothing, graph, package, agent = (
        child_seconds("-c", code, cpu=True)
        for code in (
            "pass",
            LANGGRAPH,
            "import sifthinker.agent" + light,
            "from sifthinker.agent import create_focus_agent" + light,
        )
    )
    found = rounds(2 * repeat, nothing, graph, package, agent)
    net = [[value - row[0] for value in row] for row in found]  # without the interpreter's own start
    about = f"importing langgraph ({_median(net, 1):.2f} s of processor time, the interpreter's start taken off)"
    yield Figure("`import sifthinker.agent` (no torch, transformers, timm)", ratios(net, 2, 1), about, at_most=1.1)
    yield Figure("`from sifthinker.agent import create_focus_agent`", ratios(net, 3, 1), about, at_most=1.1)
    helped = rounds(repeat, child_seconds("-c", CLI, "--help", cpu=True))
    yield Figure("`sifthinker --help`, processor time", [row[0] for row in helped], "", "s", at_most=0.5)
    yield from _cold(repeat)


def _cold(repeat: int) -> Iterator[Figure]:
    if not (EMBEDDED / "config.json").is_file():
        raise NotHere("the embedded policy's weights are not there")
    ask = ("-c", CLI, "ask", "examples/images/blocks.png", QUESTION)
    bare = ("-c", f"import torch, transformers; {LANGGRAPH}")
    full = ("-c", f"import torch; from transformers import Qwen3VLForConditionalGeneration; {LANGGRAPH}")
    found = rounds(repeat, *(child_seconds(*way, cpu=True) for way in (ask, bare, full)))
    seconds = [_median(found, way) for way in range(3)]
    yield Figure(
        "cold `sifthinker ask` on the embedded policy, mode tools: processor time",
        ratios(found, 0, 1),
        "bare import of torch, transformers and langgraph",
        at_most=1.4,
        note=f"{seconds[0]:.1f} and {seconds[1]:.1f} s",
    )
    yield Figure(
        "cold `sifthinker ask` on the embedded policy, mode tools: processor time",
        ratios(found, 0, 2),
        "importing torch, langgraph and the model's class of transformers",
        note=f"{seconds[0]:.1f} and {seconds[2]:.1f} s; `import transformers` alone loads no model class",
    )


def _median(found: list[list[float]], way: int) -> float:
    return sorted(row[way] for row in found)[len(found) // 2]
