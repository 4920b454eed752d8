"""`sifthinker train sft` (embedded, tiny) under faults: a checkpoint is whole, or the one before it, and goes on.

Training asks no server but GRPO's judge; its faults, and a full disk under TRL's trainer, are in `trust.faults_grpo`.
"""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml
from trust import faults_grpo
from trust.checks import at_once, told_of_the_disk
from trust.faults import Fault, read_only, small_disk
from trust.harness import Round, one_sentence, run, start

RECIPE = {
    "trainer": "scratch",
    "model": {
        "hidden": 48, "layers": 2, "heads": 2, "head_dim": 24, "mlp": 64,
        "vision_hidden": 32, "vision_layers": 1, "vision_heads": 2,
    },
    "scenes": 2, "vision_scenes": 2, "find_scenes": 2, "vision_minutes": 0.01, "find_minutes": 0.01, "minutes": 0.02,
    "log_every": 1, "save_every_minutes": 0.0, "compiled": False,
}  # fmt: skip


def out(round: Round) -> Path:
    return round.folder / "out"


def command(round: Round, **changed: Any) -> list[str]:
    recipe = round.folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, **changed}), encoding="utf-8")
    return ["train", "sft", str(recipe), "--out", str(out(round)), "--processes", "1"]


def checkpoint(round: Round) -> tuple[int, int]:
    """How far the checkpoint is, (phase, step); (-1, 0) where there is none. One that is there is whole."""
    import torch

    path = out(round) / "checkpoint.pt"
    if not path.exists():
        return -1, 0
    cursor = torch.load(path, weights_only=True)["cursor"]
    return ("vision", "find", "traces", "done").index(cursor["phase"]), cursor["step"]


def finished(round: Round, before: tuple[int, int]) -> None:
    """The same command goes on from the checkpoint, and ends with a policy that loads."""
    from sifthinker.policy.load import load_policy

    outcome = run(command(round))
    assert outcome.code == 0, outcome
    assert checkpoint(round)[0] == 2
    assert checkpoint(round) >= before
    lines = [json.loads(line) for line in (out(round) / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines
    assert load_policy(str(out(round) / "policy")).profile.dialect == "sif"
    assert not list(out(round).glob("*.part"))


def killed(round: Round) -> None:
    """kill -9 before any file operation, or at any moment."""
    if round.rng.random() < 0.5:
        fault = Fault(watched=str(out(round)), kill_at=round.rng.randint(1, 40))
        outcome = run(command(round), fault=fault)
    else:
        child = start(command(round))
        while not (out(round) / "log.jsonl").exists() and child.process.is_alive():
            time.sleep(0.01)
        time.sleep(round.rng.uniform(0, 2.5))
        child.kill()
        outcome = child.wait()
    round.struck += outcome.killed
    assert outcome.killed or outcome.code == 0, outcome
    finished(round, checkpoint(round))


def full_disk(round: Round) -> None:
    """The disk fills up at any file, or in the middle of a checkpoint."""
    way = round.rng.choice(("every write from the nth on", "a file may not grow", "a full disk"))
    size = round.rng.choice((300_000, 1_500_000, 3_000_000))
    with small_disk(out(round), size) if way == "a full disk" else nullcontext("") as made:
        fault = Fault(watched=str(out(round)), fail_at=round.rng.randint(1, 30))
        if way == "a file may not grow":
            fault = Fault(file_limit=round.rng.randint(10_000, 1_000_000))
        elif made:
            way, fault = f"a full disk ({made})", Fault()
        round.notes.add(way)
        outcome = run(command(round), fault=fault)
        before = checkpoint(round)
        told_of_the_disk(round, outcome)
        if made:
            subprocess.run(["mount", "-o", "remount,size=200000000", str(out(round))], check=True)
        finished(round, before)


def read_only_folder(round: Round) -> None:
    """A folder that cannot be written to is told before anything is computed."""
    out(round).mkdir()
    with read_only(out(round)):
        outcome = run(command(round), fault=Fault(powerless=True))
    assert outcome.code, outcome
    told_of_the_disk(round, outcome)


def two_at_once(round: Round) -> None:
    """Two processes on one folder: one is refused."""
    argv = command(round)
    outcomes = at_once(round, lambda: start(argv), lambda: start(argv), within_s=0.5)
    round.struck += 1
    assert sorted(outcome.code for outcome in outcomes) in ([0, 0], [0, 2]), outcomes
    for outcome in outcomes:
        if outcome.code:
            assert "is training in" in one_sentence(outcome)
    assert checkpoint(round)[0] == 2


def damaged(round: Round) -> None:
    """A checkpoint that is damaged, or of another recipe, is told and left as it is."""
    assert run(command(round)).code == 0
    path = out(round) / "checkpoint.pt"
    whole = path.read_bytes()
    changed: dict[str, Any] = {}
    if round.rng.random() < 0.3:
        changed = {"model": {**RECIPE["model"], "hidden": 96}}  # type: ignore[dict-item]
    else:
        at = round.rng.randrange(len(whole))
        path.write_bytes(whole[:at])
    left = path.read_bytes()
    outcome = run(command(round, **changed))
    round.struck += 1
    assert outcome.code == 1, outcome
    assert "cannot be gone on from" in one_sentence(outcome)
    assert path.read_bytes() == left


def clock(round: Round) -> None:
    """The wall clock jumps: the budget of minutes does not know it."""
    outcome = run(command(round), fault=Fault(clock=round.seed + 1))
    round.struck += 1
    assert outcome.code == 0, outcome
    finished(round, checkpoint(round))


SCENARIOS = {
    "kill -9": killed,
    "full disk": full_disk,
    "read-only folder": read_only_folder,
    "two on one folder": two_at_once,
    "damaged checkpoint": damaged,
    "clock jumps": clock,
    **faults_grpo.SCENARIOS,
}
