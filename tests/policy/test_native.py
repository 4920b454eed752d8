"""The dialects build the turns of every mode, and read each family's usual manner of answering."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sifthinker.policy import prompts
from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.boxes import BoxSpace
from sifthinker.policy.dialect import Dialect, NativeDialect, SifDialect, dialect_for
from sifthinker.policy.messages import ImagePart, Message, message
from sifthinker.policy.profiles import profile_of_family
from sifthinker.policy.remote import RemotePolicy
from sifthinker.policy.trace import AreaBox, Step, Trace, parse, render

SIZE = (1000, 700)
RGB, DEPTH = Image.new("RGB", SIZE, "gray"), Image.new("RGB", (100, 70), "red")
SPACES = {
    "qwen3_vl": "0 to 1000",
    "qwen2_5_vl": "pixels of the picture, which is 1008 wide and 700 high",
    "unknown": "0 to 1 of the width",
}


def native(family: str = "qwen3_vl", **declared: Any) -> Dialect:
    return dialect_for(profile_of_family("a model", family, **declared))


def sif(**declared: Any) -> Dialect:
    return dialect_for(PolicyProfile(name="trained", dialect="sif", **declared))


def boxes_of(boxes: Any) -> list[list[float]]:
    return [[round(value, 3) for value in box.bbox_2d] for box in boxes]


def test_the_profile_chooses_the_dialect() -> None:
    assert isinstance(native(), NativeDialect)
    assert isinstance(sif(), SifDialect)


@pytest.mark.parametrize("family", SPACES)
@pytest.mark.parametrize("mode", ["internal", "tools"])
def test_the_system_turn_tells_grammar_space_and_a_worked_example(family: str, mode: Any) -> None:
    dialect = native(family)
    system, user = dialect.build_first("Which?", rgb=RGB, depth=DEPTH, options=["mug", "lamp"], mode=mode)
    assert (system.role, user.role) == ("system", "user")
    assert SPACES[family] in system.text
    for tag in ("<think>", "<area>", "<text>", "</think>", "<answer>", "bbox_2d"):
        assert tag in system.text
    example = "<think>" + system.text.rpartition("<think>")[2]
    assert (prompts.TOOL_OPEN in example) == (mode == "tools")
    assert ("stop" in system.text) == (mode == "tools")
    for reply in example.split(prompts.TOOL_OPEN)[1:]:
        example = example.replace(
            f"\n{prompts.TOOL_OPEN}{reply.partition(prompts.TOOL_CLOSE)[0]}{prompts.TOOL_CLOSE}\n", ""
        )
    reading = dialect.read_completion(example, image_size=SIZE)
    assert reading.valid, reading.warnings
    assert boxes_of(reading.trace.steps[0].boxes) == [[0, 0, 1, 1]]
    assert boxes_of(reading.trace.steps[1].boxes)[0] == pytest.approx([0.11, 0.52, 0.3, 0.81], abs=2e-3)
    assert all(box.depth is None for step in reading.trace.steps for box in step.boxes)


@pytest.mark.parametrize("dialect", [native(), sif()])
def test_images_come_first_and_the_question_with_its_options_after(dialect: Dialect) -> None:
    for mode in ("direct", "internal", "tools"):
        user = dialect.build_first("Which is red?", rgb=RGB, depth=DEPTH, options=["mug", "lamp"], mode=mode)[-1]
        kinds = [part.kind if isinstance(part, ImagePart) else "text" for part in user.parts]
        assert kinds == ["text", "rgb", "text", "depth", "text"]
        assert "Which is red?\nOptions: mug; lamp" in user.text


@pytest.mark.parametrize("dialect", [native(uses_depth_image=False), sif(uses_depth_image=False), native(), sif()])
def test_without_a_depth_picture_none_is_shown_or_told(dialect: Dialect) -> None:
    depth = None if dialect.profile.uses_depth_image else DEPTH
    turns = dialect.build_first("Which?", rgb=RGB, depth=depth, mode="tools")
    assert [part.kind for turn in turns for part in turn.parts if isinstance(part, ImagePart)] == ["rgb"]
    assert prompts.DEPTH_IMAGE not in turns[-1].text
    assert "violet" not in turns[0].text


@pytest.mark.parametrize("dialect", [native(), sif()])
def test_every_mode_stops_at_the_answer_and_tools_at_an_area(dialect: Dialect) -> None:
    assert set(dialect.stop_strings("tools")) == {"</area>", "</answer>"}
    assert dialect.stop_strings("internal") == dialect.stop_strings("direct") == ("</answer>",)


def test_a_tool_reply_tells_depth_and_crop_in_the_models_own_space() -> None:
    crop = Image.new("RGB", (50, 40))
    looked_at = [AreaBox(bbox_2d=(0.1, 0.2, 0.5, 0.6), depth=0.25), AreaBox(bbox_2d=(0, 0, 1, 1), depth=0.5)]
    reply = native().build_tool_reply(looked_at, [crop, None], image_size=SIZE)
    assert reply.role == "user"
    assert reply.text.startswith(prompts.TOOL_OPEN)
    assert '[{"bbox_2d":[100,200,500,600],"depth":0.250}] cut out: ' in reply.text
    assert '[{"bbox_2d":[0,0,1000,1000],"depth":0.500}]\n' in reply.text
    assert reply.images == [crop]
    assert (
        '"bbox_2d":[101,140,504,420]'
        in native("qwen2_5_vl").build_tool_reply(looked_at, [crop, None], image_size=SIZE).text
    )
    trained = sif(box_decimals=2).build_tool_reply(looked_at, [crop, None], image_size=SIZE)
    assert trained == prompts.tool_reply(looked_at, [crop, None], decimals=2)


def test_boxes_without_measured_depth_are_told_without() -> None:
    reply = native().build_tool_reply([AreaBox(bbox_2d=(0, 0, 0.5, 0.5))], [None], image_size=SIZE)
    assert "depth" not in reply.text


def test_the_sif_dialect_speaks_in_the_words_of_training() -> None:
    assert sif().build_first("Which?", rgb=RGB, depth=DEPTH, options=["a"], mode="tools") == [
        prompts.first_turn("Which?", rgb=RGB, depth=DEPTH, options=["a"], focus=True)
    ]
    for shown in (True, False):
        asked = sif().build_next("And?", image_size=SIZE, mode="direct", depth_shown=shown)
        assert asked == prompts.next_turn("And?", focus=False, depth_shown=shown)


def test_a_later_question_names_the_form_again() -> None:
    turn = native().build_next("And the lamp?", image_size=SIZE, options=["a", "b"], mode="tools")
    assert turn.text.startswith("And the lamp?\nOptions: a; b\n")
    assert "<think>" in turn.text
    assert "<answer>" in native().build_next("And?", image_size=SIZE, mode="direct").text


def test_a_span_that_keeps_to_the_grammar_is_read_without_a_word() -> None:
    first = native().read_span('<think><area>[{"bbox_2d":[100,200,500,600]}]</area>', image_size=SIZE)
    assert boxes_of(first.boxes) == [[0.1, 0.2, 0.5, 0.6]]
    assert (first.text, first.answer, first.warnings, first.needs_retry) == ("", None, (), False)
    second = native().read_span('<text>A mug.</text>\n<area>[{"bbox_2d":[0,0,500,1000]}]</area>', image_size=SIZE)
    assert (second.text, boxes_of(second.boxes), second.warnings) == ("A mug.", [[0, 0, 0.5, 1]], ())
    last = native().read_span("<text>It is red.</text></think><answer>red</answer>", image_size=SIZE)
    assert (last.text, last.boxes, last.answer, last.warnings) == ("It is red.", (), "red", ())


# How untrained and hosted models are known to answer: (family, what it says, its boxes normalised).
MANNERS = {
    "JSON in a code fence": (
        "qwen3_vl",
        '```json\n[\n\t{"bbox_2d": [120, 340, 560, 600], "label": "the red mug"}\n]\n```',
        [[0.12, 0.34, 0.56, 0.6]],
    ),
    "0-1000 boxes with labels": (
        "qwen3_vl",
        '<think><area>[{"bbox_2d": [0, 0, 500, 500], "label": "mug"},\n'
        ' {"bbox_2d": [500, 0, 1000, 250], "label": "lamp"}]</area>',
        [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.25]],
    ),
    "pixels of the resized picture": (
        "qwen2_5_vl",
        '```json\n[{"bbox_2d": [504, 350, 1008, 700], "label": "cat"}]\n```',
        [[0.5, 0.5, 1, 1]],
    ),
    "prose around the tags": (
        "unknown",
        'Sure! Let me look closer.\n<think>I see a desk. <area>[{"bbox_2d":[0.1,0.2,0.3,0.4]}]</area>',
        [[0.1, 0.2, 0.3, 0.4]],
    ),
    "a bare list": ("internvl", "<think><area>[[120, 340, 560, 600]]</area>", [[0.12, 0.34, 0.56, 0.6]]),
    "a tool call in the text": (
        "qwen3_vl",
        '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [120, 340, 560, 600]}}\n</tool_call>',
        [[0.12, 0.34, 0.56, 0.6]],
    ),
    "swapped corners": ("qwen3_vl", '<area>[{"bbox_2d":[500,600,100,200]}]</area>', [[0.1, 0.2, 0.5, 0.6]]),
    "a little over the edge": ("qwen3_vl", '<area>[{"bbox_2d":[-8,0,1020,500]}]</area>', [[0, 0, 1, 0.5]]),
    "special tokens left in": (
        "qwen3_vl",
        '<|im_start|><think><area>[{"bbox_2d":[0,0,500,500]}]</area>',
        [[0, 0, 0.5, 0.5]],
    ),
}


@pytest.mark.parametrize("manner", MANNERS)
def test_each_familys_manner_is_read_and_told(manner: str) -> None:
    family, said, expected = MANNERS[manner]
    span = native(family).read_span(said, image_size=SIZE)
    assert boxes_of(span.boxes) == expected
    assert not span.needs_retry
    if manner not in ("0-1000 boxes with labels",):
        assert span.warnings


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("qwen3_vl", "The mug is on the left."),
        ("qwen3_vl", ""),
        ("qwen3_vl", "<think>Let me think about the mug."),
        ("unknown", '<area>[{"bbox_2d":[120,340,560,600]}]</area>'),
        ("qwen3_vl", '<area>[{"bbox_2d":[NaN,1,2,3]}]</area>'),
        ("qwen3_vl", "<area>[]</area>"),
    ],
)
def test_what_holds_no_box_and_no_answer_is_asked_for_once_more(family: str, said: str) -> None:
    dialect = native(family)
    span = dialect.read_span(said, image_size=SIZE)
    assert span.needs_retry
    assert (span.boxes, span.answer) == ((), None)
    retry = dialect.build_retry(span.problems)
    assert retry.role == "user"
    assert span.problems[0] in retry.text
    assert "<area>" in retry.text
    assert "<answer>" in retry.text
    assert ("0 to 1000" in retry.text) == (family == "qwen3_vl")


def test_numbers_of_an_undeclared_space_are_never_guessed_at() -> None:
    span = native("unknown").read_span('<area>[{"bbox_2d":[120,340,560,600]}]</area>', image_size=SIZE)
    assert span.boxes == ()
    assert any("unit" in problem for problem in span.problems)


def test_a_turn_that_did_not_wait_for_its_crop_keeps_all_its_steps() -> None:
    said = (
        '<think><area>[{"bbox_2d":[0,0,1000,1000]}]</area><text>A desk.</text>'
        '<area>[{"bbox_2d":[0,0,500,500]}]</area><text>A mug.</text></think><answer>mug</answer>'
    )
    span = native().read_span(said, image_size=SIZE)
    assert [step.text for step in span.steps] == ["A desk.", "A mug."]
    assert (span.boxes, span.answer, span.needs_retry) == ((), "mug", False)


@pytest.mark.parametrize(
    ("said", "answer", "valid"),
    [
        ("<answer>red</answer>", "red", True),
        (" <answer> red </answer>\n", "red", True),
        ("It is the mug, so <answer>red</answer>", "red", False),
        ("Answer: red", "red", False),
        ("red", "red", False),
        ("<answer></answer>", "", False),
        ("", "", False),
    ],
)
@pytest.mark.parametrize("dialect", [native(), sif()])
def test_an_answer_alone_is_read(said: str, answer: str, valid: bool, dialect: Dialect) -> None:
    reading = dialect.read_completion(said, image_size=SIZE, mode="direct")
    assert (reading.trace.answer, reading.valid) == (answer, valid)
    assert reading.needs_retry == (answer == "")
    assert bool(reading.warnings) == (not valid)


def test_a_whole_trace_is_valid_by_what_was_asked_of_the_policy() -> None:
    with_depth = Trace(steps=[Step(boxes=[AreaBox(bbox_2d=(0, 0, 1, 1), depth=0.5)], text="All.")], answer="red")
    bare = Trace(steps=[Step(boxes=[AreaBox(bbox_2d=(0, 0, 1, 1))], text="All.")], answer="red")
    assert sif().read_completion(render(with_depth), image_size=SIZE).valid
    missing = sif().read_completion(render(bare), image_size=SIZE)
    assert (missing.valid, missing.needs_retry, missing.trace) == (False, False, bare)
    assert native("unknown").read_completion(render(bare), image_size=SIZE).valid
    assert native().read_completion(render(bare, space=BoxSpace.PERMILLE), image_size=SIZE).valid


PIECES = [
    "<think>", "</think>", "<area>", "</area>", "<text>", "</text>", "<answer>", "</answer>", "[", "]", "{", "}",
    '"bbox_2d":', "0.5", "1e999", "NaN", ",", "-", "```json", "\ud800", "\x00", "answer: ",
]  # fmt: skip


@given(text=st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_raises_anything(text: str) -> None:
    for dialect in (native(), native("qwen2_5_vl"), sif()):
        span = dialect.read_span(text, image_size=SIZE)
        assert span.needs_retry == (not span.boxes and span.answer is None)
        dialect.build_retry(span.problems)
        for mode in ("direct", "internal"):
            reading = dialect.read_completion(text, image_size=SIZE, mode=mode)
            assert reading.needs_retry == (reading.trace.answer == "")
            if reading.valid and mode == "internal" and isinstance(dialect, SifDialect):
                parse(text)


def test_a_focus_run_with_a_hosted_model_that_was_never_trained_for_it(
    serve: Callable[..., Any], stub: ModuleType
) -> None:
    """Three turns as a node would take them: a code fence, an OpenAI tool call, then the answer without its stop."""
    call = {"index": 0, "function": {"name": "zoom", "arguments": '{"bbox_2d": [500, 500, 750, 750]}'}}
    tool_call = stub.stream(
        lines=["data: " + json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]})], finish="tool_calls"
    )
    server = serve(
        stub.stream('I look at all of it.\n```json\n[{"bbox_2d": [0, 0, 1000, 1000], "label": "scene"}]\n```'),
        tool_call,
        stub.stream("<text>It is a red mug.</text></think><answer>red"),
    )
    policy = RemotePolicy("qwen3-vl-plus", server.url)
    dialect = dialect_for(policy.profile)
    turns: list[Message] = dialect.build_first(
        "Which colour?", rgb=RGB, depth=None, options=["red", "blue"], mode="tools"
    )
    seen, warnings = [], []
    for _ in range(5):
        completion = policy.generate(turns, stop=dialect.stop_strings("tools"))
        span = dialect.read_span(completion.text, image_size=SIZE)
        warnings += span.warnings
        if span.answer is not None:
            break
        seen += boxes_of(span.boxes)
        measured = [box.model_copy(update={"depth": 0.5}) for box in span.boxes]
        reply = dialect.build_tool_reply(measured, [None] * len(measured), image_size=SIZE)
        turns += [message("assistant", completion.text), reply]
    assert span.answer == "red"
    assert seen == [[0, 0, 1, 1], [0.5, 0.5, 0.75, 0.75]]
    assert len(server.requests) == 3
    assert warnings
