"""GRPO-SIF runs: on tiny models with two images a sample, equal to TRL's own, and the same after a break."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from building import built, questions
from safetensors.torch import load_file

from sifthinker.agent.cli import run as command
from sifthinker.policy.errors import UsageError
from sifthinker.policy.load import load_policy
from sifthinker.training import checkpoints
from sifthinker.training.grpo.data import load_rows
from sifthinker.training.grpo.recipe import read_recipe
from sifthinker.training.grpo.record import begin
from sifthinker.training.grpo.run import train
from sifthinker.training.grpo.start import arguments, load_start
from sifthinker.training.grpo.trainer import FocusGRPOTrainer
from sifthinker.training.rewards import ProgressMemory
from sifthinker.training.sft.start import lora_config


def _lengthy(completions: list[Any], **columns: Any) -> list[float]:
    """Pays for letters: something that random models differ in."""
    return [sum(letter.isalpha() for letter in one[0]["content"]) / 10 for one in completions]


def _tiny(folder: Path, data: Path, settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    recipe = {
        **settings,
        "policy": str(folder),
        "data": {"kind": "records", "path": str(data)},
        "attention": "eager",
        **changes,
    }
    recipe["trl"] = {**settings["trl"], "max_steps": 1, "max_completion_length": 12, "learning_rate": 1e-2}
    return recipe


def _stepped(settings: dict[str, Any], out: Path) -> tuple[FocusGRPOTrainer, dict[str, torch.Tensor]]:
    """A trainer after its steps, and the trained parameters."""
    recipe = read_recipe(settings)
    args = arguments(recipe, out)
    model, processor, profile = load_start(recipe, name="tiny")
    trainer = FocusGRPOTrainer(
        memory=ProgressMemory(),
        share_prompts=recipe.share_prompts,
        model=model,
        reward_funcs=[_lengthy],
        args=args,
        train_dataset=load_rows(recipe.data, profile),
        processing_class=processor,
        peft_config=lora_config(recipe.lora) if recipe.lora else None,
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    return trainer, {name: after[name].detach() - was for name, was in before.items()}


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_one_step_with_two_images_a_sample_and_lora(
    family: str, tiny_folders: dict[str, Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    built(questions(tmp_path / "s", 4), tmp_path / "data")
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0}
    recipe = _tiny(
        tiny_folders[family], tmp_path / "data", settings, lora=lora, train_vision=False, share_prompts=False
    )
    trainer, changed = _stepped(recipe, tmp_path / "run")
    assert len(trainer.train_dataset[0]["images"]) == 2
    assert changed
    assert all("lora" in name and "visual" not in name for name in changed)
    assert any(float(change.abs().max()) > 0 for change in changed.values())


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("adapter", [True, False])
def test_a_step_with_shared_prompts_is_trls_own_step(
    family: str, adapter: bool, tiny_folders: dict[str, Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    built(questions(tmp_path / "s", 4), tmp_path / "data")
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0} if adapter else None
    found = []
    for share in (False, True):
        recipe = _tiny(
            tiny_folders[family], tmp_path / "data", settings, lora=lora, train_vision=lora is None, share_prompts=share
        )
        recipe["trl"] |= {"beta": 0.04, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 1e9}
        trainer, changed = _stepped(recipe, tmp_path / f"run{share}")
        logged = trainer.state.log_history[0]
        found.append((changed, {name: logged[name] for name in ("reward", "entropy", "completions/mean_length", "kl")}))
    (plain, told), (shared, also) = found
    assert also == pytest.approx(told, abs=1e-4)
    assert set(plain) == set(shared)
    largest = max(float(change.abs().max()) for change in plain.values())
    assert largest > 0
    for name, change in plain.items():
        torch.testing.assert_close(
            shared[name], change, atol=1e-4 * largest, rtol=1e-2, msg=lambda m, n=name: f"{n}: {m}"
        )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _told(run: Path) -> list[dict[str, Any]]:
    """What a run logged, without its times."""
    lines = _lines(run / "metrics.jsonl")
    return [
        {k: v for k, v in line.items() if "time" not in k and "runtime" not in k and "second" not in k}
        for line in lines
    ]


def test_a_run_goes_from_recipe_to_policy_and_after_a_break_as_if_there_had_been_none(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["data"] |= {"count": 3, "families": ["closer"]}  # so that samples come again, and progress is paid
    settings["rewards"] = {"form": "robust"}
    settings["trl"] |= {"max_completion_length": 170, "learning_rate": 1e-5}  # whole traces, that earn something
    recipe = read_recipe(settings)
    whole = train(recipe, tmp_path / "whole")
    policy = load_policy(str(whole))
    assert (policy.profile.name, policy.profile.dialect, policy.profile.domain) == ("whole", "sif", "block world")
    assert "grpo" in (whole / "README.md").read_text()
    assert not list(whole.glob("*optimizer*")) + list(whole.glob("*.pth")) + list(whole.glob("*.bin"))
    assert [line["step"] for line in _lines(tmp_path / "whole/trajectory.jsonl")] == [1, 2, 3, 4]
    assert (tmp_path / "whole/rollouts/step-000002.html").is_file()
    assert max(line.get("grad_norm", 0) for line in _lines(tmp_path / "whole/metrics.jsonl")) > 0
    last = tmp_path / "whole/checkpoints/checkpoint-4"
    assert len(json.loads((last / "progress.json").read_text())["means"]) == 3

    broken = tmp_path / "broken"
    train(recipe, broken)
    (broken / "run.json").write_text(
        json.dumps({**json.loads((broken / "run.json").read_text()), "finished": False}), encoding="utf-8"
    )
    checkpoints.remove(broken / "checkpoints/checkpoint-4")
    half = broken / "checkpoints/checkpoint-3"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    train(recipe, broken)
    assert _lines(broken / "trajectory.jsonl") == _lines(tmp_path / "whole/trajectory.jsonl")
    assert _told(broken)[:4] == _told(tmp_path / "whole")[:4]
    ours, theirs = load_file(broken / "policy/model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    progress = "checkpoints/checkpoint-4/progress.json"
    assert (broken / progress).read_text() == (tmp_path / "whole" / progress).read_text()

    again = (broken / "policy/model.safetensors").stat().st_mtime_ns
    train(recipe, broken)
    assert (broken / "policy/model.safetensors").stat().st_mtime_ns == again, "a run that is complete is left alone"
    with pytest.raises(UsageError, match="seed"):
        train(recipe.model_copy(update={"seed": 9}), broken)


def test_a_resumed_run_of_all_weights_goes_on_from_them(
    tiny_folders: dict[str, Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    """transformers writes Qwen2.5-VL's under other names than they have in memory."""
    built(questions(tmp_path / "s", 4), tmp_path / "data")
    recipe = _tiny(tiny_folders["qwen2_5_vl"], tmp_path / "data", settings, rewards={"form": "random"}, average=1)
    recipe["trl"] |= {"max_steps": 2, "save_steps": 1}
    weights = load_file(train(read_recipe(recipe), tmp_path / "run") / "model.safetensors")
    record = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    (tmp_path / "run/run.json").write_text(json.dumps({**record, "finished": False}), encoding="utf-8")
    checkpoints.remove(tmp_path / "run/checkpoints/checkpoint-2")
    resumed = load_file(train(read_recipe(recipe), tmp_path / "run") / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in weights.items())


