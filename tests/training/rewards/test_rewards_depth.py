"""Depth: right depths of right places, and of nothing else."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.boxes import WHOLE, Box
from sifthinker.policy.errors import DepthError, UsageError
from sifthinker.training.rewards import depth_reward
from sifthinker.training.rewards.measure import PASSES, depth_maps, mean_depth

Said = Callable[..., str]
TRUE: Box = (0.4, 0.4, 0.6, 0.6)  # mean 0.5 on the ramp
FAR: Box = (0.8, 0.1, 1.0, 0.3)  # mean 0.9


def earned(text: str, depth: object, *true: Box) -> float:
    return depth_reward(completions=[text], boxes=[list(true or (TRUE,))], depth=[depth])[0]


@pytest.mark.parametrize(
    ("depth", "right"), [(0.5, True), (0.45, True), (0.55, True), (0.449, False), (0.551, False), (0.0, False)]
)
def test_a_depth_is_right_within_a_tenth_of_the_mean(said: Said, ramp: DepthMap, depth: float, right: bool) -> None:
    assert earned(said([(*WHOLE, 0.5)], [(*TRUE, depth)]), ramp) == float(right)


@pytest.mark.parametrize(
    ("depth", "right"), [(0.0, False), (0.009, False), (0.011, True), (0.029, True), (0.031, False)]
)
def test_near_the_camera_a_hundredth_is_allowed(said: Said, ramp: DepthMap, depth: float, right: bool) -> None:
    near = (0.0, 0.0, 0.04, 0.5)  # mean 0.02: a tenth of it would be 0.002
    assert earned(said([(*near, depth)]), ramp, near) == float(right)


def test_a_mean_of_zero_can_be_said(said: Said) -> None:
    assert earned(said([(*TRUE, 0.0)]), DepthMap(np.zeros((10, 10), np.float32))) == 1.0


def test_the_right_depth_of_a_wrong_place_earns_nothing(said: Said, ramp: DepthMap) -> None:
    assert earned(said([(*FAR, 0.9)]), ramp) == 0.0


def test_a_place_is_right_from_half_of_the_overlap(said: Said, ramp: DepthMap) -> None:
    assert earned(said([(0.4, 0.4, 0.6, 0.5, 0.5)]), ramp) == 1.0  # IoU 1/2
    assert earned(said([(0.4, 0.4, 0.6, 0.49, 0.5)]), ramp) == 0.0


def test_boxes_too_many_and_too_few_are_in_the_share(said: Said, ramp: DepthMap) -> None:
    right, other = (*TRUE, 0.5), (*FAR, 0.9)
    assert earned(said([right, other]), ramp) == 0.5
    assert earned(said([right]), ramp, TRUE, FAR) == 0.5
    assert earned(said([right, other]), ramp, TRUE, FAR) == 1.0
    assert earned(said([right, right, right, right]), ramp) == 0.25


def test_easy_areas_before_the_last_neither_pay_nor_cost(said: Said, ramp: DepthMap) -> None:
    wrong = [(*TRUE, 0.9)]
    assert earned(said(*[[(*WHOLE, 0.5)]] * 9, wrong), ramp) == 0.0
    assert earned(said(wrong, [(*TRUE, 0.5)]), ramp) == 1.0


def test_a_row_without_a_map_earns_nothing_and_need_not_say_depths(ramp: DepthMap) -> None:
    no_depth = '<think><area>[{"bbox_2d":[0.4,0.4,0.6,0.6]}]</area><text>t</text></think><answer>a</answer>'
    assert depth_reward(completions=[no_depth], boxes=[[TRUE]], depth=[None]) == [0.0]
    assert depth_reward(completions=[no_depth], boxes=[[TRUE]], depth=[ramp]) == [0.0]


def test_maps_may_be_arrays(said: Said, ramp: DepthMap) -> None:
    text = said([(*TRUE, 0.5)])
    assert earned(text, ramp.array) == earned(text, ramp.array.astype(np.float64)) == earned(text, ramp) == 1.0


@pytest.mark.parametrize("wrong", [np.zeros((2, 2, 3)), np.full((4, 4), 255.0), np.full((4, 4), np.nan)])
def test_what_is_no_depth_map_is_refused(said: Said, wrong: np.ndarray) -> None:
    with pytest.raises(DepthError):
        earned(said([(*TRUE, 0.5)]), wrong)


def test_the_column_is_needed_whole(said: Said, ramp: DepthMap) -> None:
    with pytest.raises(UsageError, match="'depth'"):
        depth_reward(completions=[said([TRUE])] * 2, boxes=[[TRUE]] * 2, depth=[ramp])


# Measuring


def test_the_arrays_of_a_group_are_taken_up_once() -> None:
    one, other = np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32)
    maps = depth_maps([one, one, other, None, one])
    assert maps[0] is maps[1] is maps[4]
    assert maps[2] is not maps[0]
    assert maps[3] is None


def test_an_array_that_is_filled_anew_is_another_map(said: Said) -> None:
    buffer = np.full((10, 10), 0.5, np.float32)
    text = said([(*TRUE, 0.5)])
    assert earned(text, buffer) == 1.0
    buffer[:] = 0.9
    assert earned(text, buffer) == 0.0


def test_a_measured_map_is_let_go() -> None:
    depth = DepthMap(np.zeros((8, 8), np.float32))
    mean_depth(depth, TRUE)
    gone = weakref.ref(depth)
    del depth
    gc.collect()
    assert gone() is None


EDGES = st.lists(st.floats(0, 1, allow_nan=False, width=32), min_size=2, max_size=2, unique=True).map(sorted)


@given(x=EDGES, y=EDGES, shape=st.tuples(st.integers(1, 20), st.integers(1, 20)), seed=st.integers(0, 99))
def test_summing_directly_gives_the_mean_of_the_map(
    x: list[float], y: list[float], shape: tuple[int, int], seed: int
) -> None:
    array = np.random.default_rng(seed).random(shape).astype(np.float32)
    box = (x[0], y[0], x[1], y[1])
    assert mean_depth(DepthMap(array), box) == pytest.approx(DepthMap(array).mean(box), abs=1e-6)


def test_a_map_measured_often_goes_over_to_its_integral_image(monkeypatch: pytest.MonkeyPatch) -> None:
    depth = DepthMap(np.random.default_rng(0).random((40, 40)).astype(np.float32))
    asked: list[Box] = []
    real = DepthMap.mean
    monkeypatch.setattr(DepthMap, "mean", lambda self, box: asked.append(box) or real(self, box))
    means = [mean_depth(depth, WHOLE) for _ in range(PASSES + 3)]
    assert 0 < len(asked) <= 4
    assert means == pytest.approx([means[0]] * len(means))
