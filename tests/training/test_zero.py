"""ZeRO-3 for real, on two processes of the CPU: the same numbers as without shards, and whole policies at the end.

Needs DeepSpeed and a C++ compiler (pip install deepspeed ninja); DeepSpeed compiles once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tuning import small_data, tiny_model

from sifthinker.agent.cli import run as sifthinker
from sifthinker.policy.load import load_policy
from sifthinker.training import checkpoints

pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SHARDED = {"processes": 2, "zero": 3, "precision": "no"}
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}


def sft(folder: Path, **fields: Any) -> dict[str, Any]:
    recipe = {
        "trainer": "trl", "model": str(folder / "model"), "data": str(folder / "data"), "attention": "eager",
        "modes": {"internal": 0.5, "tools": 0.5}, "batch": 1, "accumulate": 2, "lr": 1e-3, "max_steps": 3,
        "log_every": 1, "save_every": 1, "keep": 3, "report": [], "machines": SHARDED,
        "evaluation": {"questions": 3, "every": 2, "max_new_tokens": 8},
    }  # fmt: skip
    return {**recipe, **fields}


def grpo(folder: Path, **fields: Any) -> dict[str, Any]:
    trl = {
        "max_steps": 3, "per_device_train_batch_size": 2, "num_generations": 2, "gradient_accumulation_steps": 1,
        "max_completion_length": 12, "learning_rate": 1e-3, "bf16": False, "save_steps": 1, "beta": 0.04,
    }  # fmt: skip
    recipe = {
        "trainer": "grpo", "policy": str(folder / "model"), "data": {"kind": "records", "path": str(folder / "data")},
        "rewards": {"form": "random"},  # what such a model says earns nothing, and would move nothing
        "attention": "eager", "rollouts": {"every": 0}, "report": [], "keep": 3, "trl": trl, "machines": SHARDED,
    }  # fmt: skip
    return {**recipe, **fields}


def trained(kind: str, recipe: dict[str, Any], folder: Path, name: str) -> Path:
    """The folder of a run that has come to its end."""
    file, run = folder / f"{name}.yaml", folder / name
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert sifthinker(["train", kind, str(file), "--out", str(run)]) == 0
    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


def told(file: Path, *names: str) -> list[list[float]]:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [[line[name] for name in names] for line in lines if names[0] in line]


def again_from_the_first_step(run: Path) -> None:
    """As a run that was killed after its first step."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**record, "finished": False}), encoding="utf-8")
    for path in checkpoints.whole_checkpoints(run / "checkpoints")[1:]:
        checkpoints.remove(path)
    checkpoints.remove(run / "policy")


@pytest.mark.parametrize(("family", "lora"), [("qwen3_vl", None), ("qwen2_5_vl", LORA)])
def test_sft_learns_the_same_as_without_shards(family: str, lora: dict[str, Any] | None, tmp_path: Path) -> None:
    small_data(tmp_path)
    tiny_model(tmp_path / "model", family)
    sharded = trained("sft", sft(tmp_path, lora=lora), tmp_path, "sharded")
    plain = trained("sft", sft(tmp_path, lora=lora, machines={"processes": 2}), tmp_path, "plain")
    names = ("loss", "grad_norm")
    assert torch.allclose(
        torch.tensor(told(sharded / "log.jsonl", *names)), torch.tensor(told(plain / "log.jsonl", *names)), rtol=1e-4
    )
    assert told(sharded / "log.jsonl", "eval_n") == [[3.0], [3.0]]
    whole, also = weights(sharded / "policy"), weights(plain / "policy")
    assert whole.keys() == also.keys()
    for name, value in whole.items():
        torch.testing.assert_close(value, also[name], atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    assert load_policy(str(sharded / "policy")).profile.dialect == "sif"
    assert not list((sharded / "policy").glob("*.py")), "nothing of DeepSpeed's goes along"
    again_from_the_first_step(sharded)
    trained("sft", sft(tmp_path, lora=lora), tmp_path, "sharded")
    for name, value in weights(sharded / "policy").items():
        torch.testing.assert_close(value, whole[name], msg=lambda m, n=name: f"{n}, after a break: {m}")


@pytest.mark.parametrize(("family", "lora"), [("qwen3_vl", None), ("qwen2_5_vl", LORA)])
def test_grpo_samples_learns_and_goes_on(family: str, lora: dict[str, Any] | None, tmp_path: Path) -> None:
    small_data(tmp_path)
    start = tiny_model(tmp_path / "model", family)
    run = trained("grpo", grpo(tmp_path, lora=lora), tmp_path, "sharded")
    steps = told(run / "metrics.jsonl", "reward", "grad_norm", "completions/mean_length", "kl")
    assert len(steps) == 3
    assert min(norm for _, norm, _, _ in steps) > 0
    after = weights(run / "policy")
    if lora is None:
        before = weights(start)
        assert any(not torch.equal(after[name], before[name]) for name in before if name in after)
    else:
        assert any(bool(value.any()) for name, value in after.items() if "lora_B" in name)
    assert load_policy(str(run / "policy")).profile.dialect == "sif"
    again_from_the_first_step(run)
    trained("grpo", grpo(tmp_path, lora=lora), tmp_path, "sharded")
    assert told(run / "metrics.jsonl", "reward", "grad_norm", "completions/mean_length", "kl") == steps
    for name, value in weights(run / "policy").items():
        torch.testing.assert_close(value, after[name], msg=lambda m, n=name: f"{n}, after a break: {m}")