def test_the_policy_is_the_mean_of_the_last_checkpoints_where_the_recipe_says_so(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings |= {"average": 2, "rollouts": {"every": 0}, "rewards": {"form": "random"}}
    settings["trl"] |= {"max_steps": 2, "save_steps": 1, "max_completion_length": 12, "learning_rate": 1e-2}
    policy = train(read_recipe(settings), tmp_path / "run")
    steps = [load_file(tmp_path / f"run/checkpoints/checkpoint-{n}/model.safetensors") for n in (1, 2)]
    mean = load_file(policy / "model.safetensors")
    assert any(not torch.equal(*(step[name] for step in steps)) for name in mean)
    assert all(torch.allclose(mean[name], (steps[0][name] + steps[1][name]) / 2) for name in mean)
    assert "mean of the last 2 checkpoints, up to that of step 2" in (policy / "README.md").read_text()
    load_policy(str(policy))


def test_a_folder_of_something_else_is_left_alone(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(UsageError, match=r"letters\.txt"):
        train(read_recipe(settings), tmp_path)


@pytest.mark.parametrize(("zero", "said"), [(0, "it first, or train with beta: 0."), (3, "it first.")])
def test_an_adapter_is_no_start_for_a_full_training_with_a_kl_term(
    zero: int, said: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    settings |= {"policy": str(tmp_path), "machines": {"zero": zero}}
    settings["trl"]["beta"] = 0.1
    with pytest.raises(UsageError, match="sifthinker merge") as refused:
        load_start(read_recipe(settings), name="x")
    assert str(refused.value).endswith(f"` {said}"), "what it advises is not refused in its turn"


def test_an_adapter_is_no_start_for_another_adapter(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    settings |= {"policy": str(tmp_path), "lora": {"rank": 2, "alpha": 2}, "train_vision": False}
    with pytest.raises(UsageError, match="sifthinker merge"):
        load_start(read_recipe(settings), name="x")


def test_another_share_of_the_records_is_another_run(settings: dict[str, Any], tmp_path: Path) -> None:
    built(questions(tmp_path / "s", 4), tmp_path / "data")
    settings["data"] = {"kind": "records", "path": str(tmp_path / "data"), "limit": 2}
    (tmp_path / "run").mkdir()
    assert begin(read_recipe(settings), tmp_path / "run", write=True).trained_on == 2
    assert begin(read_recipe(settings), tmp_path / "run", write=True).trained_on == 2
    settings["data"]["limit"] = 3
    assert begin(read_recipe(settings), tmp_path / "run", write=True).trained_on == 3  # nothing was trained yet
    settings["data"]["limit"] = 2
    (tmp_path / "run/policy").mkdir()
    with pytest.raises(UsageError, match="data"):
        begin(read_recipe(settings), tmp_path / "run", write=True)


@pytest.mark.slow
def test_two_processes_learn_as_one_that_has_the_same_groups(tmp_path: Path, settings: dict[str, Any]) -> None:
    import yaml

    settings["trl"] |= {"max_steps": 2, "per_device_train_batch_size": 2}
    settings["machines"] = {"processes": 2}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    assert command(["train", "grpo", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "two")]) == 0
    lines = _lines(tmp_path / "two/trajectory.jsonl")
    assert [len(line["ids"]) for line in lines] == [4, 4]
    assert [len(line["said"]) for line in lines] == [2, 2]
    assert len(set(lines[0]["ids"])) == 2
    assert load_policy(str(tmp_path / "two/policy")).profile.dialect == "sif"
