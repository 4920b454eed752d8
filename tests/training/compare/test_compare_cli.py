"""`sifthinker compare`: the command with the embedded policy, its wrong uses, its outputs."""

import json
from pathlib import Path
from typing import Any

import pytest
from comparing import patches

from sifthinker.agent.cli import run
from sifthinker.training.world.dataset import make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    list(make_world(folder, split="val", count=3, seed=6, workers=1))
    return folder


def test_the_embedded_policy_is_compared(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "--data", str(world), "--out", str(tmp_path / "o"), "--modes", "direct,internal",
               "--engine", "threads", "--timed", "0"]  # fmt: skip
    assert run([*command, "--limit", "2", "--json"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told == json.loads((tmp_path / "o" / "results.json").read_text())
    assert told["modes"]["internal"]["n"] == 2
    assert told["about"]["policies"]["embedded"]["weights"].startswith("sha256:")
    assert (tmp_path / "o" / "report.html").is_file()
    assert run(command) == 0
    printed = capsys.readouterr()
    assert "2 answers in this run, 4 before it" in printed.err
    assert "against direct" in printed.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--modes", "direct,guess"], "there is no 'guess'"),
        (["--modes", ""], "each once, got ''"),
        (["--modes", "direct,direct"], "each once"),
        (["--controls", "evil"], "expected some of oracle, random, centre, wrong"),
        (["--seeds", "one"], "--seeds: expected whole numbers"),
        (["--seeds", "0,0"], "each once"),
        (["--limit", "0"], "--limit"),
        (["--engine", "spark"], "--engine auto, threads, processes or ray"),
        (["--set", "colour"], "--set KEY=VALUE"),
        (["--policy", "nothing at all"], "names no policy"),
        (["--faithfulness", "--faithfulness-modes", "direct"], "cites no region"),
        (["--faithfulness", "--edits", "erase"], "there is no 'erase'"),
        (["--depth", "exact", "--modes", "direct"], "no exact depth"),
    ],
)
def test_wrong_use_is_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = patches(tmp_path / "d", 1)
    assert run(["compare", "--data", str(data), "--out", str(tmp_path / "o"), "--engine", "threads", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.strip().splitlines()[-1].startswith("sifthinker: ")
    assert "Traceback" not in error


def test_settings_of_the_runs_and_options_of_the_policies_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sifthinker.training.compare import cli

    made: list[Any] = []
    monkeypatch.setattr(cli, "_run", lambda comparison, *, as_json: made.append(comparison))
    words = ["--set", "deadline_s=1200", "--set", "call_timeout=90", "--set", "dtype=bfloat16", "--max-steps", "3"]
    assert run(["compare", "--data", "d", "--out", str(tmp_path), "-p", "openai:m@http://localhost:1", *words]) == 0
    settings, options = made[0].asking.settings, made[0].asking.options
    assert (settings["deadline_s"], settings["call_timeout_s"], settings["max_steps"]) == (1200, 90, 3)
    assert (options["dtype"], options["call_timeout"], "deadline_s" in options) == ("bfloat16", 90, False)


def test_data_and_folder_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--out", "o"]) == 2
    assert "--data" in capsys.readouterr().err
    assert run(["compare", "--data", "d"]) == 2
    assert "--out" in capsys.readouterr().err


def test_the_help_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--help"]) == 0
    said = capsys.readouterr().out
    assert "Ask the same questions in several modes" in said
    assert "--faithfulness" in said
    assert run(["--help"]) == 0
    assert "compare" in capsys.readouterr().out
