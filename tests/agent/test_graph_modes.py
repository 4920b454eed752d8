"""The focus graph in its modes: what the policy is told, what the user is told."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from PIL import Image
from scripted import ScriptedPolicy, area, focus_lines

from sifthinker.agent import build_focus_graph, create_focus_agent, question_message
from sifthinker.agent.events import (
    AnswerGiven,
    AreaProposed,
    CropTaken,
    DepthMeasured,
    Perceived,
    TextWritten,
)
from sifthinker.agent.result import FocusResult
from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.trace import parse

LEFT, SMALL = (0.1, 0.2, 0.5, 0.6), (0.2, 0.25, 0.4, 0.5)


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.arange(300 * 400 * 3, dtype=np.uint32).astype(np.uint8).reshape(300, 400, 3))


@pytest.fixture
def ramp() -> DepthMap:
    """Depth that grows from left to right."""
    return DepthMap(np.tile(np.linspace(0, 1, 400, dtype=np.float32), (300, 1)), source="ramp")


def test_in_mode_tools_every_area_is_measured_cropped_and_shown(image, ramp):
    policy = ScriptedPolicy(*focus_lines((0, 0, 1, 1), LEFT, SMALL, answer="red"))
    result = create_focus_agent(policy, depth=ramp).ask("What colour?", image=image, options=["red", "blue"])

    assert result.answer == "red"
    assert result.valid_trace
    assert result.warnings == []
    assert [step.text for step in result.steps] == ["a thing 1", "a thing 2", "a thing 3"]
    assert [step.crop_size for step in result.steps] == [None, (160, 120), (80, 75)]
    assert result.steps[1].boxes[0].depth == 0.5
    assert result.steps[1].boxes[0].measured_depth == pytest.approx(0.3, abs=0.01)
    assert [crop.size for crop in result.crops] == [(160, 120), (80, 75)]
    assert result.trace == parse(result.trace_text)
    assert len(result.calls) == 4

    last = policy.heard[-1]
    assert [turn.role for turn in last] == ["user", "assistant"] * 3 + ["user"]
    assert [len(turn.images) for turn in last] == [2, 0, 0, 0, 1, 0, 1]
    assert '"depth":0.299' in last[4].text
    assert last[4].text.startswith("<tool_response>")
    assert last[4].images[0].tobytes() == image.crop((40, 60, 200, 180)).tobytes()
    assert all(limits["stop"] == ("</area>", "</answer>") for limits in policy.limits)


def test_in_mode_internal_one_completion_holds_the_trace_and_depth_is_measured_all_the_same(image, ramp):
    policy = ScriptedPolicy("".join(focus_lines((0, 0, 1, 1), LEFT, answer="red")))
    result = create_focus_agent(policy, depth=ramp, mode="internal").ask("What colour?", image=image)

    assert policy.calls == 1
    assert result.valid_trace
    assert [step.crop_size for step in result.steps] == [None, None]
    assert result.crops == []
    assert result.steps[1].boxes[0].measured_depth == pytest.approx(0.3, abs=0.01)
    assert result.tokens.images == 2


def test_in_mode_direct_the_policy_only_answers(image, ramp):
    policy = ScriptedPolicy("<answer>red</answer>")
    result = create_focus_agent(policy, depth=ramp, mode="direct").ask("What colour?", image=image)

    assert (result.answer, result.steps, result.valid_trace, result.mode) == ("red", [], True, "direct")
    assert "<think>" not in policy.heard[0][-1].text


def test_without_depth_boxes_go_without(image):
    policy = ScriptedPolicy(*focus_lines(LEFT, answer="red"))
    result = create_focus_agent(policy, depth="none").ask("What colour?", image=image)

    assert result.steps[0].boxes[0].measured_depth is None
    assert result.depth_map is None
    assert [len(turn.images) for turn in policy.heard[-1]] == [1, 0, 1]
    assert "depth" not in policy.heard[-1][-1].text


def test_a_policy_that_looks_at_no_depth_picture_is_shown_none(image, ramp):
    policy = ScriptedPolicy(*focus_lines(LEFT), uses_depth_image=False)
    result = create_focus_agent(policy, depth=ramp).ask("What colour?", image=image)
    assert len(policy.heard[0][0].images) == 1
    assert result.steps[0].boxes[0].measured_depth is not None


def test_events_tell_the_run_as_it_goes_and_end_in_the_result(image, ramp):
    policy = ScriptedPolicy(*focus_lines((0, 0, 1, 1), LEFT, answer="red"))
    *events, result = create_focus_agent(policy, depth=ramp).ask_stream("What colour?", image=image)

    assert [type(event) for event in events] == [
        Perceived,
        AreaProposed,
        DepthMeasured,
        TextWritten,
        AreaProposed,
        DepthMeasured,
        CropTaken,
        TextWritten,
        AnswerGiven,
    ]
    assert isinstance(result, FocusResult)
    assert [event.step for event in events if hasattr(event, "step")] == [1, 1, 1, 2, 2, 2, 2]
    crop = events[6]
    assert crop.picture is not None
    assert crop.size == crop.picture.size == (160, 120)
    assert events[0].depth == "ramp"


@pytest.mark.parametrize("dialect", ["sif", "native"])
def test_a_completion_s_areas_and_texts_are_told_in_either_dialect(image, dialect):
    whole = "".join(focus_lines((0, 0, 1, 1), LEFT, answer="red"))
    agent = create_focus_agent(ScriptedPolicy(whole, dialect=dialect), depth="none", mode="internal")
    told = [
        (event.kind, event.step)
        for event in agent.ask_stream("What colour?", image=image)
        if isinstance(event, AreaProposed | TextWritten)
    ]
    assert told == [("area", 1), ("text", 1), ("area", 2), ("text", 2)]


def test_areas_come_in_the_policy_s_own_box_space(image, ramp):
    lines = ['<think><area>[{"bbox_2d":[100,200,500,600]}]</area>', "<text>a thing</text></think><answer>red</answer>"]
    policy = ScriptedPolicy(*lines, dialect="native", box_space=BoxSpace.PERMILLE)
    *events, result = create_focus_agent(policy, depth=ramp).ask_stream("What colour?", image=image)

    assert result.steps[0].boxes[0].bbox_2d == pytest.approx(LEFT)
    assert result.steps[0].boxes[0].depth is None
    assert result.steps[0].crop_size == (160, 120)
    assert "[100,200,500,600]" in policy.heard[-1][-1].text
    assert next(event for event in events if isinstance(event, AreaProposed)).boxes[0].bbox_2d == pytest.approx(LEFT)


def test_a_stored_image_message_goes_through_langgraph_s_own_interface(image, ramp):
    agent = create_focus_agent(ScriptedPolicy(*focus_lines(LEFT, answer="red")), depth=ramp)
    asked = question_message("What colour?", image=agent.context.images.put(image))

    output = agent.invoke({"messages": [asked]})
    assert output["messages"][-1].content == "red"
    assert output["result"]["valid_trace"]
    assert set(output) == {"messages", "result"}

    updates = [next(iter(part)) for part in agent.stream({"messages": [asked]}, stream_mode="updates")]
    assert updates == ["perceive", "reason", "answer"]


def test_several_questions_are_answered_side_by_side(image, ramp):
    agent = create_focus_agent(ScriptedPolicy("<answer>red</answer>"), depth=ramp, mode="direct")
    sha256 = agent.context.images.put(image)
    outputs = agent.batch([{"messages": [question_message(f"{n}?", image=sha256)]} for n in range(5)])
    assert [output["result"]["question"] for output in outputs] == [f"{n}?" for n in range(5)]


def test_it_runs_asynchronously(image, ramp):
    agent = create_focus_agent(ScriptedPolicy(*focus_lines(LEFT, answer="red")), depth=ramp)

    async def both() -> tuple[FocusResult, list[object]]:
        sha256 = agent.context.images.put(image)
        parts = [
            part
            async for part in agent.astream({"messages": [question_message("?", image=sha256)]}, stream_mode="custom")
        ]
        return await agent.aask("What colour?", image=image), parts

    result, parts = asyncio.run(both())
    assert result.answer == "red"
    assert isinstance(parts[-1], AnswerGiven)


def test_the_builder_can_be_extended_and_compiled_by_others(image, ramp):
    seen = []
    graph = build_focus_graph(ScriptedPolicy(*focus_lines(LEFT, answer="red")), depth=ramp)
    graph.add_node("log", lambda state: seen.append(state["result"]["answer"]))
    graph.edges.discard(("answer", "__end__"))
    graph.add_edge("answer", "log")
    asked = question_message("What colour?")
    asked.content.insert(0, {"type": "image", "base64": _png(image), "mime_type": "image/png"})
    graph.compile().invoke({"messages": [asked]})
    assert seen == ["red"]


def test_a_context_given_with_the_run_wins(image, ramp):
    agent = create_focus_agent(ScriptedPolicy("<answer>one</answer>"), depth=ramp, mode="direct")
    other = create_focus_agent(ScriptedPolicy("<answer>two</answer>"), depth=ramp, mode="direct")
    asked = {"messages": [question_message("?", image=other.context.images.put(image))]}
    assert agent.invoke(asked, context=other.context)["result"]["answer"] == "two"


def test_the_mode_can_change_from_question_to_question(image, ramp):
    policy = ScriptedPolicy("<answer>red</answer>")
    agent = create_focus_agent(policy, depth=ramp, mode="tools")
    assert agent.ask("?", image=image, mode="direct").mode == "direct"
    assert agent.context.config.mode == "tools"


def test_the_graph_draws_itself(ramp):
    drawn = create_focus_agent(ScriptedPolicy(""), depth=ramp).get_graph().draw_mermaid()
    for edge in (
        "perceive --> reason",
        "focus --> reason",
        "reason -.-> focus",
        "reason -.-> answer",
        "reason -.-> reason",
    ):
        assert edge in drawn.replace("&nbsp;", "").replace("  ", " ")


def test_a_box_smaller_than_a_crop_may_be_is_shown_with_its_surroundings(image, ramp):
    policy = ScriptedPolicy(f"<think>{area((0.5, 0.5, 0.51, 0.51))}", *focus_lines(LEFT)[1:])
    result = create_focus_agent(policy, depth=ramp).ask("?", image=image)
    assert result.steps[0].crop_size == (16, 16)
    x1, y1, x2, y2 = result.steps[0].shown[0]
    assert x1 <= 0.5
    assert y1 <= 0.5
    assert x2 >= 0.51
    assert y2 >= 0.51


def _png(image: Image.Image) -> str:
    import base64
    import io

    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
