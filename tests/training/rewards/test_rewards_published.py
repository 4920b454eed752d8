"""The published forms: values worked out by hand from the definitions, loopholes included."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.boxes import WHOLE, Box
from sifthinker.training.rewards import ProgressMemory
from sifthinker.training.rewards.published import (
    AnswerReward,
    answer_reward,
    depth_reward,
    format_reward,
    grounding_reward,
)

Said = Callable[..., str]
TRUE: Box = (0.2, 0.2, 0.6, 0.6)  # 0.16 of the image
FAR: Box = (0.7, 0.7, 0.9, 0.9)  # 0.04 of the image, apart from it
GOOD = '<area>[{"bbox_2d":[0.1,0.1,0.5,0.5],"depth":0.4}]</area><text>t</text>'
END = "</think><answer>red</answer>"


def grounded(text: str, *true: Box) -> float:
    return grounding_reward(completions=[text], boxes=[list(true or (TRUE,))])[0]


# Format


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{GOOD}{END}",
        f"<think>{GOOD}{GOOD}{END}",
        f"<think>\n{GOOD}\n{GOOD}\n{END}",
        f"Sure! <think>{GOOD}{END} Anything else?",
        f"<think>{GOOD} and so {GOOD}{END}",
        f"<think>{GOOD}</think> so <answer>red</answer>",
        f"<think>{GOOD}</think><answer>red</answer><answer>blue</answer>",
        f"<think><area>[]</area><text>t</text>{END}",
        f"<think>{GOOD}<area>[]</area><text>t</text>{END}",
        f"<think>{GOOD}<area>anything</area> but <text>t</text>{END}",  # the last step's area is not read then
        f"<think>{GOOD.replace('0.4}', '0.4,' + chr(34) + 'label' + chr(34) + ':1}')}{END}",
        f"<think>{GOOD.replace('[0.1,0.1,0.5,0.5]', '[0,0,1,1]')}{END}",
        f"<think>{GOOD.replace('0.4}', 'true}')}{END}",
        f"<think>{GOOD.replace('0.4}', '0.4000}')}{END}",
    ],
)
def test_the_published_format_passes(text: str) -> None:
    assert format_reward(completions=[text]) == [1.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "red",
        f"<think>{GOOD}</think>",
        "<answer>red</answer>",
        f"<think>{END}",
        f"<think>{GOOD}</think><answer> </answer>",
        f"<think>So {GOOD}{END}",
        f"<think>{GOOD} so.{END}",
        f"<think>{GOOD.replace('t<', '<b>t</b><')}{END}",
        f"<think>{GOOD.replace('>t<', '> <')}{END}",
        f"<think><text>t</text>{GOOD}{END}",
        f"<think>{GOOD.replace('</area>', '')}{END}",
        f"<think>{GOOD.replace('0.4}', '1e-05}')}{END}",
        f"<think>{GOOD.replace('0.4}', '0.4123}')}{END}",
        f"<think>{GOOD.replace('0.4}', '1.2}')}{END}",
        f"<think>{GOOD.replace('0.4}', 'NaN}')}{END}",
        f"<think>{GOOD.replace('0.4}', chr(34) + '0.4' + chr(34) + '}')}{END}",
        f"<think>{GOOD.replace(',' + chr(34) + 'depth' + chr(34) + ':0.4', '')}{END}",
        f"<think>{GOOD.replace('0.5,0.5]', '0.1,0.5]')}{END}",
        f"<think>{GOOD.replace('[{', '{').replace('}]', '}')}{END}",
        f"<think>{GOOD.replace('[{', '[[[{')}{END}",
        f"<think>{GOOD.replace('0.4}', '9' * 5000 + '}')}{END}",
    ],
)
def test_the_published_format_does_not_pass(text: str) -> None:
    assert format_reward(completions=[text]) == [0.0]


# Grounding


def test_hiou_of_two_for_two() -> None:
    true = [(0.0, 0.0, 0.4, 1.0), (0.4, 0.0, 0.8, 1.0)]
    pred = '[{"bbox_2d":[0.2,0,0.6,1]},{"bbox_2d":[0,0,0.4,1]}]'
    # unions 0.6 of 0.8; pairs: the second box with the first, 1, the first with the second, 0.2 / 0.6
    text = f"<area>{pred}</area>"
    assert grounding_reward(completions=[text], boxes=[true])[0] == pytest.approx((0.75 + (1 + 1 / 3) / 2) / 2)


def test_boxes_too_many_are_free_in_the_pair_term(said: Said) -> None:
    assert grounded(said([TRUE])) == pytest.approx(1.0)
    assert grounded(said([TRUE, FAR])) == pytest.approx((0.16 / 0.20 + 1) / 2)
    assert grounded(said([TRUE]), TRUE, FAR) == pytest.approx((0.16 / 0.20 + 1) / 2)


def test_a_bad_first_box_pays_more_than_a_right_one(said: Said) -> None:
    half = (0.2, 0.2, 0.4, 0.6)
    assert grounded(said([WHOLE], [TRUE], [TRUE])) == pytest.approx(1.0)
    assert grounded(said([WHOLE], [half], [TRUE])) == pytest.approx(1.5)
    assert grounded(said([WHOLE], [FAR], [TRUE])) == pytest.approx(2.0)
    assert grounded(said([WHOLE], [TRUE], [half])) == pytest.approx(0.5)  # no bonus for getting worse


def test_only_the_whole_image_starts_from_itself(said: Said) -> None:
    assert grounded(said([WHOLE])) == pytest.approx(0.16)
    assert grounded(said([WHOLE], [WHOLE])) == pytest.approx(0.16)


def test_an_empty_first_area_doubles_the_reward(said: Said) -> None:
    assert grounded(said([], [TRUE])) == pytest.approx(2.0)


def test_a_first_area_that_cannot_be_read_costs_the_bonus_only() -> None:
    last = '<area>[{"bbox_2d":[0.2,0.2,0.6,0.6]}]</area>'
    assert grounded(f"<area>[oops]</area>{last}") == pytest.approx(1.0)


@pytest.mark.parametrize(
    "last", ["", "[]", "[oops]", "5", '[{"bbox_2d":[0.2,0.2,0.6]}]', '[{"bbox_2d":"all"}]', "[null]"]
)
def test_a_last_area_that_cannot_be_read_earns_nothing(last: str) -> None:
    assert grounded(f"{GOOD}<area>{last}</area>") == 0.0


def test_boxes_are_found_anywhere_in_the_text() -> None:
    assert grounded('So <area>{"bbox_2d":[0.2,0.2,0.6,0.6]}</area> it is') == pytest.approx(1.0)


def test_a_box_without_area_counts_in_the_pair_term_only() -> None:
    text = '<area>[{"bbox_2d":[0.6,0.2,0.2,0.6]},{"bbox_2d":[0.2,0.2,0.6,0.6]}]</area>'
    assert grounded(text) == pytest.approx(1.0)


# Depth


def deep(text: str, depth: DepthMap) -> float:
    return depth_reward(completions=[text], depth=[depth])[0]


def test_the_mean_is_of_all_pixels_that_a_box_touches(said: Said, ramp: DepthMap) -> None:
    box = (0.4, 0.0, 0.455, 1.0)  # columns 40 to 45: (0.405 + 0.455) / 2 = 0.43, a tenth of it 0.043
    assert deep(said([(*box, 0.472)]), ramp) == 1.0
    assert deep(said([(*box, 0.474)]), ramp) == 0.0
    assert deep(said([(*box, 0.388)]), ramp) == 1.0
    assert deep(said([(*box, 0.386)]), ramp) == 0.0


def test_all_boxes_of_all_areas_share_the_reward(said: Said, ramp: DepthMap) -> None:
    right, wrong = (*WHOLE, 0.5), (*WHOLE, 0.9)
    assert deep(said([right], [right, wrong], [wrong]), ramp) == pytest.approx(0.5)


def test_a_wrong_place_scores(said: Said, ramp: DepthMap) -> None:
    assert deep(said([(0.8, 0.0, 1.0, 1.0, 0.9)]), ramp) == 1.0


def test_near_the_camera_almost_nothing_is_near_enough(said: Said, ramp: DepthMap) -> None:
    near = (0.0, 0.0, 0.04, 1.0)  # mean 0.02, a tenth of it 0.002
    assert deep(said([(*near, 0.0219)]), ramp) == 1.0
    assert deep(said([(*near, 0.023)]), ramp) == 0.0


def test_a_mean_of_zero_is_never_right(said: Said) -> None:
    assert deep(said([(*WHOLE, 0.0)]), DepthMap(np.zeros((4, 4), np.float32))) == 0.0


def test_depths_are_paired_with_boxes_by_their_order(ramp: DepthMap) -> None:
    text = '<area>[{"bbox_2d":[0,0,0.2,1]},{"bbox_2d":[0.4,0,0.6,1],"depth":0.1}]</area>'
    assert deep(text, ramp) == 1.0  # 0.1 is the depth of the first box


def test_an_area_that_cannot_be_read_counts_as_one_depth(said: Said, ramp: DepthMap) -> None:
    assert deep(said([(*WHOLE, 0.5)]) + "<area>oops</area>", ramp) == 0.5


@pytest.mark.parametrize(
    "numbers", ["0,0,1", '"a","b","c","d"', "NaN,0,1,1", "0,0,Infinity,1", "1,0,1,1", "0.9,0,0.2,1"]
)
def test_what_is_no_box_has_no_depth(ramp: DepthMap, numbers: str) -> None:
    assert deep(f'<area>[{{"bbox_2d":[{numbers}],"depth":0.5}}]</area>', ramp) == 0.0


def test_boxes_beyond_the_image_are_clipped(ramp: DepthMap) -> None:
    assert deep(f'<area>[{{"bbox_2d":[-3,-3,{9 * 10**400},7],"depth":0.5}}]</area>', ramp) == 1.0


def test_a_row_without_a_map_earns_nothing(said: Said) -> None:
    assert depth_reward(completions=[said([WHOLE])], depth=[None]) == [0.0]


# Answer


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<answer>red</answer>", 1.0),
        ("I guess <answer>\n red \n</answer> it is", 1.0),
        ("<answer>red</answer><answer>blue</answer>", 1.0),
        ("<answer>blue</answer><answer>red</answer>", 0.0),
        ("red", 0.0),
        ("<answer>red", 0.0),
    ],
)
def test_the_first_answer_counts_wherever_it_stands(text: str, score: float) -> None:
    assert answer_reward(completions=[text], answer=["red"], options=[["red", "blue"]]) == [score]


@pytest.mark.parametrize(("previous", "reward"), [(None, 1.0), (0.25, 1.75), (1.0, 1.0), (1.5, 1.0)])
def test_progress_pays_the_difference_again(previous: float | None, reward: float) -> None:
    text = "<answer>3</answer>"
    assert answer_reward(completions=[text], answer=["3"], previous=[previous]) == [pytest.approx(reward)]
    assert answer_reward(completions=[text], answer=["4"], previous=[previous]) == [0.0]


def visits(reward: AnswerReward, *answers: tuple[str, str]) -> list[list[float]]:
    return [
        reward(completions=[f"<answer>{said}</answer>" for said in two], answer=["3", "3"], id=["a", "a"])
        for two in answers
    ]


def test_the_memory_holds_the_boosted_mean() -> None:
    earned = visits(AnswerReward(memory=ProgressMemory()), ("3", "4"), ("3", "3"), ("3", "3"))
    assert earned == [[1.0, 0.0], [1.5, 1.5], [1.0, 1.0]]  # 1.5 is kept after the second visit: no score reaches it


def test_the_memory_never_holds_a_zero() -> None:
    memory = ProgressMemory()
    assert visits(AnswerReward(memory=memory), ("4", "4"), ("3", "4")) == [[0.0, 0.0], [1.0, 0.0]]
    assert memory.previous("a") == 0.5


def test_a_judge_that_failed_scores_zero() -> None:
    reward = AnswerReward(judge=lambda cases: [0.8, None])
    assert visits(reward, ("3", "3")) == [[0.8, 0.0]]


def test_every_value_is_a_plain_finite_number(said: Said, ramp: DepthMap) -> None:
    text = said([WHOLE], [TRUE, FAR])
    values = grounding_reward(completions=[text], boxes=[[TRUE]]) + depth_reward(completions=[text], depth=[ramp])
    assert all(type(value) is float and math.isfinite(value) for value in values)
