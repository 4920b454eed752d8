"""A dry run looks at the very questions that the run begins with, and plans by their lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tuning import small_data

from sifthinker.agent.cli import run
from sifthinker.training.grpo.dry_run import dry_run
from sifthinker.training.grpo.plan import plan_of
from sifthinker.training.grpo.recipe import read_recipe
from sifthinker.training.grpo.run import build
from sifthinker.training.recipes import load_recipe
from sifthinker.training.sft.records import RunRecord


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    small_data(folder, 6)
    return folder / "data"


def test_it_shows_what_the_run_samples_first(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["trl"] |= {"per_device_train_batch_size": 8}
    recipe = read_recipe(settings)
    found = dry_run(recipe)
    trainer, _ = build(recipe, tmp_path, RunRecord.model_construct())
    batch = next(iter(trainer.get_train_dataloader()))
    assert found.first is not None
    assert found.first.questions == list(dict.fromkeys(row["id"] for row in batch))
    assert len(found.first.questions) == 4
    assert (found.rows, found.steps) == (40, 4)
    assert found.first.how.startswith("encoded")
    assert found.first.images == 2


def test_a_folder_of_records_is_read_for_a_model_that_is_not_here(records: Path) -> None:
    settings = load_recipe("qwen3-vl-4b-grpo") | {"data": {"kind": "records", "path": str(records)}}
    recipe = read_recipe(settings)
    found = dry_run(recipe)
    assert found.first is not None
    assert found.first.how.startswith("estimated")
    assert (found.first.images, found.rows) == (2, 6)
    assert 100 < found.first.image_tokens < found.first.longest < 1000
    assumed, seen = plan_of(recipe), found.plan
    assert seen.sequence_tokens != assumed.sequence_tokens
    assert seen.sequence_tokens == pytest.approx(found.first.longest + recipe.trl["max_completion_length"], rel=0.02)


def test_data_that_is_yet_to_be_made_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", "grpo", "qwen2.5-vl-7b-grpo", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "There is no data at data/sif: the lengths of prompts are assumed." in said
    assert run(["train", "grpo", "embedded-grpo", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "First round, encoded by the model's processor: 12 questions × 8 completions" in said
    assert "12,000 questions; 400 steps." in said
