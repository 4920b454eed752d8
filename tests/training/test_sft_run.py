"""A run of supervised fine-tuning: it learns, resumes to the same weights, asks its questions, and leaves a policy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText
from tuning import small_data, small_recipe, tiny_model

from sifthinker.agent.cli import run as sifthinker
from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.errors import DataError, PolicyError, UsageError
from sifthinker.policy.load import load_policy
from sifthinker.policy.messages import ImagePart, message
from sifthinker.training import checkpoints
from sifthinker.training.sft.evaluation import Told, scores_of
from sifthinker.training.sft.records import begin
from sifthinker.training.sft.resuming import restore
from sifthinker.training.sft.run import train
from sifthinker.training.sft.schedule import Schedule
from sifthinker.training.sft.start import load_start
from sifthinker.training.sft.trainer import Journal


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a tiny Qwen3-VL."""
    folder = tmp_path_factory.mktemp("sft")
    small_data(folder)
    tiny_model(folder / "model")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows(run: Path) -> list[int]:
    return [row for line in lines(run / "samples.jsonl") for row in line["rows"]]


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """A run that was not interrupted."""
    train(small_recipe(place), place / "whole")
    return place / "whole"


def test_every_step_is_trained_on_the_rows_of_the_schedule(whole: Path, place: Path) -> None:
    schedule = Schedule(12, small_recipe(place))
    assert rows(whole) == list(range(len(schedule))) == list(range(24))
    named = [name for line in lines(whole / "samples.jsonl") for name in line["samples"]]
    assert {name.split(":")[1] for name in named} == {"internal", "tools", "direct"}
    assert any(name.endswith(":no-depth") for name in named)
    losses = [line["loss"] for line in lines(whole / "log.jsonl") if "loss" in line]
    assert len(losses) == 6


def test_it_leaves_a_policy_that_loads_and_tells_where_it_comes_from(whole: Path, place: Path) -> None:
    folder = whole / "policy"
    assert (folder / "adapter_model.safetensors").is_file()
    assert not list(folder.glob("optimizer*")) + list(folder.glob("*.bin"))
    policy = load_policy(str(folder))
    assert policy.profile.dialect == "sif"
    assert policy.profile.box_space is BoxSpace.UNIT
    told = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert told["data"]["records"] == 12
    assert told["trainable"] > 0
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert told["data"]["sha256"] in card
    assert str(place) not in card


def test_a_second_run_of_a_finished_one_changes_nothing(whole: Path, place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file() and path.name != "lock"}
    train(small_recipe(place), whole)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_in_the_same_folder_are_refused_by_name(whole: Path, place: Path) -> None:
    with pytest.raises(UsageError, match="lr"):
        train(small_recipe(place, lr=5e-4), whole)


def test_a_resumed_run_ends_in_the_same_weights(whole: Path, place: Path) -> None:
    """Dropout, order, optimiser and learning rate go on where they were; a half-written checkpoint is passed over."""
    run = place / "resumed"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "policy")
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**record, "finished": False}), encoding="utf-8")
    last = checkpoints.whole_checkpoints(run / "checkpoints")
    assert [checkpoints.step_of(path) for path in last] == [4, 6]
    (last[-1] / "adapter_model.safetensors").write_bytes(b"half")
    (run / "checkpoints/.saving/checkpoint-5").mkdir(parents=True)
    assert checkpoints.latest(run / "checkpoints") == last[0]
    train(small_recipe(place), run)
    assert rows(run) == rows(whole)
    first, second = (load_file(folder / "policy/adapter_model.safetensors") for folder in (whole, run))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (run / "checkpoints/.saving").exists()


def test_a_resumed_run_of_all_weights_ends_in_the_same_weights(place: Path, tmp_path: Path) -> None:
    """transformers writes Qwen2.5-VL's under other names than they have in memory."""
    model = tiny_model(tmp_path / "model", "qwen2_5_vl")
    recipe = small_recipe(
        place, model=str(model), lora=None, train_vision=True, modes={"internal": 1}, batch=1, accumulate=1,
        max_steps=2, save_every=1, lr=1e-2, warmup=0,
    )  # fmt: skip
    weights = load_file(train(recipe, tmp_path / "run") / "model.safetensors")
    record = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    (tmp_path / "run/run.json").write_text(json.dumps({**record, "finished": False}), encoding="utf-8")
    checkpoints.remove(tmp_path / "run/checkpoints/checkpoint-2")
    resumed = load_file(train(recipe, tmp_path / "run") / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in weights.items())


def test_weights_of_another_model_are_no_checkpoint(tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny_model(tmp_path / "model", "qwen2_5_vl"))
    path = tmp_path / "model/model.safetensors"
    weights = load_file(path)
    save_file({**weights, "more.weight": torch.ones(1)}, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"more\.weight is unexpected, 1 such"):
        restore(model, tmp_path / "model")
    name = next(name for name in weights if "layernorm" in name)
    save_file({other: weights[other] for other in weights if other != name}, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match="is missing, 1 such"):
        restore(model, tmp_path / "model")
    path.write_bytes(b"half")
    with pytest.raises(DataError, match="cannot be read"):
        restore(model, tmp_path / "model")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_one_step_with_two_images_moves_the_adapter_and_nothing_else(place: Path, tmp_path: Path, family: str) -> None:
    model = tiny_model(tmp_path / "model", family)
    recipe = small_recipe(
        place, model=str(model), modes={"internal": 1}, depth_dropout=0, epochs=1, max_steps=1, batch=2, accumulate=1,
        warmup=0, checkpointing=True,
    )  # fmt: skip
    train(recipe, tmp_path / "run")
    adapter = load_file(tmp_path / "run/policy/adapter_model.safetensors")
    assert all("visual" not in name for name in adapter)
    moved = [float(tensor.abs().max()) for name, tensor in adapter.items() if "lora_B" in name]
    assert moved
    assert min(moved) > 0, "every layer of the language model was reached"
    (line,) = lines(tmp_path / "run/samples.jsonl")
    assert len(line["rows"]) == 2


