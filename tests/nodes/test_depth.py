"""Depth maps: one polarity, means in constant time, one picture, and every form in which a user may name depth."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sifthinker.nodes.depth import CachedDepth, DepthEstimator, DepthMap, FixedDepth, depth_to_rgb, load_depth
from sifthinker.policy.errors import DepthError, ImageError, UsageError


def ramp(width: int = 64, height: int = 48) -> np.ndarray:
    """Near at the left, far at the right."""
    return np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))


def random_map(seed: int = 0, width: int = 23, height: int = 17) -> DepthMap:
    return DepthMap(np.random.default_rng(seed).random((height, width)).astype(np.float32))


boxes = st.tuples(*[st.floats(0, 1) for _ in range(4)]).filter(lambda b: b[2] - b[0] > 1e-3 and b[3] - b[1] > 1e-3)


@given(st.integers(0, 22), st.integers(0, 16), st.integers(1, 23), st.integers(1, 17))
def test_the_mean_of_a_box_on_whole_pixels_is_the_mean_of_these_pixels(x: int, y: int, w: int, h: int) -> None:
    depth = random_map()
    x2, y2 = min(x + w, 23), min(y + h, 17)
    expected = depth.array[y:y2, x:x2].mean(dtype=np.float64)
    assert depth.mean((x / 23, y / 17, x2 / 23, y2 / 17)) == pytest.approx(expected, abs=1e-9)


@given(boxes)
def test_pixels_covered_in_part_count_by_that_part(box: tuple[float, float, float, float]) -> None:
    depth = random_map()
    columns, rows = np.arange(23), np.arange(17)
    across = np.clip(np.minimum(columns + 1, box[2] * 23) - np.maximum(columns, box[0] * 23), 0, 1)
    down = np.clip(np.minimum(rows + 1, box[3] * 17) - np.maximum(rows, box[1] * 17), 0, 1)
    weights = np.outer(down, across)
    assert depth.mean(box) == pytest.approx((depth.array * weights).sum() / weights.sum(), abs=1e-6)


def test_a_box_of_no_size_has_the_depth_of_its_pixel() -> None:
    depth = random_map()
    assert depth.mean((0.5, 0.5, 0.5, 0.5)) == pytest.approx(float(depth.array[8, 11]))
    assert depth.mean((1, 1, 1, 1)) == pytest.approx(float(depth.array[-1, -1]))


def test_of_a_box_that_reaches_beyond_the_part_inside_counts() -> None:
    depth = DepthMap(ramp())
    assert depth.mean((-1, -1, 2, 2)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "box", [(float("nan"), 0, 1, 1), (0, 0, 1, float("inf")), (1.5, 0, 2, 1), (0.9, 0, 0.1, 1), (-2, 0, -1, 1)]
)
def test_a_box_that_holds_nothing_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(UsageError):
        random_map().mean(box)


def test_the_mean_takes_as_long_for_a_large_box_as_for_a_small_one() -> None:
    depth = DepthMap(np.random.default_rng(0).random((1500, 1500)))
    depth.mean((0, 0, 1, 1))  # builds the table

    def seconds(box: tuple[float, float, float, float]) -> float:
        start = time.perf_counter()
        for _ in range(200):
            depth.mean(box)
        return time.perf_counter() - start

    assert seconds((0.01, 0.01, 0.99, 0.99)) < 10 * seconds((0.5, 0.5, 0.501, 0.501)) + 0.05


def test_a_large_map_keeps_its_precision() -> None:
    depth = DepthMap(np.full((2500, 4000), 0.1, np.float32))
    assert depth.mean((0.9, 0.9, 0.9001, 0.9001)) == pytest.approx(0.1, abs=1e-7)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 3, 3)),
        np.zeros(5),
        np.zeros((0, 4)),
        np.full((2, 2), np.nan),
        np.full((2, 2), 1.5),
        -np.ones((2, 2)),
    ],
)
def test_what_is_no_depth_is_refused(array: np.ndarray) -> None:
    with pytest.raises(DepthError):
        DepthMap(array)


def test_the_picture_runs_from_red_near_to_violet_far_through_every_shade() -> None:
    picture = np.asarray(DepthMap(ramp(256, 2)).picture())
    assert tuple(picture[0, 0]) == (158, 1, 66)
    assert tuple(picture[0, 255]) == (94, 79, 162)
    assert picture[0, 40, 0] > 200 > picture[0, 220, 0]
    assert len(np.unique(picture[0], axis=0)) > 250
    assert np.array_equal(picture, depth_to_rgb(ramp(256, 2)))


def test_the_picture_takes_less_than_two_milliseconds() -> None:
    array = np.random.default_rng(0).random((384, 384)).astype(np.float32)
    depth = DepthMap(array)

    def best(call: object) -> float:
        times = []
        for _ in range(20):
            start = time.perf_counter()
            call()  # type: ignore[operator]
            times.append(time.perf_counter() - start)
        return min(times)

    assert best(depth.picture) < 2e-3
    assert best(lambda: depth_to_rgb(array)) < 2e-3


def test_sixteen_bit_files_come_back_as_they_went(tmp_path: Path) -> None:
    depth = random_map()
    depth.to_png16(tmp_path / "depth.png")
    again = DepthMap.from_png16(tmp_path / "depth.png")
    assert np.abs(again.array - depth.array).max() <= 0.5 / 65535 + 1e-7
    assert again.size == depth.size
    assert "depth.png" in again.source


def test_an_eight_bit_file_is_no_depth_file(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "grey.png")
    with pytest.raises(DepthError, match="near="):
        DepthMap.from_png16(tmp_path / "grey.png")


@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_picture_is_read_with_the_polarity_that_is_named(bits: int, tmp_path: Path) -> None:
    top = 255 if bits == 8 else 65535
    grey = Image.fromarray((ramp() * top).astype(np.uint8 if bits == 8 else np.uint16))
    grey.save(tmp_path / "grey.png")
    dark_near = DepthMap.from_image(tmp_path / "grey.png", near="dark")
    bright_near = DepthMap.from_image(grey, near="bright")
    assert dark_near.mean((0, 0, 0.1, 1)) < 0.1 < 0.9 < dark_near.mean((0.9, 0, 1, 1))
    assert np.allclose(dark_near.array + bright_near.array, 1, atol=1e-6)


def test_a_coloured_depth_picture_is_refused_since_its_colours_have_no_order() -> None:
    with pytest.raises(DepthError, match="grey"):
        DepthMap.from_image(DepthMap(ramp()).picture(), near="dark")
    buffer = io.BytesIO()
    Image.fromarray((ramp() * 255).astype(np.uint8)).convert("RGB").save(buffer, "JPEG")
    assert DepthMap.from_image(buffer.getvalue(), near="dark").mean((0, 0, 0.1, 1)) < 0.1


class Counting:
    """An estimator that counts how often it is asked."""

    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, image: Image.Image) -> DepthMap:
        self.calls += 1
        return DepthMap(np.full((image.height, image.width), 0.25, np.float32), source=self.name)


def test_a_cached_estimator_is_asked_once_for_each_picture() -> None:
    counting = Counting()
    cached = CachedDepth(counting, max_bytes=2 * DepthMap(np.zeros((8, 8))).nbytes)
    red, green, blue = (Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue"))
    assert cached.predict(red) is cached.predict(red.copy())
    assert counting.calls == 1
    cached.predict(green)
    cached.predict(blue)
    cached.predict(red)  # was dropped
    assert counting.calls == 4
    assert cached.name == "counting"
    assert isinstance(cached, DepthEstimator)


def test_known_depth_is_given_for_its_own_image_only() -> None:
    fixed = FixedDepth(DepthMap(ramp(64, 48), source="renderer"))
    assert fixed.predict(Image.new("RGB", (640, 480))).size == (64, 48)
    assert fixed.name == "renderer"
    with pytest.raises(DepthError, match="64 × 48"):
        fixed.predict(Image.new("RGB", (480, 640)))


def test_depth_can_be_named_given_or_left_out(tmp_path: Path) -> None:
    assert load_depth(None) is None
    assert load_depth("none") is None
    counting = Counting()
    assert load_depth(counting) is counting
    depth = random_map()
    loaded = load_depth(depth)
    assert loaded is not None
    assert loaded.predict(Image.new("RGB", (23, 17))) is depth
    Image.fromarray((ramp() * 255).astype(np.uint8)).save(tmp_path / "d:near=x.png")
    named = load_depth(f"image:{tmp_path}/d:near=x.png:near=bright")
    assert named is not None
    assert named.predict(Image.new("RGB", (64, 48))).mean((0, 0, 0.1, 1)) > 0.9


def test_a_depth_image_is_of_one_image_and_not_of_the_next_of_the_same_shape(tmp_path: Path) -> None:
    Image.new("L", (8, 6), 100).save(tmp_path / "d.png")
    known = load_depth(f"image:{tmp_path}/d.png:near=dark")
    assert known is not None
    first, second = Image.new("RGB", (8, 6), (1, 2, 3)), Image.new("RGB", (8, 6), (3, 2, 1))
    assert known.predict(first) is known.predict(first.copy())
    with pytest.raises(DepthError, match="of the image before"):
        known.predict(second)


@pytest.mark.parametrize(
    "spec", ["", "huge", "image:", "image:x.png", "image:x.png:near=red", "http://example.com/a", "a b/c", "../nowhere"]
)
def test_a_wrong_name_lists_the_right_ones(spec: str) -> None:
    with pytest.raises(UsageError, match="near=dark"):
        load_depth(spec)


def test_a_missing_depth_image_is_said_as_a_missing_image() -> None:
    with pytest.raises(ImageError):
        load_depth("image:/nowhere/depth.png:near=dark")


def test_what_cannot_be_depth_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="int"):
        load_depth(3)  # type: ignore[arg-type]
