"""The benchmark command: what a figure says of itself, what is printed, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from performance import command, measure
from performance.figures import Figure, number
from performance.measure import NotHere, ratios, rounds
from performance.page import BEGIN, END, put


def test_a_figure_reaches_its_target_by_its_median() -> None:
    figure = Figure("speed", [2.0, 3.5, 3.1], "a loop", at_least=3)
    assert figure.value == 3.1
    assert figure.spread == (2.0, 3.5)
    assert figure.reached
    assert figure.verdict == "yes, 2 of 3"
    assert Figure("time", [0.4, 0.5], at_most=0.3, unit="ms").verdict == "no"
    assert Figure("time", [0.4], unit="ms").verdict == Figure("time", [0.4], unit="ms").target == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12399, "12,399"), (48.21, "48.2"), (3.456, "3.46"), (0.0213, "0.021"), (0.0, "0.00"), (-0.5, "-0.50")],
)
def test_numbers_have_the_digits_that_count(value: float, shown: str) -> None:
    assert number(value) == shown


def test_repetitions_take_turns_and_the_first_does_not_count() -> None:
    calls: list[str] = []

    def way(name: str, value: float) -> float:
        calls.append(name)
        return value

    found = rounds(2, lambda: way("a", 6.0), lambda: way("b", 2.0))
    assert "".join(calls) == "ba" + "ab" + "ba"
    assert found == [[6.0, 2.0], [6.0, 2.0]]
    assert ratios(found, 0, 1) == [3.0, 3.0]


def test_every_line_has_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("httpx")
    for name in command.LINES:
        assert callable(import_module(f"performance.lines.{name}").figures)
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(command.LINES)


@pytest.mark.parametrize("wrong", [["--only", "nothing"], ["--repeat", "0"], ["more"], ["--page", "nowhere"]])
def test_wrong_use_ends_with_two(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(wrong)
    assert ended.value.code == 2


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines in place of all: one that gives a figure, one that cannot."""

    def fast(repeat: int) -> Iterator[Figure]:
        yield Figure("speed", [3.0] * repeat, "a loop", at_least=2, note="6 and 2 s")
        yield Figure("size", [1.0] * repeat, "", "MB")

    def absent(repeat: int) -> Iterator[Figure]:
        raise NotHere("the weights are not there")
        yield

    modules = {"performance.lines.fast": fast, "performance.lines.absent": absent}
    monkeypatch.setattr(command, "LINES", {"fast": "Fast", "absent": "Absent"})
    monkeypatch.setattr(command, "import_module", lambda name: SimpleNamespace(figures=modules[name]))


@pytest.mark.usefixtures("lines")
def test_the_table_says_what_was_reached_and_what_could_not_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--repeat", "2"]) == 1
    said = capsys.readouterr().out
    assert "| speed | a loop | 3.00 × | ≥ 2.00 × | yes |" in said
    assert "not measured: the weights are not there" in said
    assert "1 of 1 targets reached, 2 repetitions each." in said
    assert "speed: 6 and 2 s" in said


@pytest.mark.usefixtures("lines")
def test_json_holds_every_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--json", "--repeat", "3", "--only", "fast"]) == 0
    said = json.loads(capsys.readouterr().out)
    [line] = said["lines"]
    assert line["figures"][0]["values"] == [3.0, 3.0, 3.0]
    assert line["figures"][0]["reached"] is True
    assert line["figures"][1]["reached"] is None
    assert said["machine"]["versions"]["torch"]


def test_a_process_that_fails_is_told() -> None:
    with pytest.raises(NotHere, match="ended with 3"):
        measure.child_seconds("-c", "import sys; sys.exit(3)")()


@pytest.mark.usefixtures("lines")
def test_a_page_gets_the_rows_of_each_line_and_keeps_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n{BEGIN}\n{END}\n\nAfter.\n", encoding="utf-8")
    assert command.main(["--repeat", "2", "--page", str(page)]) == 1
    assert command.main(["--only", "fast", "--repeat", "3", "--page", str(page)]) == 0
    said = page.read_text(encoding="utf-8")
    assert said.startswith(f"Before.\n\n{BEGIN}\n| measured |")
    assert said.endswith(f"{END}\n\nAfter.\n")
    assert said.count("| speed | a loop | 3.00 × | ≥ 2.00 × | yes |") == 1
    assert said.index("**Fast**") < said.index("**Absent**")
    assert "3 repetitions | | | |" in said
    assert "| not measured: the weights are not there | | | | |" in said
    assert "fast" not in capsys.readouterr().err


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Nothing.", encoding="utf-8")
    with pytest.raises(ValueError, match="marks"):
        put(page, "Fast", [], "", machine={}, repeat=1, order=[])


def test_every_profile_has_a_function() -> None:
    assert tuple(import_module("performance.profiles").PROFILES) == command.PROFILES


def test_a_profile_sets_both_ways_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("scipy")
    assert command.main(["--profile", "rewards"]) == 0
    said = capsys.readouterr().out.splitlines()
    [read] = [line for line in said if "nearest" in line]
    assert read.split("|")[2].strip().endswith("in 48 calls")
    assert not read.split("|")[3].strip()
    assert said[-1].startswith("| **whole** |")
