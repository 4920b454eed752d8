"""What a training gained is told question by question, and called a gain only where it is one."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sifthinker.agent.cli import run
from sifthinker.policy.errors import SifthinkerError, UsageError
from sifthinker.training.gain import gains
from sifthinker.training.grpo.ablation import VARIANTS, run_variants, table

FAMILIES = ("closer", "count", "sign")


def _scores(
    path: Path,
    right: Sequence[bool],
    hiou: Sequence[float],
    modes: Sequence[str] = ("internal",),
    temperature: float = 0.0,
    **told: object,
) -> Path:
    """A score file in which question i is of family i mod 3."""
    fixed = {"answer": "x", "valid": True, "seconds": 0.1, "images": 2, "tokens": 300}
    answers = [
        {
            **fixed,
            "id": f"q{index}",
            "family": FAMILIES[index % 3],
            "right": bool(one),
            "hiou": float(place),
            "depth_error": None if index % 2 else 0.05,
        }
        for index, (one, place) in enumerate(zip(right, hiou, strict=True))
    ]
    scores = {mode: {"scores": {}, "answers": answers} for mode in modes}
    path.write_text(json.dumps({"temperature": temperature, "modes": scores, **told}))
    return path


def _pair(tmp_path: Path, *, gained: float, placed: float = 0.0, lost_family: str | None = None) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    before = rng.random(600) < 0.5
    after = before | (rng.random(600) < 2 * gained)
    if lost_family is not None:
        of_family = np.arange(600) % 3 == FAMILIES.index(lost_family)
        after = np.where(of_family, before & (rng.random(600) > 0.2), after)
    place = rng.uniform(0.2, 0.6, 600)
    return (
        _scores(tmp_path / "before.json", before, place),
        _scores(tmp_path / "after.json", after, np.clip(place + placed + rng.normal(0, 0.01, 600), 0, 1)),
    )


def test_the_interval_of_what_changed_alike_everywhere_is_on_both_sides_of_it(tmp_path: Path) -> None:
    """No doubt is seen where every question fares alike, and yet one that would not may have been missed."""
    before = _scores(tmp_path / "before.json", [True] * 60, [0.5] * 60)
    (fell,) = gains([(before, _scores(tmp_path / "after.json", [False] * 60, [0.5] * 60))])
    accuracy, hiou = fell.measures["accuracy"].difference, fell.measures["hiou"].difference
    assert (accuracy.low, accuracy.value) == (-1.0, -1.0)
    assert accuracy.high == pytest.approx(-0.94, abs=0.005)
    assert (hiou.low, hiou.value, hiou.high) == pytest.approx((-0.06, 0.0, 0.06), abs=0.005)
    told = json.loads((tmp_path / "after.json").read_text())
    for answer in told["modes"]["internal"]["answers"]:
        answer["tokens"] += 40
    (tmp_path / "after.json").write_text(json.dumps(told))
    (longer,) = gains([(before, tmp_path / "after.json")])
    tokens = longer.measures["tokens"].difference
    assert tokens.low < tokens.value == 40 < tokens.high


def test_a_rise_with_an_interval_above_zero_is_a_gain(tmp_path: Path) -> None:
    (found,) = gains([_pair(tmp_path, gained=0.05)])
    accuracy = found.measures["accuracy"]
    assert accuracy.difference.low > 0
    assert accuracy.difference.value == pytest.approx(accuracy.after - accuracy.before)
    assert set(found.families) == set(FAMILIES)
    assert found.test.lost == 0
    assert found.meets()[0]
    assert found.measures["tokens"].difference.value == 0


def test_better_boxes_alone_are_a_gain_too(tmp_path: Path) -> None:
    (found,) = gains([_pair(tmp_path, gained=0.0, placed=0.05)])
    assert found.meets() == (
        True,
        "hiou rose by 0.03 or more, with an interval above zero, and no family fell by more than 0.02",
    )


def test_chance_is_no_gain_and_a_family_that_falls_spoils_one(tmp_path: Path) -> None:
    (nothing,) = gains([_pair(tmp_path, gained=0.0)])
    assert not nothing.meets()[0]
    (spoilt,) = gains([_pair(tmp_path, gained=0.1, lost_family="sign")])
    told, why = spoilt.meets()
    assert not told
    assert "fell by more than 0.02 in sign" in why


def test_answers_of_one_question_under_several_seeds_are_drawn_together(tmp_path: Path) -> None:
    pair = _pair(tmp_path, gained=0.05)
    (once,), (thrice,) = gains([pair]), gains([pair] * 3)
    assert (once.answers, thrice.answers, thrice.questions) == (600, 1800, 600)
    width = [
        one.measures["accuracy"].difference.high - one.measures["accuracy"].difference.low for one in (once, thrice)
    ]
    assert width[1] == pytest.approx(width[0], rel=0.1), "the same answers three times tell nothing more"


def test_the_command_prints_a_table_and_can_insist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = map(str, _pair(tmp_path, gained=0.05))
    assert run(["train", "gain", before, after, "--check"]) == 0
    assert "A gain" in capsys.readouterr().out
    assert run(["train", "gain", before, before, "--check"]) == 1
    assert run(["train", "gain", before, after, "--also", f"{before},{after}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["internal"]["gain"] is True
    assert told["internal"]["answers"] == 1200


def test_what_was_sampled_is_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _scores(tmp_path / "before.json", [True, False] * 5, [0.5] * 10, temperature=0.7)
    assert run(["train", "gain", str(before), str(before)]) == 0
    assert "internal, sampled at temperature 0.7: 10 questions" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("what", ["missing", "other", "questions", "mode", "temperature", "depth", "seed"])
def test_files_that_do_not_fit_are_told(what: str, tmp_path: Path) -> None:
    before, after = _pair(tmp_path, gained=0.0)
    if what == "missing":
        after = tmp_path / "nowhere.json"
    elif what == "other":
        after.write_text('{"modes": 3}')
    elif what == "questions":
        _scores(after, [True] * 5, [0.5] * 5)
    elif what in ("depth", "seed"):
        _scores(before, [True] * 600, [0.5] * 600, **{what: "7"})
        assert gains([(before, after)]), "an older file does not say"
        _scores(after, [True] * 600, [0.5] * 600, **{what: "8"})
    elif what == "temperature":
        _scores(after, [True] * 600, [0.5] * 600, temperature=1.0)
    else:
        _scores(after, [True] * 600, [0.5] * 600, modes=("tools",))
    with pytest.raises(UsageError):
        gains([(before, after)])


def test_the_ablation_runs_every_variant_once_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    ran: list[list[str]] = []

    def runner(arguments: Sequence[str]) -> int:
        ran.append(list(arguments))
        if arguments[1] == "score":
            path = Path(arguments[arguments.index("--json") + 1])
            _scores(path, [True, False] * 10, [0.5] * 20)
        return int("without-depth" in arguments[arguments.index("--out") + 1]) if arguments[1] == "grpo" else 0

    named = {"start": "embedded", "runner": runner, "options": ["--steps", "3"], "scoring": ["--temperature", "1"]}
    with pytest.raises(SifthinkerError, match="without-depth"):
        run_variants("embedded-grpo", tmp_path / "a", tmp_path / "w", **named)  # type: ignore[arg-type]
    trained = [line for line in ran if line[1] == "grpo"]
    assert all(line[line.index("--temperature") + 1] == "1" for line in ran if line[1] == "score")
    assert len(trained) == len(VARIANTS) == 7
    assert trained[3][trained[3].index("--without") :][:2] == ["--without", "format"]
    assert all(line[-2:] == ["--steps", "3"] for line in trained)
    rows = table(tmp_path / "a")
    assert [row.gain is None for row in rows] == [False] * 6 + [True]
    ran.clear()
    with pytest.raises(SifthinkerError):
        run_variants("embedded-grpo", tmp_path / "a", tmp_path / "w", **named)  # type: ignore[arg-type]
    assert len(ran) == 1, "what is finished is not done again"
    with pytest.raises(UsageError, match="options"):
        run_variants("embedded-grpo", tmp_path / "a", tmp_path / "w", **{**named, "options": ["--steps", "9"]})  # type: ignore[arg-type]


def test_an_ablation_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no variant"):
        run_variants("embedded-grpo", tmp_path, tmp_path, start="embedded", variants=["without-beauty"])
    with pytest.raises(UsageError, match="not there yet"):
        table(tmp_path)
