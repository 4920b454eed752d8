"""One form for what a turn said, in every mode."""

from __future__ import annotations

import pytest
from scripted import area, focus_lines

from sifthinker.nodes.reading import distinct, read_turn
from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.dialect import dialect_for
from sifthinker.policy.trace import AreaBox

SIF = dialect_for(PolicyProfile(name="p", dialect="sif"))
SIZE = (100, 80)


def test_a_turn_of_mode_tools_closes_a_step_and_opens_the_next():
    reading = read_turn(
        SIF, f"<text>a cube</text>{area((0.1, 0.2, 0.3, 0.4))}", image_size=SIZE, mode="tools", final=False
    )
    assert reading.text == "a cube"
    assert [box.bbox_2d for box in reading.boxes] == [(0.1, 0.2, 0.3, 0.4)]
    assert reading.answer == ""


def test_a_whole_completion_gives_its_steps_and_its_answer():
    whole = "".join(focus_lines((0, 0, 1, 1), (0.1, 0.2, 0.3, 0.4), answer="red"))
    reading = read_turn(SIF, whole, image_size=SIZE, mode="internal", final=False)
    assert len(reading.steps) == 2
    assert reading.boxes == ()
    assert reading.answer == "red"


@pytest.mark.parametrize("mode", ["tools", "internal", "direct"])
def test_after_the_last_call_only_the_answer_counts(mode):
    said = f"<text>a cube</text>{area((0.1, 0.2, 0.3, 0.4))}</think><answer>red</answer>"
    reading = read_turn(SIF, said, image_size=SIZE, mode=mode, final=True)
    assert reading.answer == "red"
    assert reading.boxes == ()


def test_repeated_boxes_of_an_area_are_one():
    boxes = [
        AreaBox(bbox_2d=(0, 0, 0.5, 0.5), depth=0.1),
        AreaBox(bbox_2d=(0.1, 0, 0.5, 0.5)),
        AreaBox(bbox_2d=(0, 0, 0.5, 0.5)),
    ]
    assert distinct(boxes) == tuple(boxes[:2])
