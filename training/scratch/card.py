"""The model card of an embedded policy, written from the run's own records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sifthinker.policy.errors import UsageError
from sifthinker.training.checkpoints import log_lines

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# The embedded policy of sifthinker

A Qwen3-VL of {parameters:.1f} million parameters, trained from random weights by this repository on its own block
world. **It knows the block world and nothing else**: coloured cubes, spheres and cylinders on a plain ground, ten kinds
of question. It is there so that everything runs with no download; for photographs load a real policy.

## How it was trained

    sifthinker train sft {recipe} --out runs/{recipe}

Seed {seed}, {steps}. To see for {vision_minutes} minutes (dense targets for every place of the image), to find what
is named for {find_minutes} minutes (short texts that name and box), then everything, with focus traces in the modes
direct, internal and tools, for {minutes} minutes: {branches:,} branches of text, and {scenes:,} views of scenes of the
training split in all. Written as bfloat16; the weights are a moving average over the last steps.

## Scores

{scores}

## Licence

Apache-2.0, like the code. Trained on rendered scenes only; no third party's data or weights went into it.
"""

PHASES = ("vision", "find", "traces")
_ROWS = ("accuracy", "hiou", "valid", "depth_error", "seconds", "images", "tokens")


def write_card(run: Path, out: Path, *, scores: Path | None, parameters: int, recipe: str = "embedded") -> None:
    """Write README.md beside the weights.

    Args:
        run: the run's folder, with its recipe and checkpoint record.
        out: the policy's folder.
        scores: what `sifthinker train score --json` wrote, or None.
        parameters: how many the model has.
        recipe: the recipe's name.
    """
    settings = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    lines = log_lines(run / "log.jsonl")
    last = lines[-1]
    runs = {phase: _stretches(lines, phase, settings["log_every"]) for phase in PHASES}
    minutes = {phase: " + ".join(f"{round(line['minutes'])}" for line in ends) or "0" for phase, ends in runs.items()}
    steps = [f"{line['step']:,}" for ends in runs.values() for line in ends]
    text = _CARD.format(
        parameters=parameters / 1e6,
        recipe=recipe,
        seed=settings["seed"],
        steps=f"{' + '.join(steps)} steps",
        vision_minutes=minutes["vision"],
        find_minutes=minutes["find"],
        minutes=minutes["traces"],
        scenes=last["scenes"],
        branches=last["branches"],
        scores=_table(scores) if scores is not None else "Not measured.",
    )
    (out / "README.md").write_text(text, encoding="utf-8")


def _stretches(lines: list[dict[str, Any]], phase: str, log_every: int) -> list[dict[str, Any]]:
    """The last line of each time that a phase was run; a run broken off and gone on with is one."""
    ends: list[dict[str, Any]] = []
    for line in lines:
        if line["phase"] == phase:
            if line["step"] == log_every or not ends:
                ends.append(line)
            ends[-1] = line
    return ends


def _table(path: Path) -> str:
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        modes = {mode: told["modes"][mode]["scores"] for mode in told["modes"]}
        lines = [str(told["command"]), "", "| | " + " | ".join(modes) + " |", "|---" * (len(modes) + 1) + "|"]
        for name in _ROWS:
            lines.append(f"| {name} | " + " | ".join(_number(scores[name]) for scores in modes.values()) + " |")
        for family in next(iter(modes.values()))["families"]:
            cells = (_number(scores["families"][family]) for scores in modes.values())
            lines.append(f"| accuracy, {family} | " + " | ".join(cells) + " |")
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(f"{path} is not what `sifthinker train score --json` writes: {error!r}") from None
    lines[0] = f"{told['n']} questions, made by `{told['made_by']}`, asked by `{lines[0]}`:"
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
