"""Grounding: where the trace ends counts, and no first box pays for itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.policy.boxes import WHOLE, Box, hiou
from sifthinker.policy.errors import UsageError
from sifthinker.training.rewards import grounding_reward
from sifthinker.training.rewards.places import MOST_BOXES, place

TRUE: Box = (0.2, 0.2, 0.6, 0.6)  # covers 0.16 of the image
FAR: Box = (0.7, 0.7, 0.9, 0.9)
Said = Callable[..., str]

UNITS = st.integers(0, 40)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, x2 = sorted(draw(st.lists(UNITS, min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(draw(st.lists(UNITS, min_size=2, max_size=2, unique=True)))
    return x1 / 40, y1 / 40, x2 / 40, y2 / 40


def earned(text: str, true: list[Box] | None = None) -> float:
    return grounding_reward(completions=[text], boxes=[[TRUE] if true is None else true])[0]


def test_the_right_box_earns_its_hiou_and_what_that_is_more_than_the_whole_image(said: Said) -> None:
    assert earned(said([WHOLE], [TRUE])) == pytest.approx(1 + (1 - 0.16))


def test_half_of_the_box_earns_half(said: Said) -> None:
    half = (0.2, 0.2, 0.4, 0.6)  # IoU 0.5
    assert earned(said([WHOLE], [half])) == pytest.approx(0.5 + (0.5 - 0.16))


def test_a_place_worse_than_the_whole_image_earns_no_bonus(said: Said) -> None:
    small = (0.2, 0.2, 0.25, 0.25)  # IoU 0.0025 / 0.16
    assert earned(said([WHOLE], [small])) == pytest.approx(0.0025 / 0.16)


def test_the_last_area_counts(said: Said) -> None:
    assert earned(said([WHOLE], [TRUE], [FAR])) == 0.0


def test_a_corrected_first_box_earns_as_much_as_a_right_one(said: Said) -> None:
    assert earned(said([WHOLE], [FAR], [TRUE])) == earned(said([WHOLE], [TRUE], [TRUE]))
    assert earned(said([WHOLE], [FAR], [TRUE])) > earned(said([WHOLE], [FAR], [FAR]))


def test_each_box_too_many_costs(said: Said) -> None:
    one, two, three = (earned(said([WHOLE], [TRUE, *extra])) for extra in ([], [FAR], [FAR, (0.0, 0.0, 0.1, 0.1)]))
    assert one > two > three


def test_the_same_box_again_costs(said: Said) -> None:
    assert earned(said([WHOLE], [TRUE, TRUE])) == pytest.approx(2 * 0.75 - 0.16)  # unions 1, pairs 1/2


def test_a_missing_box_costs(said: Said) -> None:
    both = earned(said([WHOLE], [TRUE, FAR]), [TRUE, FAR])
    assert earned(said([WHOLE], [TRUE]), [TRUE, FAR]) < both


def test_boxes_by_the_hundred_are_in_no_place(said: Said) -> None:
    assert earned(said([WHOLE], [TRUE] * (MOST_BOXES + 1))) == 0.0


def test_a_sample_with_that_many_boxes_can_still_be_grounded(said: Said) -> None:
    grid = [(x / 10, y / 10, (x + 1) / 10, (y + 1) / 10) for x in range(10) for y in range(7)]
    assert earned(said([WHOLE], grid), grid) > 1.0


def test_what_is_not_a_trace_earns_nothing(said: Said) -> None:
    assert earned(said([WHOLE], [TRUE]) + "and more") == 0.0


@pytest.mark.parametrize("nothing", [None, []])
def test_a_sample_without_boxes_earns_nothing(said: Said, nothing: list[Box] | None) -> None:
    assert grounding_reward(completions=[said([TRUE])], boxes=[nothing]) == [0.0]


def test_boxes_may_come_as_objects(said: Said) -> None:
    plain = grounding_reward(completions=[said([TRUE])], boxes=[[TRUE]])
    assert grounding_reward(completions=[said([TRUE])], boxes=[[{"bbox_2d": list(TRUE), "label": "cube"}]]) == plain


def test_boxes_in_pixels_are_refused_with_what_to_do(said: Said) -> None:
    with pytest.raises(UsageError, match="to_unit"):
        grounding_reward(completions=[said([TRUE])], boxes=[[(20, 20, 60, 60)]])


def test_a_column_of_another_length_is_refused(said: Said) -> None:
    with pytest.raises(UsageError, match="'boxes'"):
        grounding_reward(completions=[said([TRUE])], boxes=[[TRUE], [TRUE]])


@given(st.lists(boxes(), min_size=1, max_size=5), st.lists(boxes(), min_size=1, max_size=4))
def test_a_placement_is_the_hiou_of_the_geometry(pred: list[Box], true: list[Box]) -> None:
    placement = place(tuple(pred), tuple(true))
    assert placement.hiou == pytest.approx(hiou(pred, true))
    assert placement.loosest == pytest.approx(hiou(pred, true, pair_norm="min"))


@given(first=boxes(), other=boxes(), last=boxes(), true=boxes())
def test_no_first_box_changes_what_the_last_one_earns(first: Box, other: Box, last: Box, true: Box) -> None:
    rewards = {earned(_trace(first, last), [true]), earned(_trace(other, last), [true]), earned(_trace(last), [true])}
    assert len(rewards) == 1


def _trace(*boxes: Box) -> str:
    steps = "".join(f'<area>[{{"bbox_2d":{list(box)},"depth":0.5}}]</area><text>t</text>' for box in boxes)
    return f"<think>{steps}</think><answer>a</answer>"