def test_full_training_spares_the_vision_tower_unless_told(place: Path) -> None:
    model, _, _ = load_start(small_recipe(place, lora=None), name="full")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert not any("visual" in name for name in trained)
    model, _, _ = load_start(small_recipe(place, lora=None, train_vision=True), name="full")
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_it_asks_held_out_questions_keeps_the_best_and_stops(place: Path, tmp_path: Path) -> None:
    asked = {"questions": 2, "every": 1, "patience": 2, "max_new_tokens": 8}
    run = tmp_path / "run"
    train(small_recipe(place, evaluation=asked, save_every=100, keep=1), run)
    scores = [line for line in lines(run / "log.jsonl") if "eval_score" in line]
    assert [line["step"] for line in scores] == [1, 2, 3], "no score rose above the first, so the third ends it"
    assert scores[0]["eval_n"] == 2
    assert {"eval_accuracy", "eval_hiou", "eval_valid"} <= set(scores[0])
    told = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert told["step"] == 3
    assert told["trained_on"] == 10
    assert "| 3 (these weights) |" in (run / "policy/README.md").read_text(encoding="utf-8")


def test_questions_that_cannot_be_asked_are_counted_and_are_no_score_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fine, torn = Told("a", 1.0, 1.0, True), Told("b", 0.0, 0.0, False, "CUDA out of memory.")
    total = scores_of([fine, torn, torn, fine])
    assert (total.n, total.failed, total.accuracy) == (4, 2, 0.5)
    assert "2 of 4 held-out questions failed and count as wrong: CUDA out of memory." in caplog.text
    with pytest.raises(PolicyError, match=r"None of the 2 .* could be asked\. The first: CUDA out of memory\."):
        scores_of([torn, torn])


def test_a_run_that_has_trained_nothing_yet_takes_other_settings(place: Path, tmp_path: Path) -> None:
    before, after = small_recipe(place), small_recipe(place, accumulate=3)
    tmp_path.joinpath("run").mkdir()
    begin(before, tmp_path / "run", processes=1, write=True)
    assert begin(after, tmp_path / "run", processes=1, write=True).recipe["accumulate"] == 3
    assert begin(after, tmp_path / "run", processes=1, write=True).recipe["accumulate"] == 3
    (tmp_path / "run/policy").mkdir()
    with pytest.raises(UsageError, match="accumulate"):
        begin(before, tmp_path / "run", processes=1, write=True)


def test_what_was_left_out_is_counted_over_a_resume(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "left_out": 5}\n', encoding="utf-8")
    trainer: Any = SimpleNamespace(left_out=0)
    Journal(tmp_path, str).follow(trainer)
    assert trainer.left_out == 5


def test_the_embedded_policy_is_a_start_as_well(place: Path, tmp_path: Path) -> None:
    recipe = small_recipe(place, model="embedded", lora=None, train_vision=True, epochs=1, max_steps=1)
    folder = train(recipe, tmp_path / "run")
    policy = load_policy(str(folder))
    assert policy.profile.domain == "block world"
    assert policy.profile.box_decimals == 2
    image = ImagePart(small_picture())
    assert policy.generate([message("user", image, "What?")], max_new_tokens=3).completion_tokens > 0


def small_picture() -> Any:
    from PIL import Image

    return Image.new("RGB", (64, 64), "red")


def test_an_adapter_on_the_embedded_policy_names_it_and_not_this_machine(place: Path, tmp_path: Path) -> None:
    folder = train(small_recipe(place, model="embedded", epochs=1, max_steps=1), tmp_path / "run")
    told = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert told["base_model_name_or_path"] == "embedded"
    assert load_policy(str(folder)).profile.rgb_px == 192


def test_a_limit_of_pixels_holds_for_whoever_loads_the_policy(place: Path, tmp_path: Path) -> None:
    folder = train(small_recipe(place, epochs=1, max_steps=1, max_pixels=2048), tmp_path / "run")
    policy = load_policy(str(folder))
    assert policy.profile.max_image_pixels == 2048
    assert dict(policy.processor.image_processor.size)["longest_edge"] == 2048


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("trainer: trl\nmodel: embedded\n", "--data"),
        ("trainer: trl\nmodel: embedded\nmodes: {internal: 0}\n", "above zero"),
        ("trainer: trl\nlearning_rate: 1\n", "learning_rate"),
        ("trainer: other\n", "trl"),
    ],
)
def test_wrong_use_is_one_sentence(
    settings: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(settings)
    assert sifthinker(["train", "sft", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_folder_without_records_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sifthinker(["train", "sft", "embedded-sft", "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 1
    assert "sifthinker data build" in capsys.readouterr().err


def test_a_recipe_for_gpus_says_so_where_there_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    code = sifthinker(
        ["train", "sft", "qwen3-vl-4b-lora-24gb", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    )
    assert code == 1
    assert "--dry-run" in capsys.readouterr().err
