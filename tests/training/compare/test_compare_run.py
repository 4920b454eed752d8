"""Whole comparisons: what is asked, what is written down, and that no rule of honest counting is broken."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import BOX, COLOURS, asked_text, compared, looking, options_in, patches
from scripted import ScriptedPolicy, area

from sifthinker.policy import prompts
from sifthinker.policy.base import Completion
from sifthinker.policy.errors import PolicyError, PolicyTimeout, PolicyUnavailable, UsageError
from sifthinker.policy.messages import Message, count_images
from sifthinker.training.compare.data import Judged, Question
from sifthinker.training.compare.findings import findings
from sifthinker.training.compare.plan import Plan
from sifthinker.training.compare.readers import JsonlQuestions
from sifthinker.training.compare.records import Asking
from sifthinker.training.compare.report import render_page
from sifthinker.training.compare.results import Results
from sifthinker.training.compare.run import Comparison, check_modes, compare


def test_a_comparison_ends_in_results(tmp_path: Path) -> None:
    finished = compared(patches(tmp_path / "d", 8), tmp_path / "o", timed=2)
    results = finished.results
    assert results.n == 8
    assert [results.modes[mode].n for mode in ("direct", "internal", "tools")] == [8, 8, 8]
    assert [results.modes[mode].accuracy.value for mode in ("internal", "tools")] == [1.0, 1.0]
    direct = np.mean([row.options[0] == row.truth for row in finished.rows if row.mode == "direct" and not row.variant])
    assert results.modes["direct"].accuracy.value == direct
    against = results.modes["tools"].against_direct
    assert against
    assert against.difference.value == pytest.approx(1 - direct)
    assert (against.test.gained, against.test.lost) == (8 - round(8 * direct), 0)
    tools = results.modes["tools"]
    assert tools.hiou == pytest.approx(1.0, abs=0.02)
    assert (tools.images, results.modes["internal"].images) == (2.0, 1.0)
    assert tools.tokens_in > results.modes["internal"].tokens_in
    assert tools.seconds_alone
    assert tools.seconds_alone.n == 2
    assert results.modes["direct"].hiou is None
    assert set(tools.families) == {"patch0", "patch1"}
    assert (tmp_path / "o" / "results.json").is_file()


def test_results_json_keeps_to_its_contract(tmp_path: Path) -> None:
    compared(patches(tmp_path / "d", 2), tmp_path / "o", controls=("oracle",))
    told = json.loads((tmp_path / "o" / "results.json").read_text())
    assert {"n", "seeds", "policy", "modes", "controls", "faithfulness", "versions", "data_sha256"} <= told.keys()
    mode = told["modes"]["tools"]
    assert mode["accuracy"].keys() == {"value", "low", "high"}
    assert {"hiou", "depth_error", "valid", "tokens_in", "tokens_out", "images", "seconds", "families"} <= mode.keys()
    assert mode["families"]["patch0"]["n"] == 1
    assert len(told["data_sha256"]) == 64
    assert {"python", "torch", "numpy", "sifthinker"} <= told["versions"].keys()
    assert told["about"]["seeds"] == [0]
    assert told["about"]["decoding"]["temperature"] == 0.0
    assert "What color is patch 0?" in told["about"]["prompts"]["scripted"]["direct"]
    Results.model_validate(told)


def test_the_table_holds_a_row_for_every_answer(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    finished = compared(patches(tmp_path / "d", 3), tmp_path / "o", seeds=(0, 1))
    rows = parquet.read_table(tmp_path / "o" / "results.parquet").to_pylist()
    assert len(rows) == len(finished.rows) == 3 * 3 * 2
    tools = next(row for row in rows if row["mode"] == "tools")
    assert [len(step["boxes"]) for step in tools["steps"]] == [1, 1]
    assert tools["text"].startswith("<think>")
    assert sorted(tools["options"]) == sorted(COLOURS)


# Integrity: each of these fails when its rule is broken.


@pytest.mark.parametrize(
    "said",
    [
        "The patch is {right}.",
        "{right}",
        "<answer>{right}",
        "I am sorry, but I cannot help with that.",
        "<answer></answer>",
        "<answer>{right} or not</answer>",
        "",
    ],
)
def test_what_cannot_be_read_and_refusals_are_wrong(tmp_path: Path, said: str) -> None:
    policy = ScriptedPolicy(lambda messages: said.format(right="red"))
    finished = compared(patches(tmp_path / "d", 1), tmp_path / "o", policy)
    assert [row.right for row in finished.rows] == [False] * 3
    assert all(score.accuracy.value == 0 for score in finished.results.modes.values())
    assert {score.n for score in finished.results.modes.values()} == {1}


def test_two_different_answers_are_none(tmp_path: Path) -> None:
    both = Completion("<answer>blue</answer> or <answer>red</answer>")
    finished = compared(patches(tmp_path / "d", 1), tmp_path / "o", ScriptedPolicy(both), modes=("direct",))
    assert (finished.rows[0].answer, finished.rows[0].right) == ("", False)


def test_an_answer_outside_its_tags_is_shown_apart_and_not_scored(tmp_path: Path) -> None:
    policy = ScriptedPolicy("The answer is red.", dialect="native")
    score = compared(patches(tmp_path / "d", 1), tmp_path / "o", policy, modes=("direct",)).results.modes["direct"]
    assert (score.accuracy.value, score.no_answer) == (0.0, 1)
    assert score.lenient_accuracy in (0.0, 1.0)


def test_a_policy_that_fails_on_a_question_is_wrong_on_it(tmp_path: Path) -> None:
    def refuses(messages: Sequence[Message]) -> str:
        if "patch 1" in asked_text(messages):
            raise PolicyError("The content filter refused the request.")
        return f"<answer>{options_in(messages)[0]}</answer>"

    finished = compared(patches(tmp_path / "d", 4), tmp_path / "o", ScriptedPolicy(refuses), modes=("direct",))
    score = finished.results.modes["direct"]
    assert (score.n, score.errors, score.no_answer) == (4, 1, 1)
    (failed,) = (row for row in finished.rows if row.error)
    assert (failed.question, failed.right) == ("q1", False)
    assert "content filter" in failed.error


def test_a_picture_that_is_refused_counts_as_asked(tmp_path: Path) -> None:
    data = patches(tmp_path / "d", 2)
    (tmp_path / "d" / "1.png").write_bytes(b"no picture")
    score = compared(data, tmp_path / "o", modes=("direct",)).results.modes["direct"]
    assert (score.n, score.errors) == (2, 1)


def test_options_are_shuffled_by_seed_the_same_in_every_mode_and_recorded(tmp_path: Path) -> None:
    policy = looking()
    finished = compared(patches(tmp_path / "d", 12), tmp_path / "o", policy, seeds=(0, 1), controls=("centre",))
    orders: dict[Any, set[tuple[str, ...]]] = {}
    for row in finished.rows:
        orders.setdefault((row.question, row.seed), set()).add(tuple(row.options))
        assert sorted(row.options) == sorted(COLOURS)
    assert all(len(found) == 1 for found in orders.values())
    assert len({order for found in orders.values() for order in found}) > 6
    first = Counter(row.truth == row.options[0] for row in finished.rows if row.mode == "direct")
    assert 0 < first[True] < first[False]  # the right one is not always first
    shown = {tuple(options_in(heard)) for heard in policy.heard}
    assert shown == {tuple(row.options) for row in finished.rows}  # what is recorded is what was shown


def test_the_shuffle_does_not_depend_on_what_else_is_asked(tmp_path: Path) -> None:
    whole = compared(patches(tmp_path / "d", 6), tmp_path / "a", modes=("direct",))
    part = compared(patches(tmp_path / "d", 6), tmp_path / "b", modes=("internal", "direct"), limit=2)
    known = {(row.question, row.seed): row.options for row in whole.rows}
    assert all(known[row.question, row.seed] == row.options for row in part.rows)


def test_every_question_has_its_line_and_is_in_the_denominator(tmp_path: Path) -> None:
    def sometimes(messages: Sequence[Message]) -> str:
        return "no" if "patch 2" in asked_text(messages) else "<answer>red</answer>"

    finished = compared(
        patches(tmp_path / "d", 5), tmp_path / "o", ScriptedPolicy(sometimes), controls=("oracle", "wrong")
    )
    lines = [json.loads(line) for line in (tmp_path / "o" / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 5 * (3 + 2)
    for name, score in {**finished.results.modes, **finished.results.controls}.items():
        assert score.n + sum(score.skipped.values()) == 5, name
        assert sum(family.n for family in score.families.values()) == score.n
    direct = finished.results.modes["direct"]
    right = sum(line.get("right", False) for line in lines if line["mode"] == "direct")
    assert direct.accuracy.value == right / 5


def test_the_baseline_is_asked_as_carefully_as_the_others(tmp_path: Path) -> None:
    for dialect in ("sif", "native"):
        policy = ScriptedPolicy("<answer>red</answer>", dialect=dialect)
        compared(patches(tmp_path / dialect, 1), tmp_path / f"o-{dialect}", policy, concurrency=1)
        first = {}
        for heard in policy.heard:
            if not any(turn.role == "assistant" for turn in heard):
                mode = ("direct", "internal", "tools")[len(first)] if len(first) < 3 else ""
                first.setdefault(mode, heard)
        texts = {mode: "".join(turn.text for turn in heard) for mode, heard in first.items()}
        for mode in ("direct", "internal", "tools"):
            assert "What color is patch 0?" in texts[mode]
            assert prompts.OPTIONS.strip() in texts[mode]
            assert "<answer></answer>" in texts[mode] or "</answer>" in texts[mode]
            assert count_images(first[mode]) == count_images(first["direct"])
        assert "carefully" in texts["direct"]


def test_all_modes_decode_alike(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []

    class Listening(ScriptedPolicy):
        def generate(self, messages: Sequence[Message], **settings: Any) -> Completion:
            heard.append({name: settings[name] for name in ("temperature", "seed", "max_new_tokens")})
            return super().generate(messages, **settings)

    policy = Listening(*looking().lines)
    compared(patches(tmp_path / "d", 1), tmp_path / "o", policy, controls=("oracle",), concurrency=1)
    starts = [one for one in heard if one["max_new_tokens"] == heard[0]["max_new_tokens"]]
    assert len(starts) >= 3  # the first turn of each mode has the whole budget
    assert {(one["temperature"], one["seed"]) for one in heard} == {(0.0, None)}


def test_groups_of_questions_are_drawn_together(tmp_path: Path) -> None:
    alone = compared(patches(tmp_path / "a", 8), tmp_path / "oa", modes=("direct",)).results.modes["direct"]
    data = patches(tmp_path / "b", 8, group="one")
    grouped = compared(data, tmp_path / "ob", modes=("direct",)).results.modes["direct"]
    assert grouped.accuracy.value == alone.accuracy.value
    assert (grouped.accuracy.low, grouped.accuracy.high) != (alone.accuracy.low, alone.accuracy.high)


# Going on.


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    data, policy = patches(tmp_path / "d", 3), looking()
    first = compared(data, tmp_path / "o", policy, controls=("oracle",), edits=("mean",), edited_modes=("tools",))
    calls = policy.calls
    again = compared(data, tmp_path / "o", policy, controls=("oracle",), edits=("mean",), edited_modes=("tools",))
    assert (again.new, policy.calls) == (0, calls)
    assert again.results == first.results


def test_further_modes_and_questions_ask_only_what_is_new(tmp_path: Path) -> None:
    data, policy = patches(tmp_path / "d", 4), looking()
    compared(data, tmp_path / "o", policy, modes=("direct",), limit=2)
    more = compared(data, tmp_path / "o", policy, modes=("direct", "internal"))
    assert more.new == 2 + 4
    less = compared(data, tmp_path / "o", policy, modes=("internal",), limit=2)
    assert (less.new, less.results.n, set(less.results.modes)) == (0, 2, {"internal"})


@pytest.mark.parametrize("change", ["question", "picture"])
def test_data_that_has_changed_is_refused(tmp_path: Path, change: str) -> None:
    data = patches(tmp_path / "d", 2)
    compared(data, tmp_path / "o", modes=("direct",))
    if change == "question":
        data.write_text(data.read_text().replace("patch 1?", "patch one?"))
    else:
        (tmp_path / "d" / "1.png").write_bytes((tmp_path / "d" / "0.png").read_bytes())
    with pytest.raises(UsageError, match="'q1' or its picture has changed"):
        compared(data, tmp_path / "o", modes=("direct",))


def test_another_policy_of_the_same_name_is_refused(tmp_path: Path) -> None:
    data = patches(tmp_path / "d", 1)
    compared(data, tmp_path / "o", modes=("direct",))
    with pytest.raises(UsageError, match="holds 1 answers of another comparison"):
        compared(data, tmp_path / "o", looking(rgb_px=32), modes=("direct",))


# A policy that is not there.


def test_a_server_that_is_gone_ends_the_run_and_keeps_what_there_is(tmp_path: Path) -> None:
    gone = {"now": False}

    def goes(messages: Sequence[Message]) -> str:
        if gone["now"]:
            raise PolicyUnavailable("The server is gone.")
        return "<answer>red</answer>"

    data, policy = patches(tmp_path / "d", 30), ScriptedPolicy(goes)
    compared(data, tmp_path / "o", policy, modes=("direct",), limit=4)
    gone["now"] = True
    with pytest.raises(PolicyUnavailable, match=r"times in a row.*4 answers are kept"):
        compared(data, tmp_path / "o", policy, modes=("direct",))
    gone["now"] = False
    finished = compared(data, tmp_path / "o", policy, modes=("direct",))
    assert (finished.new, finished.results.modes["direct"].errors) == (26, 0)


def test_one_question_that_times_out_twice_is_wrong(tmp_path: Path) -> None:
    def stuck(messages: Sequence[Message]) -> str:
        if "patch 1" in asked_text(messages):
            raise PolicyUnavailable("It took too long.")
        return "<answer>red</answer>"

    finished = compared(
        patches(tmp_path / "d", 5), tmp_path / "o", ScriptedPolicy(stuck), modes=("direct",), concurrency=1
    )
    assert finished.results.modes["direct"].errors == 1
    assert finished.results.modes["direct"].n == 5


def always_late(wanted: Callable[[int], bool]) -> ScriptedPolicy:
    """Times out on the questions of these numbers, whenever they are asked."""

    def line(messages: Sequence[Message]) -> str:
        number = int(asked_text(messages).split("patch ")[1].split("?")[0])
        if wanted(number):
            raise PolicyTimeout("It took too long.")
        return "<answer>red</answer>"

    return ScriptedPolicy(line)


@pytest.mark.parametrize("late", [{29}, set(range(5, 30))])
def test_questions_that_always_fail_do_not_keep_a_comparison_from_its_end(tmp_path: Path, late: set[int]) -> None:
    policy = always_late(lambda number: number in late)
    finished = compared(patches(tmp_path / "d", 30), tmp_path / "o", policy, modes=("direct",), concurrency=1)
    score = finished.results.modes["direct"]
    assert (score.n, score.errors, score.out_of_time) == (30, len(late), len(late))
    assert finished.new == 30


def test_what_is_left_of_an_earlier_run_and_always_fails_is_wrong_in_the_end(tmp_path: Path) -> None:
    data, policy = patches(tmp_path / "d", 20), always_late(lambda number: number > 1)
    compared(data, tmp_path / "o", policy, modes=("direct",), limit=2)
    finished = compared(data, tmp_path / "o", policy, modes=("direct",))
    assert (finished.new, finished.results.modes["direct"].errors) == (18, 18)


def test_a_policy_that_goes_while_failures_are_tried_again_makes_none_of_them_wrong(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()

    def goes(messages: Sequence[Message]) -> str:
        asked[asked_text(messages)] += 1
        if "patch 1?" in asked_text(messages) or asked.total() > 6:
            raise PolicyUnavailable("The server is gone.")
        return "<answer>red</answer>"

    data = patches(tmp_path / "d", 6)
    with pytest.raises(PolicyUnavailable, match="5 answers are kept"):
        compared(data, tmp_path / "o", ScriptedPolicy(goes), modes=("direct",), concurrency=1)


# What a failed question counts as.


def test_a_failed_question_is_grounded_nowhere_and_its_costs_are_not_known(tmp_path: Path) -> None:
    def refuses(messages: Sequence[Message]) -> str:
        raise PolicyError("The content filter refused the request.")

    seeing = looking()

    def line(messages: Sequence[Message]) -> Any:
        return (refuses if "patch 1" in asked_text(messages) else seeing.lines[0])(messages)  # type: ignore[operator]

    whole = compared(patches(tmp_path / "d", 4), tmp_path / "a").results.modes
    modes = compared(patches(tmp_path / "d", 4), tmp_path / "b", ScriptedPolicy(line)).results.modes
    for mode in ("direct", "internal", "tools"):
        assert (modes[mode].n, modes[mode].errors) == (4, 1)
        assert modes[mode].images == whole[mode].images
        assert modes[mode].calls == whole[mode].calls
        assert modes[mode].tokens_in == pytest.approx(whole[mode].tokens_in, rel=0.01)
    assert modes["tools"].hiou == pytest.approx(0.75 * (whole["tools"].hiou or 0), abs=0.01)
    assert modes["direct"].hiou is None


def test_where_every_question_fails_no_cost_is_known(tmp_path: Path) -> None:
    policy = ScriptedPolicy(PolicyError("Refused."))
    finished = compared(patches(tmp_path / "d", 2), tmp_path / "o", policy)
    tools = finished.results.modes["tools"]
    assert (tools.n, tools.errors, tools.tokens_in, tools.seconds, tools.hiou) == (2, 2, None, None, 0.0)
    assert "Tools answers 0.0 % of 2 rightly" in " ".join(findings(finished.results.all_policies()[0]))
    assert render_page(finished)


def test_runs_that_a_time_budget_cut_short_are_counted(tmp_path: Path) -> None:
    def slow(messages: Sequence[Message]) -> str:
        if "patch 1" in asked_text(messages) and len(messages) == 1:
            time.sleep(0.06)
            raise PolicyTimeout("It did not answer within 0.05 s.")
        return "<answer>red</answer>"

    comparison = Comparison(
        data=str(patches(tmp_path / "d", 3)),
        out=tmp_path / "o",
        plan=Plan(policies=("scripted",), modes=("direct", "internal")),
        asking=Asking(depth="none", settings={"call_timeout_s": 0.05}, concurrency=1),
        policies={"scripted": ScriptedPolicy(slow)},
        engine="threads",
    )
    finished = compare(comparison)
    assert {mode: score.out_of_time for mode, score in finished.results.modes.items()} == {"direct": 1, "internal": 1}
    assert [row.question for row in finished.rows if row.out_of_time] == ["q1", "q1"]
    assert " 1 of these runs were cut short" in " ".join(findings(finished.results.all_policies()[0]))


def test_an_adaptive_answer_counts_though_its_two_parts_say_different_things(tmp_path: Path) -> None:
    lines = ("<think><answer>blue</answer>", f"<think>{area(BOX)}", "<text>There.</text></think><answer>red</answer>")
    finished = compared(patches(tmp_path / "d", 1), tmp_path / "o", ScriptedPolicy(*lines), modes=("adaptive",))
    assert [(row.went_on, row.answer, row.right) for row in finished.rows] == [(True, "red", True)]


# Questions about places.


class Places(JsonlQuestions):
    """The patches again: where are they?"""

    def questions(self) -> Sequence[Question]:
        return [replace(one, kind="place", answer="", options=()) for one in super().questions()]


@pytest.mark.parametrize("dialect", ["sif", "native"])
@pytest.mark.parametrize(
    ("space", "words", "said"),
    [
        ("permille", "from 0 to 1000 of the width and height", "[100, 200, 400, 600]"),
        ("pixel", "in pixels of the picture, which is 80 wide and 60 high", "[8, 12, 32, 36]"),
        ("unit", "from 0 to 1 of the width and height", "[0.1, 0.2, 0.4, 0.6]"),
    ],
)
def test_every_mode_is_told_how_a_place_is_written(
    tmp_path: Path, dialect: str, space: str, words: str, said: str
) -> None:
    policy = ScriptedPolicy(f"<answer>{said}</answer>", dialect=dialect, box_space=space)
    comparison = Comparison(
        data=Places(patches(tmp_path / "d", 1)),
        out=tmp_path / "o",
        plan=Plan(policies=("scripted",), modes=("direct", "internal", "tools")),
        asking=Asking(depth="none", concurrency=1),
        policies={"scripted": policy},
        engine="threads",
    )
    finished = compare(comparison)
    assert len(policy.heard) >= 3
    assert all(f"written [x1,y1,x2,y2]: its left, top, right and bottom edge, {words}." in asked_text(heard)
               for heard in policy.heard)  # fmt: skip
    assert all("A box is written" in told for told in finished.results.about.prompts["scripted"].values())
    assert finished.results.modes["direct"].accuracy
    assert finished.results.modes["direct"].accuracy.value == 1.0


def test_a_timeout_while_reasoning_still_counts(tmp_path: Path) -> None:
    lines = (f"<think>{area((0, 0, 1, 1))}", PolicyTimeout("late"), "<answer>red</answer>")
    finished = compared(patches(tmp_path / "d", 1), tmp_path / "o", ScriptedPolicy(*lines), modes=("tools",))
    assert (finished.rows[0].right, finished.rows[0].valid) == (True, False)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(("p",), ("guess",)), "no mode 'guess'"),  # type: ignore[arg-type]
        (Plan(("p",), ()), "at least one mode"),
        (Plan(("p", "p"), ("direct",)), "named twice"),
        (Plan(("p",), ("direct",), edits=("mean",), edited_modes=("direct",)), "cites no region"),
        (Plan(("p",), ("direct",), edits=("mean",), edited_modes=("tools",)), "not compared"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(plan: Plan, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_modes(plan)


def test_published_metrics_are_given_every_answer(tmp_path: Path) -> None:
    class Published(JsonlQuestions):
        def published(self, judged: Sequence[Judged]) -> dict[str, float]:
            said = [one.said.text for one in judged if one.question.family == "patch0"]
            return {
                "right": sum(one.right for one in judged) / len(judged),
                "said": sum("<answer>" in text for text in said) / 2,
                "in order": float([one.question.id for one in (*judged[:3], judged[-1])] == ["q0", "q1", "q2", "q3"]),
            }

    comparison = Comparison(
        data=Published(patches(tmp_path / "d", 4)),
        out=tmp_path / "o",
        plan=Plan(policies=("scripted",), modes=("direct", "internal")),
        asking=Asking(depth="none", concurrency=4),
        policies={"scripted": looking()},
        engine="threads",
    )
    modes = compare(comparison).results.modes
    for mode in ("direct", "internal"):
        assert modes[mode].published == {"right": modes[mode].accuracy.value, "said": 1.0, "in order": 1.0}
