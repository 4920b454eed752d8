"""Prompts and message layouts: the order of what is shown, and the same words for training and inference."""

from __future__ import annotations

import pytest
from PIL import Image

from sifthinker.policy import prompts
from sifthinker.policy.boxes import WHOLE
from sifthinker.policy.messages import ImagePart, Message, TextPart
from sifthinker.policy.trace import AreaBox, last_area

RGB, DEPTH, CROP = (Image.new("RGB", (8, 6), colour) for colour in ("red", "green", "blue"))
QUESTION = "Which is closer, the red cube or the ball?"


def layout(turn: Message) -> list[str]:
    """Each part as its text, or as the kind of its image in angle brackets."""
    return [part.text if isinstance(part, TextPart) else f"<{part.kind}>" for part in turn.parts]


def test_the_picture_comes_first_then_its_depth_then_the_question() -> None:
    turn = prompts.first_turn(QUESTION, rgb=RGB, depth=DEPTH)
    assert turn.role == "user"
    assert layout(turn) == [
        "Original image: ",
        "<rgb>",
        "\nDepth image: ",
        "<depth>",
        f"\n{QUESTION}{prompts.FOCUS_SUFFIX}",
    ]
    assert turn.images == [RGB, DEPTH]


@pytest.mark.parametrize("focus", [True, False])
def test_without_depth_nothing_speaks_of_a_depth_image(focus: bool) -> None:
    turn = prompts.first_turn(QUESTION, rgb=RGB, depth=None, focus=focus)
    assert turn.images == [RGB]
    assert "depth image" not in turn.text.lower()


def test_options_follow_the_question_in_their_order() -> None:
    assert prompts.question_text(QUESTION, ["red cube", "ball"]) == f"{QUESTION}\nOptions: red cube; ball"
    assert prompts.question_text(QUESTION, []) == prompts.question_text(QUESTION, None) == QUESTION
    asked = prompts.first_turn(QUESTION, rgb=RGB, depth=DEPTH, options=["red cube", "ball"], focus=False).text
    assert asked.endswith(f"\nOptions: red cube; ball{prompts.DIRECT_SUFFIX}")


@pytest.mark.parametrize("focus", [True, False])
def test_a_later_question_has_the_same_suffix_and_no_pictures(focus: bool) -> None:
    later = prompts.next_turn(QUESTION, options=["a"], focus=focus)
    first = prompts.first_turn(QUESTION, rgb=RGB, depth=DEPTH, options=["a"], focus=focus)
    assert later.images == []
    assert first.text.endswith("\n" + later.text)


def test_the_focus_suffix_shows_the_grammar_and_the_direct_one_asks_for_the_answer_alone() -> None:
    for tag in ("<think>", "</think>", "<area>", "</area>", "<text>", "</text>", "<answer>", "</answer>"):
        assert tag in prompts.FOCUS_SUFFIX
    assert "<area>" not in prompts.DIRECT_SUFFIX
    assert "<answer></answer>" in prompts.DIRECT_SUFFIX


def test_the_tool_reply_gives_each_box_and_then_its_crop() -> None:
    boxes = [AreaBox(bbox_2d=WHOLE, depth=0.5), AreaBox(bbox_2d=(0.1, 0.2, 0.3, 0.4), depth=0.25)]
    turn = prompts.tool_reply(boxes, [None, CROP], decimals=2)
    assert turn.role == "user"
    assert layout(turn) == [
        '<tool_response>[{"bbox_2d":[0.00,0.00,1.00,1.00],"depth":0.50}]'
        '[{"bbox_2d":[0.10,0.20,0.30,0.40],"depth":0.25}]',
        "<crop>",
        "</tool_response>",
    ]
    assert [part.kind for part in turn.parts if isinstance(part, ImagePart)] == ["crop"]


def test_a_tool_reply_without_depth_or_crop_says_the_box_alone() -> None:
    turn = prompts.tool_reply([AreaBox(bbox_2d=WHOLE)], [None], decimals=2)
    assert turn.text == '<tool_response>[{"bbox_2d":[0.00,0.00,1.00,1.00]}]</tool_response>'


def test_every_box_needs_its_crop_or_none() -> None:
    with pytest.raises(ValueError, match="one crop"):
        prompts.tool_reply([AreaBox(bbox_2d=WHOLE)], [])


def test_the_reply_reads_back_as_the_boxes_looked_at() -> None:
    boxes = [AreaBox(bbox_2d=(0.123, 0.2, 0.3, 0.4), depth=0.25)]
    assert last_area(prompts.tool_reply(boxes, [CROP]).text)[0] == boxes


def test_what_is_said_when_the_looking_ends() -> None:
    assert "<answer></answer>" in prompts.answer_now().text
    assert "<answer></answer>" in prompts.declined().text
    assert prompts.declined("That is my face.").text.startswith("That is my face. ")
