"""What each reward is worth: the same run with each of them left out in turn, with the published forms, and at random.

Every variant is a run of its own in a folder of its own, scored on the same questions; a command that was broken off
goes on where it ended, and what is finished is not done again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sifthinker.policy.errors import SifthinkerError, UsageError
from sifthinker.policy.files import write_whole
from sifthinker.training.gain import Gain, gains
from sifthinker.training.grpo.recipe import REWARDS

VARIANTS: dict[str, list[str]] = {
    "robust": ["--rewards", "robust"],
    "published": ["--rewards", "published"],
    "random": ["--rewards", "random"],
    **{f"without-{name}": ["--rewards", "robust", "--without", name] for name in REWARDS},
}
"""Name of a variant -> options of `sifthinker train grpo`."""
START = "start"
SETTINGS = "ablation.json"
"""What all runs of a folder have in common."""

Runner = Callable[[Sequence[str]], int]


class Row(BaseModel):
    """One line of the table: what a variant gained over the start; None: it is not finished."""

    variant: str
    gain: Gain | None


def run_variants(
    recipe: str,
    out: Path,
    data: Path,
    *,
    start: str,
    variants: Sequence[str] = tuple(VARIANTS),
    mode: str = "internal",
    options: Sequence[str] = (),
    scoring: Sequence[str] = (),
    runner: Runner | None = None,
) -> list[Row]:
    """Train and score each variant that is not finished yet, and compare all with the start.

    Args:
        recipe: of GRPO.
        out: a folder for all of it.
        data: questions of `sifthinker world make`, of the test split.
        start: the policy that all begin with.
        variants: which.
        mode: in which they are scored.
        options: further ones of `sifthinker train grpo`, the same for all.
        scoring: further ones of `sifthinker train score`, the same for all.
        runner: runs a command line of this program and gives its exit code.

    Raises:
        UsageError: a variant that does not exist. SifthinkerError: a run ended with an error.
    """
    if unknown := sorted(set(variants) - set(VARIANTS)):
        raise UsageError(f"There is no variant {unknown[0]!r}: they are {', '.join(VARIANTS)}.")
    run = runner or _program
    out.mkdir(parents=True, exist_ok=True)
    asked = ["--data", str(data), "--modes", mode, *scoring]
    _begin(out, {"recipe": recipe, "policy": start, "options": list(options), "scoring": asked})
    _score(run, start, asked, out / f"{START}.json")
    for name in variants:
        if scores_of(out, name).is_file():
            continue
        done = run(["train", "grpo", recipe, "--out", str(out / name), "--policy", start, *VARIANTS[name], *options])
        if done:
            raise SifthinkerError(
                f"The run {out / name} ended with code {done}: see above, and run this command again."
            )
        _score(run, str(out / name / "policy"), asked, scores_of(out, name))
    return table(out, variants, mode=mode)


def _begin(out: Path, settings: dict[str, Any]) -> None:
    """Note what the folder is of, or see that it is of the same.

    Raises:
        UsageError: it was begun with other settings, whose scores must not stand in one table with these.
    """
    path = out / SETTINGS
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(name for name in settings if known.get(name) != settings[name])
        if changed:
            raise UsageError(f"{out} was begun with other settings ({', '.join(changed)}): name another folder.")
        return
    text = json.dumps(settings, indent=1) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def table(out: Path, variants: Sequence[str] = tuple(VARIANTS), *, mode: str = "internal") -> list[Row]:
    """The table of what is finished.

    Raises:
        UsageError: the start was not scored yet.
    """
    start = scores_of(out, START)
    if not start.is_file():
        raise UsageError(f"{start} is not there yet: run the command without --table first.")
    return [
        Row(
            variant=name,
            gain=gains([(start, scores_of(out, name))], modes=[mode])[0] if scores_of(out, name).is_file() else None,
        )
        for name in variants
    ]


def scores_of(out: Path, variant: str) -> Path:
    """The score file of a variant."""
    return out / f"{variant}.json"


def _score(run: Runner, policy: str, asked: Sequence[str], path: Path) -> None:
    if path.is_file():
        return
    part = path.with_suffix(".json.part")
    if done := run(["train", "score", policy, *asked, "--json", str(part)]):
        raise SifthinkerError(f"Scoring {policy} ended with code {done}: see above, and run this command again.")
    os.replace(part, path)


def _program(arguments: Sequence[str]) -> int:
    return subprocess.call([sys.executable, "-m", "sifthinker.training", *arguments])
