"""Learning when an answer in one completion is enough."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from scripted import ScriptedPolicy, area

from sifthinker.agent import create_focus_agent
from sifthinker.agent.cli import run
from sifthinker.policy import load
from sifthinker.policy.base import Completion
from sifthinker.policy.calibration_store import calibration_of
from sifthinker.policy.errors import PolicyUnavailable
from sifthinker.training.calibrate.asked import ask_questions, data_digest
from sifthinker.training.calibrate.learn import WITHIN, Outcome, learn
from sifthinker.training.compare.data import open_data

BOX = (0.1, 0.2, 0.5, 0.6)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SIFTHINKER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def outcome(number: int, **fields) -> Outcome:
    told = {
        "id": str(number), "group": str(number), "family": "all", "internal_right": True, "tools_right": True,
        "malformed": False, "confidence": 0.9, "depth_gap": 0.01, "internal_tokens": 100, "tools_tokens": 400,
        "internal_seconds": 1.0, "tools_seconds": 4.0, "internal_images": 2, "tools_images": 6,
    }  # fmt: skip
    return Outcome(**{**told, **fields})


def honest(count: int = 200, seed: int = 0) -> list[Outcome]:
    """A policy whose confidence is the probability that it is right, and whose tools are nearly always right."""
    rng = np.random.default_rng(seed)
    sure = rng.random(count)
    return [
        outcome(n, confidence=float(c), internal_right=bool(rng.random() < c), tools_right=bool(rng.random() < 0.97))
        for n, c in enumerate(sure)
    ]


def test_where_a_bound_parts_right_from_wrong_it_is_found():
    outcomes = [outcome(n, confidence=0.9 if n % 2 else 0.3, internal_right=bool(n % 2)) for n in range(100)]
    learnt = learn(outcomes)
    assert learnt.rule.confidence_threshold == pytest.approx(0.6)
    assert learnt.rule.depth_tolerance is None
    assert (learnt.learnt.accuracy, learnt.learnt.cost, learnt.went_on) == (1.0, 300.0, 0.5)
    assert (learnt.internal.accuracy, learnt.tools.cost) == (0.5, 500.0)
    assert learnt.held_out.accuracy == 1.0
    assert learnt.auroc == 1.0
    assert learnt.loss == 0.0


def test_depths_are_a_bound_of_their_own():
    outcomes = [outcome(n, depth_gap=0.4 if n % 4 == 0 else 0.05, internal_right=n % 4 != 0) for n in range(80)]
    learnt = learn(outcomes)
    assert learnt.rule.confidence_threshold is None
    assert learnt.rule.depth_tolerance == pytest.approx(0.225)
    assert learnt.went_on == 0.25


def test_tools_that_do_not_help_are_not_used():
    outcomes = [outcome(n, confidence=n / 100, internal_right=n % 3 > 0, tools_right=n % 3 > 0) for n in range(100)]
    learnt = learn(outcomes)
    assert learnt.went_on == 0.0
    assert learnt.learnt == learnt.internal


def test_tools_that_hurt_are_not_used_either_but_a_malformed_trace_always_goes_on():
    outcomes = [
        outcome(n, tools_right=n % 2 == 0, malformed=n < 10, internal_right=n >= 10, confidence=n / 100)
        for n in range(100)
    ]
    learnt = learn(outcomes)
    assert learnt.went_on == 0.1
    assert learnt.learnt.accuracy == pytest.approx(0.95)


def test_the_cheapest_rule_within_a_point_of_the_best_is_taken():
    outcomes = [outcome(n, confidence=n / 1000, internal_right=n >= 5) for n in range(1000)]
    learnt = learn(outcomes)
    assert learnt.went_on == 0.0  # half a point is not worth it
    assert learnt.learnt.accuracy >= 1.0 - WITHIN


def test_an_honest_policy_saves_and_holds_on_new_questions():
    learnt = learn(honest(400))
    assert learnt.held_out.accuracy >= learnt.tools.accuracy - 0.04
    assert learnt.held_out.cost < learnt.tools.cost
    assert learnt.loss_low <= learnt.loss <= learnt.loss_high
    assert 0.7 < learnt.auroc < 0.95
    risks = [point.risk for point in learnt.risk_coverage]
    assert risks[len(risks) // 5] < risks[-1] == pytest.approx(1 - learnt.internal.accuracy)
    assert learnt.risk_coverage[-1].coverage == 1.0
    assert learnt.risk_area < risks[-1]


def test_the_same_outcomes_and_seed_give_the_same():
    assert learn(honest(), seed=3) == learn(honest(), seed=3)


def test_without_confidences_the_depths_decide_alone():
    outcomes = [
        outcome(n, confidence=None, depth_gap=0.3 if n % 2 else 0.0, internal_right=n % 2 == 0) for n in range(60)
    ]
    learnt = learn(outcomes)
    assert learnt.rule.confidence_threshold is None
    assert learnt.rule.depth_tolerance is not None
    assert (learnt.auroc, learnt.risk_coverage, learnt.risk_area) == (None, [], None)


def test_groups_are_never_split_between_learning_and_testing():
    outcomes = [outcome(n, group=f"pair {n // 2}", confidence=(n // 2) / 60) for n in range(120)]
    from sifthinker.training.calibrate import learn as module

    for fold in module._folds([one.group for one in outcomes], seed=0):
        inside = {one.group for one, held in zip(outcomes, fold, strict=True) if held}
        assert not inside & {one.group for one, held in zip(outcomes, fold, strict=True) if not held}


def test_questions_of_a_group_are_drawn_together():
    tenfold = [one.model_copy(update={"id": f"{one.id}-{copy}"}) for one in honest(60) for copy in range(10)]
    grouped = learn(tenfold)
    alone = learn([one.model_copy(update={"group": one.id}) for one in tenfold])
    assert grouped.loss_high - grouped.loss_low > 2 * (alone.loss_high - alone.loss_low)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_few_questions_are_learnt_from_but_not_tested_on(count):
    learnt = learn([outcome(n, confidence=n / 10) for n in range(count)])
    assert (learnt.held_out, learnt.loss) == (None, None)


def test_another_cost_may_be_what_is_saved():
    outcomes = [outcome(n, confidence=0.9 if n % 2 else 0.3, internal_right=bool(n % 2)) for n in range(60)]
    assert learn(outcomes, cost="images").learnt.cost == pytest.approx(2 + 6 / 2)
    assert learn(outcomes, cost="seconds").tools.cost == pytest.approx(5.0)


# ── asking ──


def questions(folder, count=8):
    """Questions about pictures; the even ones are hard."""
    folder.mkdir(exist_ok=True)
    with (folder / "val.jsonl").open("w") as file:
        for n in range(count):
            Image.new("RGB", (40, 30), (4 * n, 90, 200)).save(folder / f"{n}.png")
            row = {
                "id": str(n),
                "image": f"{n}.png",
                "question": f"Question {n}?",
                "answer": "red",
                "options": ["red", "blue"],
            }
            file.write(json.dumps(row) + "\n")
    return folder / "val.jsonl"


def said(text: str, probability: float) -> Completion:
    pieces = re.findall(r"[^<>]+|[<>]", text)
    answer = re.search(r"<answer>(.*?)</answer>", text)
    logprobs = [math.log(probability) if answer and piece == answer[1] else 0.0 for piece in pieces]
    return Completion(text, completion_tokens=len(pieces), token_logprobs=logprobs, token_texts=pieces)


def policy(*, fails_after: int | None = None):
    """Unsure and wrong on even questions unless it looks with tools."""

    def line(messages):
        if fails_after is not None and len(one.heard) > fails_after:
            raise PolicyUnavailable("The server is gone.")
        if len(messages) > 1:
            return "<text>it</text></think><answer>red</answer>"
        hard = int(re.search(r"Question (\d+)", messages[0].text)[1]) % 2 == 0
        trace = f"<think>{area(BOX)}<text>it</text></think><answer>{'blue' if hard else 'red'}</answer>"
        return said(trace, 0.4 if hard else 0.95)

    one = ScriptedPolicy(line)
    return one


def agent(asked):
    return create_focus_agent(asked, depth="none", mode="adaptive", always_go_on=True)


def test_each_question_is_answered_in_both_ways_with_what_each_cost(tmp_path):
    data = open_data(str(questions(tmp_path / "q")))
    outcomes = ask_questions(agent(policy()), data, data.questions(), workers=4)
    assert [one.id for one in outcomes] == [str(n) for n in range(8)]
    assert [one.internal_right for one in outcomes] == [False, True] * 4
    assert all(one.tools_right and one.tools_tokens > 0 < one.internal_tokens for one in outcomes)
    assert [one.confidence for one in outcomes] == pytest.approx([0.4, 0.95] * 4)
    learnt = learn(outcomes)
    assert learnt.rule.confidence_threshold == pytest.approx(0.675)
    assert learnt.went_on == 0.5


def test_an_answer_counts_as_it_does_in_a_comparison(tmp_path):
    path = questions(tmp_path / "q", 1)
    data = open_data(str(path))

    def outside(messages):
        if len(messages) > 1:
            return "<text>it</text></think><answer>red</answer>"
        return f"<think>{area(BOX)}<text>it</text></think> The answer is red"

    (one,) = ask_questions(agent(ScriptedPolicy(outside)), data, data.questions())
    assert (one.internal_right, one.tools_right) == (False, True)


def test_the_hash_of_the_questions_is_that_of_a_comparison_on_them(tmp_path):
    from comparing import compared, patches

    data = open_data(str(patches(tmp_path / "d", 3)))
    about = compared(tmp_path / "d/patches.jsonl", tmp_path / "o", modes=("direct",)).results.about
    assert data_digest(data, data.questions()) == about.data_sha256


def test_a_run_that_was_broken_off_asks_nothing_twice(tmp_path):
    data = open_data(str(questions(tmp_path / "q")))
    journal = tmp_path / "answers.jsonl"
    with pytest.raises(PolicyUnavailable):
        ask_questions(agent(policy(fails_after=7)), data, data.questions(), workers=1, journal=journal)
    kept = journal.read_bytes()
    assert 1 <= kept.count(b"\n") < 8
    journal.write_bytes(kept + b'{"id": "cut o')
    again = policy()
    outcomes = ask_questions(agent(again), data, data.questions(), workers=1, journal=journal)
    assert len(outcomes) == 8
    assert again.calls == 2 * (8 - kept.count(b"\n"))
    assert outcomes == ask_questions(agent(policy()), data, data.questions(), workers=1, journal=journal)


def test_a_picture_that_cannot_be_read_counts_as_wrong_in_both(tmp_path):
    path = questions(tmp_path / "q", 2)
    (tmp_path / "q/1.png").write_bytes(b"no picture")
    data = open_data(str(path))
    outcomes = ask_questions(agent(policy()), data, data.questions())
    assert (outcomes[1].internal_right, outcomes[1].tools_right) == (False, False)
    assert outcomes[1].error


def test_the_command_learns_stores_and_is_used_from_then_on(tmp_path, monkeypatch, capsys, home):
    path = questions(tmp_path / "q", 60)
    asked = policy()
    monkeypatch.setattr(load, "_load", lambda name, options: asked)
    command = ["calibrate", "openai:x@http://localhost:1", "--data", str(path), "--depth", "none"]

    assert run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["calibration"]["confidence_threshold"] == pytest.approx(0.675)
    assert told["calibration"]["held_out"]["accuracy"] == 1.0
    assert told["kept_in"].startswith(str(home))
    assert len(told["outcomes"]) == 60
    assert calibration_of(asked).confidence_threshold == pytest.approx(0.675)
    assert not list(home.rglob("*.answers.jsonl"))

    run_once = create_focus_agent(asked, depth="none", mode="adaptive")
    image = Image.new("RGB", (40, 30))
    hard, easy = (run_once.ask(f"Question {n}?", image=image).adaptive for n in (0, 1))
    assert (hard.went_on, hard.rule, easy.went_on) == (True, "learnt", False)

    assert run([*command, "--dry-run", "--limit", "8"]) == 0
    shown = capsys.readouterr().out
    assert "the completion alone" in shown
    assert "50.0%" in shown
    assert "Nothing was kept." in shown
    assert "was not tested on questions held out" in shown


def test_what_is_said_of_new_questions_has_one_direction():
    from sifthinker.training.calibrate.command import _held_out_words

    assert "gains 2.5 points" in _held_out_words(-0.025, -0.058, 0.0)
    assert "(95 % interval 0.0 to 5.8)" in _held_out_words(-0.025, -0.058, 0.0)
    assert "loses 1.0 points" in _held_out_words(0.01, -0.005, 0.02)
    assert "-0.0" not in _held_out_words(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cost", "money"], "--cost to be one of"),
        (["--limit", "0"], "at least 1"),
        (["--data", "nowhere"], "is no data to compare on"),
    ],
)
def test_wrong_use_is_one_sentence(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(load, "_load", lambda name, options: policy())
    assert run(["calibrate", "openai:x@http://localhost:1", "--data", str(questions(tmp_path / "q")), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_questions_about_places_are_refused(tmp_path, capsys, monkeypatch):
    import benchmarking as made

    monkeypatch.setattr(load, "_load", lambda name, options: policy())
    path = made.table(tmp_path / "val-0.parquet", made.refcoco_rows(), image=made.IMAGE)
    assert run(["calibrate", "openai:x@http://localhost:1", "--data", f"refcoco:{path}"]) == 2
    assert "asks for places" in capsys.readouterr().err
