"""Every run ends, and says truly how."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scripted import ScriptedPolicy, area, focus_lines

from sifthinker.agent import create_focus_agent
from sifthinker.nodes import reason
from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.base import Completion
from sifthinker.policy.errors import PolicyTimeout, PolicyUnavailable
from sifthinker.policy.prompts import ANSWER_NOW
from sifthinker.policy.trace import parse

IMAGE = Image.new("RGB", (200, 100), (10, 200, 30))
DEPTH = DepthMap(np.full((50, 100), 0.25, np.float32))
LEFT = (0.1, 0.2, 0.5, 0.6)
ANSWER = "<answer>red</answer>"


def ask(policy, **options):
    agent_options = {"depth": DEPTH, **options}
    return create_focus_agent(policy, **agent_options).ask("What colour?", image=IMAGE)


def boxes(count: int) -> list[tuple[float, float, float, float]]:
    return [(round(0.01 * n, 3), 0.1, round(0.3 + 0.01 * n, 3), 0.5) for n in range(count)]


def test_a_policy_that_never_stops_looking_is_asked_for_its_answer():
    def line(messages):
        if ANSWER_NOW in messages[-1].text:
            return ANSWER
        step = sum(turn.role == "assistant" for turn in messages)
        return f"{'<think>' if not step else '<text>more</text>'}{area(boxes(50)[step])}"

    policy = ScriptedPolicy(line)
    result = ask(policy)

    assert result.answer == "red"
    assert policy.calls == 8 + 1 + 1  # steps, the one too many, the answer
    assert len(result.steps) == 9
    assert [step.crop_size is not None for step in result.steps] == [True] * 8 + [False]
    assert not result.valid_trace
    assert result.warnings == ["The budget of 8 focus steps is used up: the policy was asked for its answer."]


def test_it_is_asked_only_once_and_a_run_without_an_answer_says_so():
    policy = ScriptedPolicy(f"<think>{area(LEFT)}", f"<text>more</text>{area(LEFT)}")
    result = ask(policy, max_steps=2)
    assert result.answer == ""
    assert policy.calls == 4
    assert "gave no answer" in result.warnings[-1]
    assert not result.valid_trace


def test_with_no_step_allowed_the_first_area_is_one_too_many():
    result = ask(ScriptedPolicy(f"<think>{area(LEFT)}", ANSWER), max_steps=0)
    assert result.answer == "red"
    assert result.crops == []


def test_the_same_box_again_gets_no_second_crop():
    policy = ScriptedPolicy(*focus_lines(LEFT, LEFT, LEFT, answer="red"))
    result = ask(policy)
    assert [step.crop_size for step in result.steps] == [(80, 40), None, None]
    assert [step.boxes[0].measured_depth for step in result.steps] == [pytest.approx(0.25)] * 3
    assert [len(turn.images) for turn in policy.heard[-1]] == [2, 0, 1, 0, 0, 0, 0]
    assert result.valid_trace


def test_an_area_that_covers_nearly_everything_gets_no_crop():
    result = ask(ScriptedPolicy(*focus_lines((0, 0, 1, 0.91), (0.02, 0.02, 0.9, 0.99))))
    assert [step.crop_size for step in result.steps] == [None, (176, 97)]


def test_of_many_boxes_the_first_are_looked_at():
    result = ask(ScriptedPolicy(f"<think>{area(*boxes(7))}", f"<text>many</text></think>{ANSWER}"))
    assert len(result.steps[0].boxes) == 7
    assert len(result.steps[0].crops) == 4
    assert "named 7 boxes: the first 4" in result.warnings[0]
    assert result.valid_trace


def test_repeated_boxes_of_one_area_count_once():
    result = ask(ScriptedPolicy(f"<think>{area(LEFT, LEFT, LEFT)}", f"<text>it</text></think>{ANSWER}"))
    assert len(result.crops) == 1


def test_a_step_with_several_boxes_tells_its_largest_crop():
    result = ask(ScriptedPolicy(f"<think>{area((0, 0, 0.2, 0.3), LEFT)}", f"<text>it</text></think>{ANSWER}"))
    assert [crop.size for crop in result.crops] == [(40, 30), (80, 40)]
    assert result.steps[0].crop_size == (80, 40)


def test_when_no_more_images_fit_the_policy_is_asked_for_its_answer():
    policy = ScriptedPolicy(f"<think>{area(*boxes(4))}", ANSWER)
    result = ask(policy, max_images=4)
    assert result.answer == "red"
    assert len(result.crops) == 2
    assert sum(len(turn.images) for turn in policy.heard[-1]) == 4
    assert policy.heard[-1][-1].text.endswith(ANSWER_NOW)
    assert result.warnings == ["The budget of 4 images is used up: the policy was asked for its answer."]


def test_the_policy_s_own_limit_of_images_holds_as_well():
    policy = ScriptedPolicy(f"<think>{area(LEFT)}", ANSWER, max_images=2)
    assert ask(policy).warnings == ["The budget of 2 images is used up: the policy was asked for its answer."]
    assert max(sum(len(turn.images) for turn in heard) for heard in policy.heard) == 2


def test_a_policy_that_takes_one_image_is_shown_one():
    policy = ScriptedPolicy(f"<think>{area(LEFT)}", ANSWER, max_images=1)
    assert ask(policy).warnings == ["The budget of 1 image is used up: the policy was asked for its answer."]
    assert max(sum(len(turn.images) for turn in heard) for heard in policy.heard) == 1


def test_a_policy_that_floods_is_cut_off():
    policy = ScriptedPolicy(Completion("<think>" + "blah " * 100_000, completion_tokens=10), ANSWER)
    result = ask(policy, mode="internal")
    assert result.answer == "red"
    assert len(result.trace_text) <= 32_768 + len(ANSWER)
    assert "more than 32768 bytes" in result.warnings[-1]
    assert not result.valid_trace


def test_a_policy_that_writes_for_ever_is_ended_while_it_writes():
    class Endless(ScriptedPolicy):
        written = 0

        def generate(self, messages, *, on_token=None, **options):
            while ANSWER_NOW not in messages[-1].text:
                Endless.written += 1
                on_token("on and on ")
            return super().generate(messages, on_token=on_token, **options)

    result = ask(Endless(ANSWER), mode="internal", max_completion_bytes=1000)
    assert result.answer == "red"
    assert Endless.written == 101
    assert "more than 1000 bytes" in result.warnings[-1]


def test_a_cut_between_the_bytes_of_a_character_leaves_whole_characters():
    result = ask(ScriptedPolicy(Completion("é" * 400), ANSWER), mode="internal", max_completion_bytes=257)
    assert result.trace_text == "é" * 128 + ANSWER


def test_half_characters_do_not_break_a_run():
    result = ask(ScriptedPolicy("<think>\ud800", "<answer>\udfff</answer>"))
    json.dumps(result.to_dict()).encode()
    assert "\udfff" not in result.trace_text


def test_the_token_budget_is_shared_by_all_calls():
    lines = focus_lines((0, 0, 1, 1), LEFT, answer="red")
    policy = ScriptedPolicy(*lines)
    ask(policy, max_new_tokens=1000)
    used = [(len(line) + 3) // 4 for line in lines]
    assert [limits["max_new_tokens"] for limits in policy.limits] == [1000, 1000 - used[0], 1000 - used[0] - used[1]]


def test_a_used_up_token_budget_leaves_room_for_the_answer():
    policy = ScriptedPolicy("<think>" + "x" * 1000, ANSWER)
    result = ask(policy, max_new_tokens=100)
    assert result.answer == "red"
    assert policy.limits[-1]["max_new_tokens"] == reason.ANSWER_TOKENS
    assert "100 new tokens" in result.warnings[-1]


def test_a_call_gets_at_most_its_time():
    policy = ScriptedPolicy(*focus_lines(LEFT))
    ask(policy, call_timeout_s=7)
    assert [limits["timeout"] for limits in policy.limits] == [7, 7]
    ask(policy := ScriptedPolicy(*focus_lines(LEFT)), deadline_s=5)
    assert all(limits["timeout"] <= 5 for limits in policy.limits)


def test_a_passed_deadline_ends_the_looking():
    policy = ScriptedPolicy(f"<think>{area(LEFT)}", ANSWER, seconds=0.05)
    result = ask(policy, deadline_s=0.02)
    assert result.answer == "red"
    assert result.warnings == ["The deadline of 0.02 s has passed: the policy was asked for its answer."]
    assert policy.limits[-1]["timeout"] == reason.ANSWER_SECONDS


def test_a_policy_that_ran_out_of_time_is_asked_for_its_answer():
    policy = ScriptedPolicy(Completion("<think>", finish_reason="deadline"), ANSWER)
    result = ask(policy)
    assert result.answer == "red"
    assert "did not finish within 60 s" in result.warnings[-1]


def test_a_server_that_timed_out_once_is_asked_for_its_answer():
    policy = ScriptedPolicy(f"<think>{area(LEFT)}", PolicyTimeout("The server did not answer within 60 s."), ANSWER)
    result = ask(policy)
    assert result.answer == "red"
    assert len(result.steps) == 1
    assert result.warnings == ["The server did not answer within 60 s: the policy was asked for its answer."]


def test_a_server_that_never_answers_is_an_error():
    policy = ScriptedPolicy(PolicyTimeout("The server did not answer within 60 s."))
    with pytest.raises(PolicyTimeout):
        ask(policy)
    assert policy.calls == 2


def test_what_was_seen_before_a_server_fell_silent_is_not_lost():
    policy = ScriptedPolicy(f"<think>{area(LEFT)}", PolicyTimeout("The server did not answer within 60 s."))
    result = ask(policy)
    assert result.answer == ""
    assert len(result.steps) == 1
    assert result.warnings[-2:] == [
        "The server did not answer within 60 s.",
        "The policy gave no answer, not even when asked for it.",
    ]


def test_a_broken_server_is_an_error():
    with pytest.raises(PolicyUnavailable):
        ask(ScriptedPolicy(f"<think>{area(LEFT)}", PolicyUnavailable("It broke off.")))


@pytest.mark.parametrize("mode", ["tools", "internal"])
@pytest.mark.parametrize("said", ["", "   ", "<think>", "<think><area>[]</area>", "</answer>", "<answer></answer>"])
def test_a_trained_policy_that_says_nothing_of_use_is_asked_for_its_answer(said, mode):
    policy = ScriptedPolicy(said, ANSWER)
    result = ask(policy, mode=mode)
    assert result.answer == "red"
    assert policy.calls == 2
    assert policy.heard[-1][-1].text.endswith(ANSWER_NOW)
    assert "neither an area nor an answer" in " ".join(result.warnings)
    assert not result.valid_trace


def test_an_instruct_model_is_told_what_could_not_be_read_and_asked_once_more():
    policy = ScriptedPolicy("Certainly!", *focus_lines(LEFT, answer="red"), dialect="native")
    result = ask(policy)
    assert result.answer == "red"
    assert len(result.steps) == 1
    assert policy.calls == 3
    assert any("asked once more" in warning for warning in result.warnings)
    assert not result.valid_trace


def test_an_instruct_model_that_keeps_chatting_is_asked_once_more_then_for_its_answer():
    policy = ScriptedPolicy("Certainly!", "Of course!", "With pleasure!", dialect="native")
    result = ask(policy)
    assert policy.calls == 3
    assert result.answer in ("", "With pleasure!")


def test_turns_alternate_whatever_happens():
    policy = ScriptedPolicy("", "", f"<think>{area(*boxes(4))}", "", "Hm.", dialect="native")
    ask(policy, max_images=3)
    for heard in policy.heard:
        roles = [turn.role for turn in heard if turn.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


def test_an_invalid_trace_is_told():
    result = ask(ScriptedPolicy(f"Well. <think>{area(LEFT)}", f"<text>it</text></think>{ANSWER}"))
    assert result.answer == "red"
    assert not result.valid_trace
    assert result.warnings


PIECES = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<area>",
            "</area>",
            "<text>",
            "</text>",
            "<answer>",
            "</answer>",
            area(LEFT),
            area((0, 0, 1, 1)),
            area(*boxes(6)),
            '[{"bbox_2d":[0.9,0.9,0.1,0.1]}]',
            '[{"bbox_2d":[NaN,1e999,-5,2],"depth":7}]',
            "red",
            "a cube",
            "\ud800",
            "```json",
            " ",
        ]
    ),
    max_size=8,
).map("".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lines=st.lists(PIECES, min_size=1, max_size=6),
    mode=st.sampled_from(["direct", "internal", "tools"]),
    dialect=st.sampled_from(["sif", "native"]),
)
def test_whatever_a_policy_says_the_run_ends_in_its_budget_with_a_true_account(lines, mode, dialect):
    policy = ScriptedPolicy(*lines, dialect=dialect)
    result = ask(policy, mode=mode, max_steps=3, max_images=6)

    assert policy.calls <= 3 + 4
    assert max(sum(len(turn.images) for turn in heard) for heard in policy.heard) <= 6
    assert len(result.calls) == policy.calls
    assert result.answer or any("answer" in warning for warning in result.warnings)
    json.dumps(result.to_dict()).encode()
    if result.valid_trace and mode != "direct":
        assert parse(result.trace_text, require_depth=dialect == "sif").answer.strip() == result.answer
