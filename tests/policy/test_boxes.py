"""Boxes: conversion between spaces, and the geometry behind the scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.policy.boxes import (
    WHOLE,
    Box,
    BoxSpace,
    area,
    best_matching,
    clip,
    expand,
    from_unit,
    hiou,
    hull,
    iou,
    is_valid,
    pairwise_iou,
    to_unit,
    union_iou,
)
from sifthinker.policy.errors import UsageError

SIZES = st.tuples(st.integers(1, 8000), st.integers(1, 8000))
UNIT = st.floats(0, 1, allow_nan=False)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, x2 = sorted(draw(st.lists(UNIT, min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(draw(st.lists(UNIT, min_size=2, max_size=2, unique=True)))
    return x1, y1, x2, y2


@st.composite
def grid_boxes(draw: st.DrawFn) -> Box:
    """Boxes with corners on eighths, whose areas a grid counts exactly."""
    x1, x2 = sorted(draw(st.lists(st.integers(0, 8), min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(draw(st.lists(st.integers(0, 8), min_size=2, max_size=2, unique=True)))
    return x1 / 8, y1 / 8, x2 / 8, y2 / 8


def painted(regions: list[Box]) -> np.ndarray:
    """The cells of an 8 × 8 grid that boxes of eighths cover."""
    grid = np.zeros((8, 8), dtype=bool)  # (y, x)
    for region in regions:
        x1, y1, x2, y2 = (round(value * 8) for value in region)
        grid[y1:y2, x1:x2] = True
    return grid


# Spaces


@pytest.mark.parametrize("space", list(BoxSpace))
@given(regions=st.lists(boxes(), max_size=4), image_size=SIZES, resized_size=SIZES)
def test_a_box_comes_back_from_every_space(
    space: BoxSpace, regions: list[Box], image_size: tuple[int, int], resized_size: tuple[int, int]
) -> None:
    there = from_unit(regions, space, image_size=image_size, resized_size=resized_size)
    back = to_unit(there, space, image_size=image_size, resized_size=resized_size)
    assert np.allclose(np.reshape(back, (-1, 4)), np.reshape(regions, (-1, 4)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("space", list(BoxSpace))
@given(numbers=st.lists(st.floats(-2000, 2000), min_size=4, max_size=4), image_size=SIZES, resized_size=SIZES)
def test_numbers_of_a_space_come_back_to_it_even_outside_the_image(
    space: BoxSpace, numbers: list[float], image_size: tuple[int, int], resized_size: tuple[int, int]
) -> None:
    inner = to_unit([numbers], space, image_size=image_size, resized_size=resized_size)
    back = from_unit(inner, space, image_size=image_size, resized_size=resized_size)[0]
    assert np.allclose(back, numbers, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(
    ("space", "written"),
    [
        (BoxSpace.UNIT, (0.25, 0.5, 0.75, 1.0)),
        (BoxSpace.PERMILLE, (250, 500, 750, 1000)),
        (BoxSpace.PIXEL, (100, 100, 300, 200)),
        (BoxSpace.RESIZED, (56, 56, 168, 112)),
        (BoxSpace.PADDED_SQUARE, (0.25, 0.5, 0.75, 0.75)),
    ],
)
def test_one_box_in_every_space(space: BoxSpace, written: Box) -> None:
    inner = to_unit([written], space, image_size=(400, 200), resized_size=(224, 112))
    assert inner == [pytest.approx((0.25, 0.5, 0.75, 1.0))]


def test_a_wide_image_is_padded_above_and_below_and_a_tall_one_at_the_sides() -> None:
    assert from_unit([WHOLE], BoxSpace.PADDED_SQUARE, image_size=(400, 100)) == [(0, 0.375, 1, 0.625)]
    assert from_unit([WHOLE], BoxSpace.PADDED_SQUARE, image_size=(100, 400)) == [(0.375, 0, 0.625, 1)]
    assert from_unit([WHOLE], BoxSpace.PADDED_SQUARE, image_size=(300, 300)) == [WHOLE]


@pytest.mark.parametrize(
    ("space", "missing"),
    [(BoxSpace.PIXEL, "image_size"), (BoxSpace.PADDED_SQUARE, "image_size"), (BoxSpace.RESIZED, "resized_size")],
)
def test_a_space_that_needs_a_size_says_which(space: BoxSpace, missing: str) -> None:
    with pytest.raises(UsageError, match=missing):
        to_unit([WHOLE], space)
    with pytest.raises(UsageError, match=missing):
        from_unit([WHOLE], space, image_size=(0, 10), resized_size=(10, 0))


# One box


@pytest.mark.parametrize(
    "box",
    [(0, 0, 0, 1), (0.5, 0, 0.4, 1), (0, 0, 1, 1.0001), (-0.1, 0, 1, 1), (math.nan, 0, 1, 1), (0, 0, math.inf, 1), ()],
)
def test_what_is_no_box(box: tuple[float, ...]) -> None:
    assert not is_valid(box)


@given(st.lists(st.floats(allow_nan=False), min_size=4, max_size=4))
def test_clipping_stays_in_the_image_and_leaves_valid_boxes_alone(numbers: list[float]) -> None:
    clipped = clip(numbers)
    assert all(0 <= value <= 1 for value in clipped)
    assert clip(clipped) == clipped
    if is_valid(numbers):
        assert clipped == tuple(numbers)


def test_a_box_that_is_no_number_cannot_be_clipped() -> None:
    with pytest.raises(ValueError, match="four numbers"):
        clip((math.nan, 0, 1, 1))


@given(st.lists(boxes(), min_size=1, max_size=5))
def test_a_hull_holds_all_its_boxes(regions: list[Box]) -> None:
    around = hull(regions)
    assert is_valid(around)
    for x1, y1, x2, y2 in regions:
        assert around[0] <= x1 < x2 <= around[2]
        assert around[1] <= y1 < y2 <= around[3]
    assert all(any(region[side] == around[side] for region in regions) for side in range(4))


def test_nothing_has_no_hull() -> None:
    with pytest.raises(ValueError, match="at least one box"):
        hull([])


def test_expanding_grows_about_the_centre_and_stops_at_the_edge() -> None:
    assert expand((0.4, 0.4, 0.6, 0.6), 2) == pytest.approx((0.3, 0.3, 0.7, 0.7))
    assert expand((0.0, 0.4, 0.2, 0.6), 2) == pytest.approx((0.0, 0.3, 0.3, 0.7))
    assert expand((0.4, 0.4, 0.6, 0.6), 0.5) == pytest.approx((0.45, 0.45, 0.55, 0.55))


# Overlap


@given(boxes(), boxes())
def test_iou_is_symmetric_in_range_and_one_only_for_the_same_box(a: Box, b: Box) -> None:
    assert iou(a, b) == pytest.approx(iou(b, a))
    assert 0 <= iou(a, b) <= 1 + 1e-12
    if area(a) > 0:
        assert iou(a, a) == pytest.approx(1)


@given(st.lists(boxes(), max_size=4), st.lists(boxes(), max_size=4))
def test_the_table_of_pairs_holds_the_iou_of_each(a: list[Box], b: list[Box]) -> None:
    table = pairwise_iou(a, b)
    assert table.shape == (len(a), len(b))
    for (row, left), (column, right) in itertools.product(enumerate(a), enumerate(b)):
        assert table[row, column] == pytest.approx(iou(left, right), abs=1e-12)


@given(st.lists(grid_boxes(), max_size=6), st.lists(grid_boxes(), max_size=6))
def test_iou_of_unions_is_what_counting_cells_gives(a: list[Box], b: list[Box]) -> None:
    cells_a, cells_b = painted(a), painted(b)
    every = (cells_a | cells_b).sum()
    expected = (cells_a & cells_b).sum() / every if every and a and b else 0.0
    assert union_iou(a, b) == pytest.approx(expected)


def test_iou_of_unions_of_many_boxes_is_what_counting_cells_gives() -> None:
    rng = np.random.default_rng(0)
    cells = 500  # more edges than are counted in one strip
    low = rng.integers(0, cells - 40, (300, 2))
    high = low + rng.integers(1, 40, (300, 2))
    painted = np.zeros((2, cells, cells), dtype=bool)
    for index, ((left, top), (right, bottom)) in enumerate(zip(low, high, strict=True)):
        painted[index % 2, top:bottom, left:right] = True
    every = np.concatenate([low, high], axis=1) / cells
    expected = (painted[0] & painted[1]).sum() / (painted[0] | painted[1]).sum()
    assert union_iou(every[0::2], every[1::2]) == pytest.approx(expected)


def test_a_box_split_in_two_covers_the_same() -> None:
    halves = [(0.1, 0.2, 0.3, 0.6), (0.3, 0.2, 0.5, 0.6)]
    assert union_iou(halves, [(0.1, 0.2, 0.5, 0.6)]) == pytest.approx(1)


def test_boxes_without_area_cover_nothing() -> None:
    assert union_iou([(0.5, 0.5, 0.2, 0.9)], [WHOLE]) == 0
    assert pairwise_iou([(0.5, 0.5, 0.5, 0.5)], [(0.5, 0.5, 0.5, 0.5)]) == 0


def test_many_boxes_are_no_burden() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.9, (700, 2))
    flood = np.concatenate([low, low + rng.uniform(0.01, 0.1, (700, 2))], axis=1)
    assert 0 < hiou(flood, [(0.2, 0.2, 0.6, 0.6)]) < 0.5


@pytest.mark.parametrize("wrong", [[0.1, 0.2, 0.3, 0.4], [[0.1, 0.2, 0.3]], [[[0.1, 0.2, 0.3, 0.4]]]])
def test_a_wrong_shape_is_told(wrong: list[object]) -> None:
    with pytest.raises(ValueError, match=r"expected a_xyxy of shape \(N, 4\), got"):
        pairwise_iou(wrong, [WHOLE])


# Matching and HIoU


@given(st.integers(0, 5), st.integers(0, 5), st.randoms(use_true_random=False), st.booleans())
def test_the_matching_is_the_best_of_all(rows: int, columns: int, random: object, coarse: bool) -> None:
    pick = random.random  # type: ignore[attr-defined]
    gain = np.array([[round(pick(), 1) if coarse else pick() for _ in range(columns)] for _ in range(rows)])
    gain = gain.reshape(rows, columns)
    pairs = best_matching(gain)
    assert len(pairs) == min(rows, columns)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    small = gain if rows <= columns else gain.T
    best = max(
        sum(small[row, column] for row, column in enumerate(chosen))
        for chosen in itertools.permutations(range(small.shape[1]), small.shape[0])
    )
    assert sum(gain[pair] for pair in pairs) == pytest.approx(best)


def test_a_matching_needs_a_table() -> None:
    with pytest.raises(ValueError, match=r"shape \(N, M\)"):
        best_matching([0.1, 0.2])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_matching_of_numbers_that_are_none_is_refused_and_does_not_go_on_for_ever(number: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        best_matching([[number, number], [number, 0.5]])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e308, -1e308, 1e200])
@pytest.mark.parametrize("side", range(4))
def test_boxes_of_numbers_that_are_none_cover_nothing(number: float, side: int) -> None:
    strange = [number if side == index else value for index, value in enumerate((0.1, 0.1, 0.6, 0.6))]
    usual = (0.1, 0.1, 0.6, 0.6)
    assert pairwise_iou([strange, usual], [usual]).tolist() == [[0], [pytest.approx(1)]]
    assert union_iou([strange], [usual]) == 0
    assert union_iou([strange, usual], [usual]) == pytest.approx(1)
    assert hiou([strange], [usual]) == 0
    assert hiou([strange, usual], [usual]) == pytest.approx((1 + 1 / 2) / 2)
    assert math.isfinite(iou(strange, usual))


@given(st.lists(boxes(), min_size=1, max_size=4), st.lists(boxes(), min_size=1, max_size=4))
def test_hiou_is_symmetric_and_in_range(a: list[Box], b: list[Box]) -> None:
    assert hiou(a, b) == pytest.approx(hiou(b, a))
    assert 0 <= hiou(a, b) <= 1 + 1e-9
    assert hiou(a, b) <= hiou(a, b, pair_norm="min") + 1e-12


@given(st.lists(grid_boxes(), min_size=1, max_size=4))
def test_hiou_of_boxes_with_themselves_is_one_in_any_order(regions: list[Box]) -> None:
    assert hiou(regions, regions[::-1]) == pytest.approx(1)


def test_hiou_of_a_worked_example() -> None:
    true = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 0.5)]
    pred = [(0.0, 0.0, 0.5, 1.0)]
    # The unions share 0.5 of 0.75; the one pair matches wholly, and one box is missing.
    assert hiou(pred, true) == pytest.approx((0.5 / 0.75 + 1 / 2) / 2)
    assert hiou(pred, true, pair_norm="min") == pytest.approx((0.5 / 0.75 + 1) / 2)


def test_extra_boxes_cost_unless_the_published_form_is_asked_for() -> None:
    true, padded = [(0.2, 0.2, 0.6, 0.6)], [(0.2, 0.2, 0.6, 0.6)] * 5
    assert hiou(padded, true, pair_norm="min") == pytest.approx(1)
    assert hiou(padded, true) == pytest.approx((1 + 1 / 5) / 2)


def test_no_boxes_score_nothing() -> None:
    assert hiou([], [WHOLE]) == hiou([WHOLE], []) == hiou([], []) == 0
