"""`sifthinker train grpo` with a judge that fails, or cannot be reached: it ends, and no answer is paid a zero for it.

It is the one kind of training that asks a server. The embedded policy answers questions whose right answers are free
texts, so that a judge is asked of every completion that keeps to the form.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from trust.checks import network_lost
from trust.faults import Fault
from trust.harness import Outcome, Round, run
from trust.server import FAULTS

STEPS = 2
JUDGED = 0.5
"""What the server's judge thinks of every answer."""


@cache
def records(folder: Path) -> Path:
    """Questions with free answers, as records."""
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


def train(round: Round, fault: Fault | None = None) -> Outcome:
    """Two steps of one group each."""
    recipe = {
        "trainer": "grpo", "policy": "embedded", "seed": round.seed % 1000, "attention": "eager", "share_prompts": True,
        "data": {"kind": "records", "path": str(records(round.folder))},
        "rewards": {"judge": {"model": "stub", "url": round.server.url, "attempts": 2, "call_timeout": 0.5}},
        "rollouts": {"every": 1, "most": 4}, "report": [],
        "trl": {
            "max_steps": STEPS, "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 170,
            "gradient_checkpointing": False, "learning_rate": 0.1, "optim": "sgd", "scale_rewards": "none",
            "bf16": True, "save_steps": 1,
        },
    }  # fmt: skip
    path = round.folder / "grpo.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return run(["train", "grpo", str(path), "--out", str(out(round)), "--processes", "1"], fault=fault)


def out(round: Round) -> Path:
    return round.folder / "run"


def lived_through(round: Round, outcome: Outcome) -> None:
    """It ended with a policy; what no judge scored has the mean of its group, or no reward where there is none."""
    from sifthinker.policy.load import load_policy

    assert outcome.code == 0, outcome
    assert "Traceback" not in outcome.err, outcome
    assert [step["step"] for step in lines(out(round) / "metrics.jsonl") if "reward" in step] == [1, 2]
    assert load_policy(str(out(round) / "policy")).profile.dialect == "sif"
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


SCENARIOS = {"judge fails": server, "no network to the judge": no_network}
