"""Reverse expansion: what always holds, and the published numbers worked out by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.boxes import WHOLE, Box, area, hull, iou, is_valid
from sifthinker.training.data.expansion import (
    ExpansionConfig,
    distractor,
    forward_areas,
    grow,
    measured,
    merge_overlaps,
    remaining,
    reverse_expansion,
    rounded,
    step_px,
)

MENDED = ExpansionConfig()
PUBLISHED = ExpansionConfig(published=True)

spans = st.tuples(st.integers(0, 990), st.integers(10, 1000)).map(
    lambda at: (at[0] / 1000, min(at[0] + at[1], 1000) / 1000)
)
boxes = st.tuples(spans, spans).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1]))
many = st.lists(boxes, min_size=1, max_size=5)
sizes = st.tuples(st.integers(40, 2000), st.integers(40, 2000))
seeds = st.integers(0, 2**32)


def covers(outer: Box, inner: Box, slack: float = 2e-3) -> bool:
    return all(outer[i] <= inner[i] + slack and outer[i + 2] >= inner[i + 2] - slack for i in (0, 1))


@settings(max_examples=40)
@given(many, sizes, seeds)
def test_a_trace_narrows_down_to_the_given_boxes(given_boxes: list[Box], size: tuple[int, int], seed: int) -> None:
    areas = forward_areas(given_boxes, size, np.random.default_rng(seed), MENDED)
    kinds = [one.kind for one in areas]
    order = ["whole", "distractor", "hull", "grown", "answer"]
    assert kinds == [kind for kind in order if kind in kinds]
    assert areas[-1].xyxy == [rounded(box, 3) for box in given_boxes]
    assert areas[0].xyxy == [WHOLE] or kinds == ["answer"]
    assert all(is_valid(box) for one in areas for box in one.xyxy)
    by_kind = {one.kind: one.xyxy for one in areas}
    for inner, outer in (("answer", "grown"), ("grown", "hull")):
        if inner in by_kind and outer in by_kind:
            assert all(any(covers(large, small) for large in by_kind[outer]) for small in by_kind[inner])


@settings(max_examples=40)
@given(many, sizes, seeds)
def test_every_number_has_the_decimals_of_a_record(given_boxes: list[Box], size: tuple[int, int], seed: int) -> None:
    for config in (MENDED, PUBLISHED):
        for one in reverse_expansion(given_boxes, size, np.random.default_rng(seed), config):
            assert all(value == round(value, 3) for box in one.xyxy for value in box)


@settings(max_examples=40)
@given(many, sizes, seeds)
def test_the_same_seed_gives_the_same_areas(given_boxes: list[Box], size: tuple[int, int], seed: int) -> None:
    one, two = (forward_areas(given_boxes, size, np.random.default_rng(seed), MENDED) for _ in range(2))
    assert one == two


@given(many, sizes)
def test_a_step_is_never_negative_and_the_same_for_the_mirrored_image(
    given_boxes: list[Box], size: tuple[int, int]
) -> None:
    mirrored = [(1 - x2, 1 - y2, 1 - x1, 1 - y1) for x1, y1, x2, y2 in given_boxes]
    assert min(remaining(given_boxes)) >= 0
    assert step_px(given_boxes, size, MENDED) == pytest.approx(step_px(mirrored, size, MENDED))


@given(many, sizes)
def test_as_many_steps_as_configured_reach_the_whole_image(given_boxes: list[Box], size: tuple[int, int]) -> None:
    grown = grow(given_boxes, MENDED.steps * step_px(given_boxes, size, MENDED), size)
    assert hull(grown) == pytest.approx(WHOLE, abs=1e-9)


@given(many)
def test_merged_boxes_do_not_overlap_and_cover_what_was_merged(given_boxes: list[Box]) -> None:
    merged = merge_overlaps(given_boxes)
    assert all(iou(a, b) == 0 for i, a in enumerate(merged) for b in merged[i + 1 :])
    assert all(any(covers(large, small, 0) for large in merged) for small in given_boxes)
    assert sorted(merge_overlaps(given_boxes[::-1])) == sorted(merged)


@settings(max_examples=40)
@given(boxes, seeds)
def test_a_wrong_area_lies_clear_of_what_is_right(around: Box, seed: int) -> None:
    config = ExpansionConfig(distractor_attempts=30)
    wrong = distractor(around, [around], np.random.default_rng(seed), config)
    if wrong is not None:
        assert is_valid(wrong)
        assert iou(wrong, around) < config.distractor_iou


@given(boxes, sizes)
def test_an_area_is_not_repeated(box: Box, size: tuple[int, int]) -> None:
    areas = forward_areas([box], size, np.random.default_rng(0), ExpansionConfig(distractor=0))
    assert all(iou(a.xyxy[0], b.xyxy[0]) < MENDED.same_iou for a, b in pairwise(areas))


def test_a_wrong_area_never_holds_a_small_box_that_is_right() -> None:
    large, small = (0.0, 0.0, 0.4, 0.4), (0.70, 0.70, 0.705, 0.705)
    config = ExpansionConfig()
    found = [distractor(large, [large, small], np.random.default_rng(seed), config) for seed in range(60)]
    assert any(found)
    for x1, y1, x2, y2 in filter(None, found):
        assert x2 <= 0.70 or x1 >= 0.705 or y2 <= 0.70 or y1 >= 0.705


def test_there_is_a_wrong_area_in_the_configured_share() -> None:
    box = [(0.4, 0.4, 0.5, 0.5)]

    def share(config: ExpansionConfig) -> float:
        ways = [forward_areas(box, (640, 480), np.random.default_rng(seed), config) for seed in range(400)]
        return sum(any(one.kind == "distractor" for one in way) for way in ways) / len(ways)

    assert share(ExpansionConfig(distractor=0)) == 0
    assert share(MENDED) == pytest.approx(0.5, abs=0.08)
    assert share(ExpansionConfig(distractor=1)) == 1


def test_the_published_step_by_hand() -> None:
    # x: 1 - 0.1 - 0.3 = 0.6, of 600 px a fifth is 72; y: 1 - 0.2 - 0.3 = 0.5, of 400 px a fifth is 40
    assert step_px([(0.1, 0.2, 0.3, 0.3)], (600, 400), PUBLISHED) == pytest.approx(72)
    # two boxes: the largest left side and the smallest right side count, x: 1 - 0.4 - 0.2, y: 1 - 0.5 - 0.3
    assert step_px([(0.1, 0.1, 0.2, 0.3), (0.4, 0.5, 0.6, 0.7)], (600, 400), PUBLISHED) == pytest.approx(48)


def test_the_published_fault_and_its_mending() -> None:
    lower_right = [(0.7, 0.6, 0.9, 0.8)]
    assert remaining(lower_right, published=True) == pytest.approx((-0.6, -0.4))
    assert step_px(lower_right, (600, 400), PUBLISHED) == 1.0
    assert step_px(lower_right, (600, 400), MENDED) == pytest.approx(0.7 * 600 / 5)
    grown = forward_areas(lower_right, (600, 400), np.random.default_rng(0), ExpansionConfig(distractor=0))[1]
    assert area(grown.xyxy[0]) > 4 * area(lower_right[0])


def test_the_published_rounding_goes_down_to_pixels_first() -> None:
    areas = forward_areas([(0.1009, 0.1, 0.3009, 0.3)], (100, 100), np.random.default_rng(0), PUBLISHED)
    assert areas[-1].xyxy == [(0.1, 0.1, 0.3, 0.3)]
    # the step, 1 - 0.1 - 0.3 = 0.6 of 100 px over 5, starts from the box before it was cut down: 0.1009 - 0.12 < 0
    assert areas[-2].xyxy == [(0.0, 0.0, 0.42, 0.42)]


def test_the_published_way_keeps_areas_that_repeat() -> None:
    whole = forward_areas([WHOLE], (100, 100), np.random.default_rng(1), PUBLISHED)
    assert [one.kind for one in whole if one.kind != "distractor"] == ["whole", "grown", "answer"]
    assert [one.kind for one in forward_areas([WHOLE], (100, 100), np.random.default_rng(1), MENDED)] == ["answer"]


def test_depths_are_means_in_the_boxes_as_they_are_written() -> None:
    depth = DepthMap(np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64))
    areas = forward_areas([(0.2, 0.2, 0.4, 0.6), (0.7, 0.5, 0.8, 0.9)], (64, 48), np.random.default_rng(0), MENDED)
    for one in measured(areas, depth, 3):
        assert [box.depth for box in one.boxes] == [round(depth.mean(box), 3) for box in one.xyxy]
    assert measured(areas, None, 3) == areas


@pytest.mark.parametrize("scale", [(1.3, 0.7), (0.0, 1.0), (1.0, float("inf"))])
def test_sizes_of_wrong_areas_that_cannot_be_are_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="distractor_scale"):
        ExpansionConfig(distractor_scale=scale)
