"""`sifthinker train score`: a table of modes, and wrong use in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sifthinker.agent.cli import run
from sifthinker.policy.errors import PolicyError
from sifthinker.training.evaluate import Scored
from sifthinker.training.world.dataset import make_world


@pytest.fixture
def world(tmp_path: Path) -> Path:
    list(make_world(tmp_path / "world", split="val", count=2, workers=1))
    return tmp_path / "world"


def test_an_answer_without_a_trace_has_no_boxes_to_score(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "scores/of/today.json"
    command = ["train", "score", "embedded", "--data", str(world), "--modes", "direct,internal", "--json", str(told)]
    assert run(command) == 0
    said = capsys.readouterr()
    rows = {
        cells[1].strip(): cells[2:4] for cells in (row.split("│") for row in said.out.splitlines()) if len(cells) > 4
    }
    assert next(cell.strip() for cell in rows["hiou"]) == "–"
    assert float(rows["hiou"][1]) > 0
    assert float(rows["accuracy"][0]) >= 0
    assert "Loading weights" not in said.err
    assert set(json.loads(told.read_text())["modes"]) == {"direct", "internal"}


def test_scores_are_kept_after_each_mode(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "scores.json"

    def broken_off(policy: Any, records: Any, folder: Path, *, mode: str, **others: Any) -> list[Scored]:
        if mode == "internal":
            raise PolicyError("The second mode is broken off.")
        return [
            Scored(id=one.id, family=one.family, answer="", right=True, valid=True, hiou=0.0, depth_error=None,
                   seconds=0.0, images=2, tokens=9)
            for one in records
        ]  # fmt: skip

    monkeypatch.setattr("sifthinker.training.evaluate.score", broken_off)
    command = ["train", "score", "embedded", "--data", str(world), "--modes", "direct,internal", "--limit", "1"]
    assert run([*command, "--json", str(told)]) == 1
    assert "broken off" in capsys.readouterr().err
    kept = json.loads(told.read_text())
    assert kept["modes"]["direct"]["scores"]["accuracy"] == 1.0
    assert kept["command"].endswith("--limit 1")


@pytest.mark.parametrize(
    ("modes", "said"), [("direct,inner", "no 'inner'"), ("", "expected some"), ("direct,direct", "once")]
)
def test_modes_that_there_are_not_are_told_before_anything_is_loaded(
    modes: str, said: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "score", "embedded", "--data", str(world), "--modes", modes]) == 2
    assert said in capsys.readouterr().err


def test_what_is_sampled_is_drawn_from_the_seed(world: Path, tmp_path: Path) -> None:
    def answers(name: str, *words: str) -> list[tuple[str, float]]:
        told = tmp_path / name
        command = ["train", "score", "embedded", "--data", str(world), "--modes", "internal", "--json", str(told)]
        assert run([*command, *words]) == 0
        return [(one["answer"], one["hiou"]) for one in json.loads(told.read_text())["modes"]["internal"]["answers"]]

    sampled = answers("a.json", "--temperature", "1")
    assert answers("b.json", "--temperature", "1") == sampled
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["temperature"] == 1.0
    assert told["command"].endswith("--temperature 1")
    assert answers("c.json", "--temperature", "1", "--seed", "1") != sampled
    assert answers("d.json") != sampled
