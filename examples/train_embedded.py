"""The whole chain on the block world, from random weights: traces, distillation, GRPO-SIF, each stage scored.

    python examples/train_embedded.py --out runs/chain

About twenty minutes on two cores. Every stage is a command of `sifthinker`, printed before it is run, and goes on where
it was broken off when this is run again. A budget this small shows the chain, not what it can reach: the policy that is
shipped was trained for hours (its card, policy/embedded/policy/README.md). `--minutes` gives another budget.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sifthinker.training.data.tables import read_records

console = Console(highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Folder of all runs and scores.")
    parser.add_argument("--minutes", type=float, default=20.0, help="About how long in all (default: 20).")
    parser.add_argument("--questions", type=int, default=100, help="Test questions of each score (default: 100).")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chain(options.out, share=options.minutes / 20, questions=options.questions, seed=options.seed)


def chain(out: Path, *, share: float, questions: int, seed: int) -> None:
    """Run all stages.

    Args:
        out: where everything is kept.
        share: of the full budget of twenty minutes.
        questions: how many test questions a stage is scored on, in mode internal.
        seed: of the trainings. The test questions are always the same.
    """
    train, test = out / "world-train", out / "world-test"
    begun = time.monotonic()
    world(test, "test", questions, seed=97)
    world(train, "train", max(20, round(120 * share)), seed=9)
    stages: list[tuple[str, Path]] = []

    def scored(name: str, policy: Path, limit: int = questions) -> None:
        told = out / f"{policy.parent.name}.json"
        if not told.is_file():
            some = ["--modes", "internal", "--limit", limit, "--json", told]
            sifthinker("train", "score", policy, "--data", test, *some)
        stages.append((name, told))

    def from_nothing(run: str, see: float, find: float, minutes: float, *more: str) -> Path:
        """Trained for so many minutes to see, to find what is named, and on everything."""
        budget = ["--minutes", f"{minutes:.2f}"]
        budget += ["--set", f"vision_minutes={see:.2f}", "--set", f"find_minutes={find:.2f}"]
        small = ["scenes=2", "samples.ground=1", "samples.verdict=2", "samples.direct=1", "samples.tools=1"]
        # many small steps, as there is time for few large ones
        mix = [*small, "buffer_scenes=1000", f"seed={seed}", *more]
        return trained(out / run, "sft", "embedded", *budget, *(word for one in mix for word in ("--set", one)))

    begin = from_nothing("before", 0.01, 0.01, 0.01, "compiled=false")
    scored("random weights", begin, limit=min(questions, 4))  # it babbles to its budget's end
    start = from_nothing("sft", 2.5 * share, 2.5 * share, 6.5 * share)
    scored("SFT on world traces", start)

    records = out / "distilled"
    sifthinker(
        "distil", records, "--source", f"world:{train}", "--policy", start, "--samples", "2", "--min-hiou", "0.3"
    )
    if any(read_records(records)):
        few = ["--set", "evaluation.questions=0", "--set", "modes={internal: 1.0}", "--set", f"seed={seed}"]
        few += ["--set", "lr=2.0e-5"]  # a policy so young loses by a few larger steps more than it learns
        start = trained(out / "distillation", "sft", "embedded-sft", "--data", records, "--set", f"model={start}", *few)
        scored("distillation", start)
    else:
        console.print("No run with tools was good enough to learn from: the next stage starts where this one did.")

    steps = max(2, round(24 * share))
    scored(
        "GRPO-SIF", trained(out / "grpo", "grpo", "embedded-grpo", "--policy", start, "--steps", steps, "--seed", seed)
    )
    show(stages)
    console.print(f"{(time.monotonic() - begun) / 60:.0f} minutes.")


def world(folder: Path, split: str, count: int, *, seed: int) -> None:
    """Scenes and questions, unless they are there."""
    if not (folder / "questions.jsonl").is_file():
        sifthinker("world", "make", "--split", split, "--count", count, "--seed", seed, "--out", folder)


def trained(run: Path, *command: object) -> Path:
    """Train in a folder, unless that is done; the policy."""
    if not (run / "policy" / "config.json").is_file():
        sifthinker("train", *command, "--out", run)
    return run / "policy"


def sifthinker(*command: object) -> None:
    """Run one command, and stop the chain where it fails."""
    words = [str(word) for word in command]
    console.print(f"[bold]$ sifthinker {shlex.join(words)}[/]", soft_wrap=True)
    program = [sys.executable, "-c", "from sifthinker.agent.cli import main; main()"]
    code = subprocess.call([*program, *words])
    if code:
        console.print(f"It ended with {code}. What is done is kept: the same command goes on from there.")
        raise SystemExit(code)


def show(stages: list[tuple[str, Path]]) -> None:
    """What each stage reached."""
    scores = [
        (name, json.loads(path.read_text(encoding="utf-8"))["modes"]["internal"]["scores"]) for name, path in stages
    ]
    table = Table("after", "accuracy", "HIoU", "valid traces", "test questions", title="Mode internal")
    for name, score in scores:
        table.add_row(name, *(f"{score[measure]:.3f}" for measure in ("accuracy", "hiou", "valid")), str(score["n"]))
    console.print(table)


if __name__ == "__main__":
    main()
