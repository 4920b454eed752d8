"""`sifthinker train grpo` under faults: with a judge that fails or cannot be reached it ends, and no answer is paid a
zero for it; on a full disk it says so, and goes on from its last checkpoint.

It is the one kind of training that asks a server. The embedded policy answers questions whose right answers are free
texts, so that a judge is asked of every completion that keeps to the form. The trainer is TRL's, as it is in SFT.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from trust.checks import network_lost, told_of_the_disk
from trust.faults import Fault, small_disk
from trust.harness import Outcome, Round, one_sentence, run
from trust.server import FAULTS

STEPS = 2
JUDGED = 0.5
"""What the server's judge thinks of every answer."""


def records(folder: Path) -> Path:
    """Questions with free answers, as records."""
    if (folder / "data").is_dir():
        return folder / "data"
    source = folder / "questions.jsonl"
    made = run(
        ["world", "make", "--split", "train", "--count", "6", "--seed", "5", "--size", "96", "--out", str(folder / "w")]
    )
    assert made.code == 0, made
    with source.open("w", encoding="utf-8") as file:
        for line in (folder / "w" / "questions.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            free = {"image": f"w/{row['image']}", "question": row["question"], "answer": f"perhaps {row['answer']}"}
            file.write(json.dumps({**free, "boxes": [box["bbox_2d"] for box in row["boxes"]], "space": "unit"}) + "\n")
    config = folder / "build.yaml"
    config.write_text("depth: none\n", encoding="utf-8")
    words = ["data", "build", str(folder / "data"), "--source", f"jsonl/unit:{source}", "--config", str(config)]
    built = run(words)
    assert built.code == 0, built
    return folder / "data"


def train(round: Round, fault: Fault | None = None, **trl: object) -> Outcome:
    """Two steps of one group each."""
    recipe = {
        "trainer": "grpo", "policy": "embedded", "seed": round.seed % 1000, "attention": "eager", "share_prompts": True,
        "data": {"kind": "records", "path": str(records(round.folder))},
        "rewards": {"judge": {"model": "stub", "url": round.server.url, "attempts": 2, "call_timeout": 0.5}},
        "rollouts": {"every": 1, "most": 4}, "report": [],
        "trl": {
            "max_steps": STEPS, "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 170,
            "gradient_checkpointing": False, "learning_rate": 0.1, "optim": "sgd", "scale_rewards": "none",
            "bf16": True, "save_steps": 1, **trl,
        },
    }  # fmt: skip
    path = round.folder / "grpo.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return run(["train", "grpo", str(path), "--out", str(out(round)), "--processes", "1"], fault=fault)


def out(round: Round) -> Path:
    return round.folder / "run"


def lived_through(round: Round, outcome: Outcome) -> None:
    """It ended with a policy; what no judge scored has the mean of its group, or no reward where there is none.

    A judge that scored nothing at all ended it in a sentence; then the same command with one that does.
    """
    if outcome.code == 1 and "has not given a single score" in one_sentence(outcome):
        round.server.reset()
        outcome = train(round)
    finished(round, outcome)
    rows = lines(out(round) / "rollouts" / "rollouts.jsonl")
    assert len(rows) == 4 * STEPS
    failed = 0
    for step in range(1, STEPS + 1):
        group = [(row["rewards"]["answer"], "judge" in row["why"]["answer"][0]) for row in rows if row["step"] == step]
        known = [score for score, free in group if not free or score == JUDGED]
        others = [score for score, free in group if free and score != JUDGED]
        failed += len(others)
        if known:
            assert others == pytest.approx([sum(known) / len(known)] * len(others), abs=1e-4), group
        else:
            assert others == [None] * len(others), group
    assert not failed or "failed on" in " ".join((outcome.err + outcome.out).split()), outcome


def finished(round: Round, outcome: Outcome) -> None:
    """It ended with all steps and a policy that loads."""
    from sifthinker.policy.load import load_policy

    assert outcome.code == 0, outcome
    assert "Traceback" not in outcome.err, outcome
    assert [step["step"] for step in lines(out(round) / "metrics.jsonl") if "reward" in step] == [1, 2]
    assert load_policy(str(out(round) / "policy")).profile.dialect == "sif"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def server(round: Round) -> None:
    """The judge answers 429 or 500, breaks off, sends something else, drops the line, or says nothing."""
    fault = round.rng.choice(FAULTS)
    round.server.plan = ["ok"] * round.rng.randint(0, 2) + [fault]
    round.server.then = fault if round.rng.random() < 0.6 else "ok"
    right = len(round.server.plan) - 1
    lived_through(round, train(round))
    round.struck += len(round.server.requests) > right


def no_network(round: Round) -> None:
    """The judge cannot be reached, for a while or from some moment on."""
    outcome = train(round, network_lost(round, 2))
    lived_through(round, outcome)
    round.struck += outcome.cut > 0


def full_disk(round: Round) -> None:
    """The disk fills up under a checkpoint, the policy, or a line of the log; AdamW's state is written by torch."""
    way = round.rng.choice(("a file may not grow", "a full disk"))
    size = round.rng.randint(10_000, 70_000_000)
    with small_disk(out(round), size) if way == "a full disk" else nullcontext("") as made:
        fault = Fault() if made else Fault(file_limit=round.rng.randint(1_000, 36_000_000))
        round.notes.add(f"{way} ({made})" if made else "a file may not grow")
        outcome = train(round, fault, optim="adamw_torch", learning_rate=1e-6)
        told_of_the_disk(round, outcome)
        if made:
            subprocess.run(["mount", "-o", "remount,size=300000000", str(out(round))], check=True)
        finished(round, train(round, optim="adamw_torch", learning_rate=1e-6))
        assert not [path for path in out(round).rglob(".*") if path.name not in (".saving",)]


SCENARIOS = {"judge fails": server, "no network to the judge": no_network, "full disk under GRPO": full_disk}
