"""Two processes on the CPU train one adapter: they share the rows between them, and one of them writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tuning import small_data, small_recipe, tiny_model

from sifthinker.agent.cli import run as sifthinker
from sifthinker.policy.load import load_policy

pytestmark = pytest.mark.slow


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.timeout(900)
def test_two_processes_train_evaluate_and_resume(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small_data(tmp_path)
    tiny_model(tmp_path / "model")
    recipe = small_recipe(
        tmp_path, machines={"processes": 2}, accumulate=1, epochs=1,
        evaluation={"questions": 3, "every": 2, "max_new_tokens": 8},
    )  # fmt: skip
    settings = json.loads(recipe.model_dump_json(exclude={"name"}))
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump({"trainer": "trl", **settings}), encoding="utf-8")
    run = tmp_path / "run"
    assert sifthinker(["train", "sft", str(file), "--out", str(run)]) == 0
    steps = lines(run / "samples.jsonl")
    assert [step["rows"] for step in steps[:2]] == [[0, 1, 2, 3], [4, 5, 6, 7]], "two processes of two samples"
    assert 8 in steps[2]["rows"]  # type: ignore[operator]
    scores = [line for line in lines(run / "log.jsonl") if "eval_score" in line]
    assert {line["eval_n"] for line in scores} == {3}, "each question is asked once, by one of them"
    assert load_policy(str(run / "policy")).profile.dialect == "sif"
    assert yaml.safe_load((run / "accelerate.yaml").read_text(encoding="utf-8"))["num_processes"] == 2
    capfd.readouterr()
    assert sifthinker(["train", "sft", str(file), "--out", str(run)]) == 0
    told = " ".join(capfd.readouterr().err.split())
    assert told.count("is complete") == 1, "one of them says it"
    assert lines(run / "samples.jsonl") == steps


@pytest.mark.timeout(900)
def test_the_same_command_on_two_machines_trains_one_adapter(tmp_path: Path) -> None:
    """Two machines that are one: each has one process of the run, and reaches the first by its address."""
    small_data(tmp_path)
    tiny_model(tmp_path / "model")
    recipe = small_recipe(tmp_path, machines={"processes": 2, "nodes": 2}, accumulate=1, epochs=1)
    settings = json.loads(recipe.model_dump_json(exclude={"name"}))
    file, run = tmp_path / "two.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump({"trainer": "trl", **settings}), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    line = [sys.executable, "-m", "sifthinker.training", "train", "sft", str(file), "--out", str(run)]
    here = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    machines = [subprocess.Popen(line, env={**here, "NODE_RANK": str(rank)}) for rank in range(2)]
    assert [machine.wait(timeout=600) for machine in machines] == [0, 0]
    assert [step["rows"] for step in lines(run / "samples.jsonl")[:2]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert load_policy(str(run / "policy")).profile.dialect == "sif"
    config = yaml.safe_load((run / "accelerate.yaml").read_text(encoding="utf-8"))
    assert (config["num_machines"], config["num_processes"]) == (2, 2)
