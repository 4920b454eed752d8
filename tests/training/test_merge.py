"""A merged policy: plain transformers loads it, it says what the adapter said, and its card is from its own records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from serving import served
from tuning import small_data, small_recipe, tiny_model

from sifthinker.agent.cli import run as sifthinker
from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.files import beside
from sifthinker.policy.load import EMBEDDED, load_policy
from sifthinker.policy.messages import ImagePart, Message, message
from sifthinker.training.folders import locked
from sifthinker.training.sft.run import train


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run on a tiny model, its learning rate so high that the adapter says something."""
    folder = tmp_path_factory.mktemp("merge")
    small_data(folder, 6)
    tiny_model(folder / "model", request.param)
    train(small_recipe(folder, epochs=1, max_steps=2, lr=0.05, warmup=0, max_pixels=8192), folder / "run")
    return folder


def asked(colour: int) -> list[Message]:
    pixels = np.random.default_rng(colour).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return [message("user", ImagePart(Image.fromarray(pixels)), "What is this?")]


def test_a_merged_run_says_what_its_adapter_says(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "merged"
    assert sifthinker(["merge", str(place / "run"), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    adapted, merged, base = (load_policy(str(folder)) for folder in (place / "run/policy", out, place / "model"))
    for colour in range(3):
        first, second = (policy.generate(asked(colour), max_new_tokens=12) for policy in (adapted, merged))
        assert first.token_ids == second.token_ids
        assert first.token_logprobs == pytest.approx(second.token_logprobs, abs=1e-4)
    told = [policy.generate(asked(0), max_new_tokens=12).token_logprobs for policy in (base, merged)]
    assert told[0] != pytest.approx(told[1], abs=1e-3), "the adapter changed nothing, so this shows nothing"
    assert merged.profile.dialect == "sif"
    assert merged.profile.box_space is BoxSpace.UNIT
    assert merged.profile.max_image_pixels == 8192
    assert merged.profile.name == "merged"


def test_plain_transformers_loads_it(place: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    out = place / "plain"
    assert sifthinker(["merge", str(place / "run/policy"), "--out", str(out), "--dtype", "bfloat16"]) == 0
    assert not list(out.glob("adapter*"))
    model = AutoModelForImageTextToText.from_pretrained(out, dtype="auto")
    assert model.dtype is torch.bfloat16
    processor = AutoProcessor.from_pretrained(out)
    chat = [
        {"role": "user", "content": [{"type": "image", "image": asked(0)[0].images[0]}, {"type": "text", "text": "?"}]}
    ]
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] > inputs["input_ids"].shape[1]


def test_the_card_is_written_from_the_run_s_own_records(place: Path, tmp_path: Path) -> None:
    scores = {"command": "sifthinker train score x", "n": 7, "modes": {"internal": {"scores": {"accuracy": 0.5}}}}
    (tmp_path / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    out = tmp_path / "shipped"
    arguments = [
        "merge",
        str(place / "run"),
        "--out",
        str(out),
        "--name",
        "Seer",
        "--scores",
        str(tmp_path / "scores.json"),
    ]
    assert sifthinker(arguments) == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    told = json.loads((out / "training.json").read_text(encoding="utf-8"))
    for said in (
        "# Seer",
        told["data"]["sha256"],
        "lr: 0.05",
        "sifthinker train score x",
        "0.500",
        "merged into weights",
    ):
        assert said in card
    assert str(place) not in card
    assert load_policy(str(out)).profile.name == "Seer"


def test_a_policy_that_was_trained_from_scratch_keeps_its_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["merge", str(EMBEDDED), "--out", str(tmp_path / "out")]
    assert sifthinker([*line, "--scores", "scores.json"]) == 2
    assert "leave --scores out" in capsys.readouterr().err
    assert sifthinker(line) == 0
    assert (tmp_path / "out/README.md").read_bytes() == (EMBEDDED / "README.md").read_bytes()


def test_a_checkpoint_can_be_merged_and_a_full_folder_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = place / "run/checkpoints/checkpoint-2"
    assert sifthinker(["merge", str(checkpoint), "--out", str(tmp_path / "out")]) == 0
    assert sifthinker(["merge", str(checkpoint), "--out", str(tmp_path / "out")]) == 2
    assert "not empty" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))


def test_several_runs_are_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_data(tmp_path, 6)
    tiny_model(tmp_path / "model", "qwen3_vl")
    for seed in (3, 4):
        recipe = small_recipe(tmp_path, epochs=1, max_steps=1, lr=0.05, warmup=0, max_pixels=8192, seed=seed)
        train(recipe, tmp_path / f"run{seed}")
    runs = [str(tmp_path / f"run{seed}") for seed in (3, 4)]
    for name, sources in (("a", runs[:1]), ("b", runs[1:]), ("mean", runs)):
        assert sifthinker(["merge", *sources, "--out", str(tmp_path / name), "--dtype", "float32"]) == 0
    a, b, mean = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b", "mean"))
    assert any(not torch.equal(a[name], b[name]) for name in a)
    for name, tensor in mean.items():
        assert torch.allclose(tensor, (a[name] + b[name]) / 2, atol=1e-7), name
    card = (tmp_path / "mean/README.md").read_text(encoding="utf-8")
    assert "the mean of those of 2 runs, of the seeds 3, 4" in card
    assert load_policy(str(tmp_path / "mean")).generate(asked(0), max_new_tokens=3).token_ids

    capsys.readouterr()
    assert sifthinker(["merge", str(EMBEDDED), runs[0], "--out", str(tmp_path / "no")]) == 2
    assert "only runs from one start can be averaged" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_what_a_killed_merge_left_is_removed_and_two_do_not_write_one_folder(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    left = beside(tmp_path / ".out.merging" / "out")
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    command = ["merge", str(place / "run"), "--out", str(out)]
    with locked(tmp_path / ".out.merging", doing="merging"):
        left.mkdir()
        assert sifthinker(command) == 2
        assert "is merging in" in capsys.readouterr().err
        assert left.is_dir()
    assert sifthinker(command) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    assert sifthinker(["merge", str(place / "run"), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "out cannot be written" in said
    assert "No space left" in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [("nowhere", 2, "no folder"), ("empty", 2, "no policy yet"), ("strange", 1, "sifthinker.json")],
)
def test_what_cannot_be_merged_is_one_sentence(
    name: str, code: int, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "strange").mkdir()
    for file in (place / "run/policy").iterdir():
        if file.name != "sifthinker.json":
            (tmp_path / "strange" / file.name).write_bytes(file.read_bytes())
    assert sifthinker(["merge", str(tmp_path / name), "--out", str(tmp_path / "out")]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_transformers_serve_serves_it_as_it_is(place: Path, tmp_path: Path) -> None:
    """Needs `pip install "transformers[serving]"`; skipped without."""
    out = tmp_path / "served"
    assert sifthinker(["merge", str(place / "run"), "--out", str(out)]) == 0
    with served(out) as url:
        local = load_policy(str(out))
        remote = load_policy(f"openai:{out}@{url}", profile=local.profile, call_timeout=120)
        assert remote.generate(asked(1), max_new_tokens=10).text == local.generate(asked(1), max_new_tokens=10).text
