"""Writes a finished comparison into README.md: its table, its plot, and what faithfulness came to.

python examples/make_comparison.py runs/compare
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from sifthinker.training.compare.plots import Point, cost_plot
from sifthinker.training.compare.results import Results
from sifthinker.training.compare.summary import ModeScore, PolicyScores
from sifthinker.training.world.questions import SPATIAL_FAMILIES

ROOT = Path(__file__).parents[1]
PLOT = ROOT / "docs" / "images" / "compare.svg"
WIDTH, HEIGHT = 340, 250  # of one plot

STYLE = """
  svg { --line: #e2e0da; --soft: #5c626b; --paper: #ffffff; --ink: #1d1f23;
    --direct: #6b7280; --internal: #1c6fc4; --tools: #d9480f; --adaptive: #0b8457; --control: #7c4dbd; }
  @media (prefers-color-scheme: dark) {
    svg { --line: #343841; --soft: #a3a8b1; --paper: #1c1f25; --ink: #eceae5;
      --direct: #a8afba; --internal: #74b4f7; --tools: #ff9460; --adaptive: #5fd6a5; --control: #bda0f0; } }
  .ground { fill: var(--paper); }
  .grid { stroke: var(--line); } .whisker { stroke: var(--at); stroke-width: 2; opacity: .65; }
  .dot { fill: var(--at); }
  text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--soft); }
  text.axis { font-size: 12px; } .mid { text-anchor: middle; } .end { text-anchor: end; }
  text.name { font-size: 12.5px; font-weight: 650; fill: var(--at); stroke: var(--paper); stroke-width: 4px;
    paint-order: stroke; }
  .direct { --at: var(--direct); } .internal { --at: var(--internal); } .tools { --at: var(--tools); }
  .adaptive { --at: var(--adaptive); } .control { --at: var(--control); }
"""


def main(folder: Path) -> None:
    told = (folder / "results.json").read_text(encoding="utf-8")
    results = Results.model_validate(json.loads(told))
    scores = results.all_policies()[0]
    PLOT.write_text(plot(scores), encoding="utf-8")
    readme = ROOT / "README.md"
    section = f"<!-- comparison -->\n{table(scores)}\n\n{faithfulness(scores)}\n<!-- /comparison -->"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(
        re.sub(r"<!-- comparison -->.*<!-- /comparison -->", lambda _: section, text, flags=re.DOTALL), encoding="utf-8"
    )
    print(section)


def plot(scores: PolicyScores) -> str:
    """Accuracy against tokens and against pictures, side by side, as a picture of its own."""
    drawn = []
    for place, (name, decimals, cost) in enumerate(
        (
            ("tokens a question, in and out", 0, lambda one: one.tokens_in + one.tokens_out),
            ("pictures shown a question", 1, lambda one: one.images),
        )
    ):
        points = [Point(mode, cost(one), one.accuracy, mode) for mode, one in scores.modes.items()]
        inner = cost_plot(points, name, decimals=decimals)
        x = 12 + place * (WIDTH + 12)
        drawn.append(inner.replace("<svg ", f'<svg x="{x}" y="12" width="{WIDTH}" height="{HEIGHT}" ', 1))
    width, height = 2 * WIDTH + 36, HEIGHT + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{STYLE}</style><rect class="ground" width="100%" height="100%" rx="12"/>{"".join(drawn)}</svg>\n'
    )


def table(scores: PolicyScores) -> str:
    """The modes, then the controls."""
    lines = [
        "| | right, % | 95 % interval | relations | signs | HIoU | tokens | pictures | seconds alone |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in scores.modes.items():
        lines.append(_row(f"`{name}`", one))
    for name, one in scores.controls.items():
        lines.append(_row(f"`tools`, {name} boxes", one))
    return "\n".join(lines)


def _row(name: str, one: ModeScore) -> str:
    accuracy = one.accuracy
    cells = [
        f"**{100 * accuracy.value:.1f}**",
        f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}",
        f"{100 * _mean(one, SPATIAL_FAMILIES):.1f}",
        f"{100 * _mean(one, ('sign',)):.1f}",
        "–" if one.hiou is None else f"{one.hiou:.2f}",
        f"{one.tokens_in + one.tokens_out:,.0f}",
        f"{one.images:.1f}",
        "–" if one.seconds_alone is None else f"{one.seconds_alone.median:.1f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _mean(one: ModeScore, families: tuple[str, ...]) -> float:
    """Accuracy over the questions of some families."""
    found = [one.families[name] for name in families if name in one.families]
    return sum(part.n * part.accuracy.value for part in found) / max(1, sum(part.n for part in found))


def faithfulness(scores: PolicyScores) -> str:
    """How often the answer changes with the cited region, and with another one."""
    lines = [
        "| answers changed, % | questions | cited region | elsewhere | difference |",
        "|---|---|---|---|---|",
    ]
    names = {"mean": "painted over", "blur": "blurred", "recolour": "rendered anew, changed"}
    for kind, one in scores.faithfulness.get("tools", {}).items():
        for family, part in [("all", one), *((name, one.families[name]) for name in ("color", "sign"))]:
            lines.append(f"| {names[kind]}, {family} | {_changed(part)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _changed(part: Any) -> str:
    difference = part.difference
    interval = f"{100 * difference.low:.1f} to {100 * difference.high:.1f}"
    shares = f"{part.n} | {100 * part.cited.value:.1f} | {100 * part.elsewhere.value:.1f}"
    return f"{shares} | {100 * difference.value:+.1f} ({interval})"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
