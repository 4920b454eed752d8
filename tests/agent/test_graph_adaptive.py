"""Mode adaptive: one completion first, and tools only where it is not enough."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from PIL import Image
from scripted import ScriptedPolicy, area, focus_lines

from sifthinker.agent import FocusResult, ask, create_focus_agent
from sifthinker.agent.events import AreaProposed, FocusPaused, Weighed
from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.base import Completion
from sifthinker.policy.calibration import Calibration, PartScores
from sifthinker.policy.errors import PolicyTimeout, PolicyUnavailable
from sifthinker.policy.prompts import ANSWER_NOW

IMAGE = Image.fromarray(np.arange(100 * 200 * 3, dtype=np.uint32).astype(np.uint8).reshape(100, 200, 3))
HALF = DepthMap(np.full((50, 100), 0.5, np.float32), source="flat")
WHOLE, LEFT, RIGHT = (0.0, 0.0, 1.0, 1.0), (0.1, 0.2, 0.5, 0.6), (0.5, 0.2, 0.9, 0.6)


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SIFTHINKER_HOME", str(tmp_path))


def sure(text: str, probability: float | None = None) -> Completion:
    """A completion whose answer has that probability; None: the policy tells none."""
    pieces = re.findall(r"[^<>]+|[<>]", text)
    if probability is None:
        return Completion(text, completion_tokens=len(pieces))
    answer = re.search(r"<answer>(.*?)</answer>", text)
    logprobs = [math.log(probability) if answer and piece == answer[1] else 0.0 for piece in pieces]
    return Completion(text, completion_tokens=len(pieces), token_logprobs=logprobs, token_texts=pieces)


def trace(*boxes, answer="red", depth=0.5) -> str:
    steps = "".join(f"{area(box, depth=depth)}<text>a thing</text>" for box in boxes)
    return f"<think>{steps}</think><answer>{answer}</answer>"


def run(policy, **options) -> FocusResult:
    given = {"depth": HALF, "mode": "adaptive", **options}
    return create_focus_agent(policy, **given).ask("What colour?", image=IMAGE, options=["red", "blue"])


def test_a_sure_and_well_formed_answer_is_enough():
    policy = ScriptedPolicy(sure(trace(WHOLE, LEFT), 0.95))
    result = run(policy)

    assert (policy.calls, result.answer, result.mode, result.valid_trace) == (1, "red", "adaptive", True)
    assert [step.crop_size for step in result.steps] == [None, None]
    told = result.adaptive
    assert (told.went_on, told.reasons, told.tools) == (False, [], None)
    assert told.confidence == pytest.approx(0.95)
    assert told.depth_gap == pytest.approx(0.0, abs=1e-3)
    assert (
        told.why
        == "The first answer was enough: a well-formed trace, confidence 0.95, depths within 0.00 of the depth map."
    )
    assert told.internal.answer == "red"
    assert told.internal.tokens == result.tokens


def test_an_unsure_answer_is_looked_into_with_tools_from_the_first_area_on():
    lines = focus_lines(WHOLE, RIGHT, answer="blue")
    policy = ScriptedPolicy(sure(trace(WHOLE, LEFT), 0.4), *lines[1:])
    result = run(policy)

    assert result.answer == "blue"
    assert result.adaptive.reasons == ["confidence"]
    assert "confidence of 0.40 is below 0.80" in result.adaptive.why
    assert policy.calls == 3  # the completion, and the two turns after the area that is taken over from it
    assert [turn.role for turn in policy.heard[1]] == ["user", "assistant", "user"]
    assert policy.heard[1][1].text == f"<think>{area(WHOLE)}"
    assert policy.heard[0][0].text == policy.heard[1][0].text
    assert [step.boxes[0].bbox_2d for step in result.steps] == [WHOLE, RIGHT]
    assert [crop.size for crop in result.crops] == [(80, 40)]
    assert result.valid_trace
    assert (result.adaptive.internal.answer, result.adaptive.tools.answer) == ("red", "blue")


def test_the_cost_of_both_parts_is_counted():
    policy = ScriptedPolicy(sure(trace(WHOLE, LEFT), 0.4), *focus_lines(WHOLE, RIGHT, answer="blue")[1:])
    result = run(policy)
    both = [result.adaptive.internal, result.adaptive.tools]
    for count in ("prompt", "completion", "images"):
        assert getattr(result.tokens, count) == sum(getattr(part.tokens, count) for part in both)
    assert result.adaptive.internal.tokens.images == 2
    assert len(result.calls) == 3
    assert result.seconds >= sum(part.seconds for part in both)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("<think></think>", "gave no answer"),
        ("<answer>red</answer>", "looked at no area"),
        (trace(LEFT).replace('"depth":0.500', '"deep":1'), "does not keep to the grammar"),
        (trace(LEFT, answer="green"), "none of the options"),
    ],
)
def test_a_malformed_completion_is_not_enough_however_sure(said, words):
    policy = ScriptedPolicy(sure(said, 1.0), *focus_lines(LEFT, answer="blue"))
    result = run(policy, depth_tolerance=1.0)
    assert (result.answer, result.adaptive.went_on) == ("blue", True)
    assert result.adaptive.reasons == ["malformed"]
    assert words in result.adaptive.why
    assert ANSWER_NOW not in str(policy.heard)  # tools come instead of asking again


def test_depths_that_contradict_the_map_are_not_enough():
    policy = ScriptedPolicy(sure(trace(WHOLE, LEFT, depth=0.8), 1.0), *focus_lines(WHOLE, RIGHT, answer="blue")[1:])
    result = run(policy)
    assert result.adaptive.reasons == ["depth"]
    assert result.adaptive.depth_gap == pytest.approx(0.3, abs=1e-3)
    assert run(ScriptedPolicy(sure(trace(LEFT, depth=0.8), 1.0)), depth_tolerance=0.4).adaptive.went_on is False


def test_two_boxes_in_the_wrong_order_weigh_more_than_their_errors_alone():
    ramp = DepthMap(np.tile(np.linspace(0.4, 0.6, 100, dtype=np.float32), (50, 1)), source="ramp")
    boxes = '<area>[{"bbox_2d":[0.0,0.2,0.2,0.6],"depth":0.55},{"bbox_2d":[0.8,0.2,1.0,0.6],"depth":0.45}]</area>'
    result = run(
        ScriptedPolicy(sure(f"<think>{boxes}<text>two</text></think><answer>red</answer>", 1.0)),
        depth=ramp,
        depth_tolerance=0.5,
    )
    assert result.adaptive.depth_gap == pytest.approx(0.1 + 0.16, abs=0.01)


def test_without_depth_the_depths_play_no_part():
    result = run(ScriptedPolicy(sure(trace(LEFT, depth=0.9), 1.0)), depth="none")
    assert (result.adaptive.went_on, result.adaptive.depth_gap) == (False, None)


def test_without_log_probabilities_the_other_signals_decide_and_it_is_said():
    result = run(ScriptedPolicy(sure(trace(LEFT))))
    assert (result.adaptive.went_on, result.adaptive.confidence) == (False, None)
    assert "gives no log-probabilities" in result.warnings[0]
    went = run(ScriptedPolicy(sure(trace(LEFT, depth=0.9)), *focus_lines(LEFT, answer="blue")[1:]))
    assert went.adaptive.reasons == ["depth"]


def calibration(policy: str = "name:scripted", threshold=0.3, tolerance=0.2) -> Calibration:
    scores = PartScores(accuracy=0.5, cost=100)
    return Calibration(
        confidence_threshold=threshold, depth_tolerance=tolerance, identity=policy, data="val", data_sha256="0" * 64,
        questions=10, internal=scores, tools=scores, learnt=scores, held_out=scores, went_on=0.5,
    )  # fmt: skip


def test_the_threshold_is_the_one_that_was_learnt_for_the_policy():
    told = run(ScriptedPolicy(sure(trace(LEFT), 0.4), calibration=calibration())).adaptive
    assert (told.went_on, told.rule, told.confidence_threshold, told.depth_tolerance) == (False, "learnt", 0.3, 0.2)


def test_settings_win_over_what_was_learnt():
    policy = ScriptedPolicy(sure(trace(LEFT), 0.4), *focus_lines(LEFT)[1:], calibration=calibration())
    told = run(policy, confidence_threshold=0.5).adaptive
    assert (told.went_on, told.rule, told.depth_tolerance) == (True, "given", 0.2)


def test_without_a_learnt_threshold_a_default_is_used_and_it_is_said():
    result = run(ScriptedPolicy(sure(trace(LEFT), 0.9)))
    assert result.adaptive.rule == "default"
    assert any("No threshold was learnt" in warning for warning in result.warnings)


def test_a_policy_that_is_never_sure_of_what_it_cannot_say_is_not_asked_for_more():
    learnt = calibration(threshold=None, tolerance=None)
    result = run(ScriptedPolicy(sure(trace(LEFT, depth=0.9)), calibration=learnt))
    assert (result.adaptive.went_on, result.warnings) == (False, [])


def test_it_can_be_told_to_go_on_in_any_case():
    result = run(ScriptedPolicy(sure(trace(LEFT), 1.0), *focus_lines(LEFT, answer="blue")[1:]), always_go_on=True)
    assert (result.answer, result.adaptive.reasons) == ("blue", ["always"])


# ── instruct models ──


def native(*lines, **options):
    return ScriptedPolicy(*lines, dialect="native", **options)


def test_an_instruct_model_is_told_to_pause_and_so_is_asked_anew():
    bare = trace(LEFT).replace(',"depth":0.500', "")
    policy = native(sure(bare, 0.2), *focus_lines(RIGHT, answer="blue"))
    result = run(policy)
    assert result.answer == "blue"
    assert policy.calls == 3
    assert [turn.role for turn in policy.heard[1]] == ["system", "user"]
    assert "After each </area> stop." in policy.heard[1][0].text
    assert "After each </area> stop." not in policy.heard[0][0].text
    assert [step.boxes[0].bbox_2d for step in result.steps] == [RIGHT]


def test_near_misses_of_an_instruct_model_that_were_read_are_enough():
    said = "Sure! " + trace(LEFT).replace(',"depth":0.500', "")
    result = run(native(sure(said, 0.9)))
    assert result.adaptive.went_on is False
    assert not result.valid_trace


# ── budgets ──


def test_a_budget_that_is_used_up_lets_the_first_answer_stand():
    result = run(ScriptedPolicy(sure(trace(LEFT), 0.1)), max_new_tokens=5)
    assert (result.answer, result.adaptive.went_on, result.adaptive.reasons) == ("red", False, ["confidence"])
    assert result.adaptive.why.startswith("The budget of 5 new tokens is used up, so the first answer stands")


def test_with_no_focus_step_allowed_it_does_not_go_on():
    assert run(ScriptedPolicy(sure(trace(LEFT), 0.1)), max_steps=0).adaptive.went_on is False


def test_a_completion_cut_off_by_the_budget_is_asked_for_its_answer():
    policy = ScriptedPolicy("<think>" + "on and on " * 20, "<answer>red</answer>")
    result = run(policy, max_new_tokens=20)
    assert (result.answer, result.adaptive.went_on) == ("red", False)
    assert ANSWER_NOW in policy.heard[-1][-1].text


def test_steps_and_questions_of_the_first_part_do_not_count_in_the_second():
    policy = ScriptedPolicy(sure(trace(WHOLE, LEFT, RIGHT), 0.1), *focus_lines(WHOLE, LEFT, RIGHT, answer="blue")[1:])
    result = run(policy, max_steps=3)
    assert (result.answer, result.valid_trace, len(result.steps)) == ("blue", True, 3)


def test_looking_that_brings_no_answer_leaves_the_first_one_standing():
    policy = ScriptedPolicy(sure(trace(LEFT), 0.1), "<text>hm</text>", "I do not know")
    result = run(policy)
    assert result.answer == "red"
    assert result.steps[0].crop_size is None
    assert "Looking with tools brought no answer of use: the one that was given before stands." in result.warnings


def test_a_policy_that_is_silent_at_first_is_tried_with_tools():
    policy = ScriptedPolicy(PolicyTimeout("It took too long."), *focus_lines(LEFT, answer="blue"))
    result = run(policy)
    assert (result.answer, result.adaptive.reasons) == ("blue", ["malformed"])
    assert "It took too long." in result.warnings


# ── streaming, checkpoints, people, chat ──


def test_events_tell_the_decision_and_steps_begin_anew():
    policy = ScriptedPolicy(sure(trace(WHOLE, LEFT), 0.4), *focus_lines(WHOLE, RIGHT, answer="blue")[1:])
    *events, result = create_focus_agent(policy, depth=HALF, mode="adaptive").ask_stream("What?", image=IMAGE)
    told = [(event.kind, getattr(event, "step", None)) for event in events if isinstance(event, AreaProposed | Weighed)]
    assert told == [("area", 1), ("area", 2), ("weighed", None), ("area", 1), ("area", 2)]
    weighed = next(event for event in events if isinstance(event, Weighed))
    assert (weighed.went_on, weighed.why) == (True, result.adaptive.why)
    assert [event.kind for event in events].count("answer") == 1


def test_a_killed_run_goes_on_without_asking_again():
    policy = ScriptedPolicy(
        sure(trace(WHOLE, LEFT), 0.4), PolicyUnavailable("gone"), *focus_lines(WHOLE, RIGHT, answer="blue")[1:]
    )
    memory = SqliteSaver(sqlite3.connect(":memory:", check_same_thread=False))
    agent = create_focus_agent(policy, depth=HALF, mode="adaptive", checkpointer=memory)
    with pytest.raises(PolicyUnavailable):
        agent.ask("What colour?", image=IMAGE, thread_id="1")
    *_, result = agent.resume("1")
    assert (result.answer, policy.calls, result.adaptive.went_on) == ("blue", 4, True)
    json.dumps(result.to_dict())


def test_a_person_can_step_in_before_the_crops_of_the_second_part():
    policy = ScriptedPolicy(sure(trace(LEFT), 0.4), *focus_lines(LEFT, answer="blue")[1:])
    memory = SqliteSaver(sqlite3.connect(":memory:", check_same_thread=False))
    agent = create_focus_agent(policy, depth=HALF, mode="adaptive", checkpointer=memory, interrupt_on_focus=True)
    *_, paused = agent.ask_stream("What colour?", image=IMAGE, thread_id="1")
    assert isinstance(paused, FocusPaused)
    assert paused.boxes[0].bbox_2d == LEFT
    *_, result = agent.resume("1", "approve")
    assert result.answer == "blue"


def test_a_later_question_sees_the_trace_that_counted():
    policy = ScriptedPolicy(sure(trace(LEFT), 0.4), *focus_lines(LEFT, answer="blue")[1:], sure(trace(RIGHT), 1.0))
    memory = SqliteSaver(sqlite3.connect(":memory:", check_same_thread=False))
    agent = create_focus_agent(policy, depth=HALF, mode="adaptive", checkpointer=memory)
    agent.ask("What colour?", image=IMAGE, thread_id="1")
    result = agent.ask("And the other?", thread_id="1")
    assert result.answer == "red"
    assert "<answer>blue</answer>" in policy.heard[-1][1].text


def test_the_json_has_it_in_this_mode_alone():
    assert run(ScriptedPolicy(sure(trace(LEFT), 1.0))).to_dict()["adaptive"]["went_on"] is False
    assert "adaptive" not in run(ScriptedPolicy(sure(trace(LEFT), 1.0)), mode="internal").to_dict()
    policy = ScriptedPolicy(sure(trace(LEFT), 1.0))
    assert ask(IMAGE, "What colour?", policy=policy, depth=HALF, mode="adaptive").adaptive.went_on is False


def test_several_questions_at_once_keep_their_own_decisions():
    def line(messages):
        text = messages[0].text
        if len(messages) > 1:
            return "<text>it</text></think><answer>blue</answer>"
        return sure(trace(LEFT), 0.1 if "unsure" in text else 0.99)

    agent = create_focus_agent(ScriptedPolicy(line), depth=HALF, mode="adaptive")
    from concurrent.futures import ThreadPoolExecutor

    questions = [f"{'unsure' if number % 2 else 'sure'} {number}?" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda question: agent.ask(question, image=IMAGE), questions))
    assert [result.adaptive.went_on for result in results] == [bool(number % 2) for number in range(24)]
    assert [result.answer for result in results] == ["blue" if number % 2 else "red" for number in range(24)]


# ── the embedded policy, and the command line ──

SCENE = Path(__file__).parents[2] / "examples/images/blocks.png"
QUESTION = "Which is closer to the camera, the purple cylinder or the yellow cylinder?"


def test_what_is_taken_over_is_what_mode_tools_would_have_said():
    tools = ask(SCENE, QUESTION)
    both = ask(SCENE, QUESTION, mode="adaptive", always_go_on=True)
    internal = ask(SCENE, QUESTION, mode="internal")
    assert both.adaptive.tools.trace_text == tools.trace_text == both.trace_text
    assert both.answer == tools.answer
    assert both.adaptive.internal.trace_text == internal.trace_text
    assert 0.0 < both.adaptive.confidence <= 1.0
    assert len(both.calls) == len(tools.calls)  # the completion in place of the first turn


def test_on_the_command_line_it_says_why_it_did_or_did_not_go_on(capsys):
    from sifthinker.agent.cli import run as run_cli

    assert run_cli(["ask", str(SCENE), QUESTION, "--mode", "adaptive", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mode"] == "adaptive"
    assert told["adaptive"]["why"]
    assert (told["adaptive"]["tools"] is not None) == told["adaptive"]["went_on"]
    assert run_cli(["ask", str(SCENE), QUESTION, "--mode", "adaptive"]) == 0
    assert told["adaptive"]["why"] in " ".join(capsys.readouterr().out.split())
    assert run_cli(["ask", str(SCENE), QUESTION, "--mode", "adaptiv"]) == 2
    assert "'adaptive'" in capsys.readouterr().err


def test_without_an_answer_and_without_steps_for_tools_the_policy_is_asked_for_its_answer():
    unfinished = trace(WHOLE, LEFT).partition("<answer>")[0]
    policy = ScriptedPolicy(unfinished, "<answer>red</answer>")
    result = run(policy, max_steps=0)

    assert (policy.calls, result.answer) == (2, "red")
    assert any("0 focus steps is used up: the policy was asked for its answer" in words for words in result.warnings)


def test_no_answer_from_a_policy_that_has_none_is_said():
    result = run(ScriptedPolicy("", ""), max_steps=0)
    assert result.answer == ""
    assert any("no answer, not even when asked for it" in warning for warning in result.warnings)
