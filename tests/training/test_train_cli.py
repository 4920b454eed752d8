"""`sifthinker train`: recipes by name or file, and what is said when they do not fit."""

from pathlib import Path

import pytest

from sifthinker.agent.cli import run
from sifthinker.policy.errors import UsageError
from sifthinker.training.grpo.recipe import GrpoRecipe
from sifthinker.training.recipes import fitted, load_recipe, recipe_names
from sifthinker.training.scratch.recipe import ScratchRecipe
from sifthinker.training.sft.recipe import SftRecipe


def test_the_embedded_recipe_comes_with_the_package_and_fits() -> None:
    assert "embedded" in recipe_names()
    settings = load_recipe("embedded")
    assert settings.pop("trainer") == "scratch"
    ScratchRecipe.model_validate(settings)


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="embedded"):
        load_recipe("nope")


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"recipe\.yaml"):
        load_recipe(str(path))


def test_a_misspelt_field_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("trainer: scratch\nminuets: 3\n")
    assert run(["train", "sft", str(path), "--out", str(tmp_path / "run"), "--processes", "1"]) == 2
    assert "minuets" in capsys.readouterr().err


@pytest.mark.parametrize("trainer", ["scratch", "trl", "grpo"])
def test_what_does_not_fit_in_a_recipe_is_said_in_one_sentence(trainer: str) -> None:
    kind = {"scratch": ScratchRecipe, "trl": SftRecipe, "grpo": GrpoRecipe}[trainer]
    with pytest.raises(UsageError, match=r"^The recipe does not fit: minuets: Extra inputs are not permitted\.$"):
        fitted(kind, {"minuets": 3})


def test_the_command_that_a_dry_run_shows_trains_what_it_planned(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--minutes", "3.0", "--processes", "2", "--set", "scenes=4"]
    assert run(["train", "sft", "embedded", "--dry-run", *given]) == 0
    shown = capsys.readouterr().out.rpartition("Command:")[2].split()
    assert shown[0] == "torchrun"
    assert shown[-len(given) :] == given


def test_a_run_without_a_checkpoint_cannot_be_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "export", str(tmp_path), "--out", str(tmp_path / "policy")]) == 2
    assert "checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_of_trl_is_not_exported_but_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert run(["train", "export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"sifthinker merge {tmp_path} --out" in capsys.readouterr().err


def test_two_processes_train_together_and_leave_a_policy(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "trainer: scratch\ncompiled: false\nvision_minutes: 0.02\nfind_minutes: 0.02\nminutes: 0.05\n"
        "scenes: 2\nvision_scenes: 2\nfind_scenes: 2\n"
        "model: {hidden: 48, layers: 2, heads: 2, mlp: 64, vision_hidden: 32, vision_layers: 1, vision_heads: 2}\n"
    )
    assert run(["train", "sft", str(recipe), "--out", str(tmp_path / "run"), "--processes", "2"]) == 0
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()
