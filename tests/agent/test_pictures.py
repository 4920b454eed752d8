"""The annotated image: boxes where they belong, in their step's colour, and numbers that do not hide each other."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageColor

from sifthinker.agent.pictures import STEP_COLOURS, annotate, free_place, is_whole, step_colour


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (128, 128, 128))


def has_colour(image: Image.Image, box_px: tuple[int, int, int, int], colour: str) -> bool:
    pixels = np.asarray(image.crop(box_px)).reshape(-1, 3)
    return bool((np.abs(pixels.astype(int) - ImageColor.getrgb(colour)).max(axis=1) < 3).any())


def test_each_step_is_drawn_in_its_own_colour_where_its_box_is() -> None:
    picture = annotate(grey(960, 960), [[(0.1, 0.1, 0.3, 0.3)], [(0.5, 0.5, 0.9, 0.9)]])
    assert has_colour(picture, (90, 90, 300, 300), step_colour(0))
    assert has_colour(picture, (480, 480, 880, 880), step_colour(1))
    assert not has_colour(picture, (400, 100, 960, 400), step_colour(0))


def test_the_image_given_is_left_as_it_was() -> None:
    image = grey(960, 480)
    before = image.tobytes()
    annotate(image, [[(0.1, 0.1, 0.9, 0.9)]])
    assert image.tobytes() == before


def test_a_small_image_is_enlarged_and_keeps_its_aspect() -> None:
    assert annotate(grey(64, 32), []).size == (960, 480)


def test_boxes_of_a_pixel_at_the_border_are_drawn_without_an_error() -> None:
    annotate(grey(2000, 20), [[(0.999, 0.0, 1.0, 1.0)], [(0.0, 0.0, 0.0001, 0.0001)]])


def test_many_whole_images_stay_apart() -> None:
    picture = annotate(grey(960, 960), [[(0.0, 0.0, 1.0, 1.0)]] * 3)
    assert all(has_colour(picture, (0, 300, 60, 600), step_colour(index)) for index in range(3))


def test_numbers_do_not_lie_on_each_other() -> None:
    placed: list[tuple[float, float, float, float]] = []
    for _ in range(5):
        placed.append(free_place((100, 100, 500, 500), (40, 40), (960, 960), placed))
    assert len({place[0] for place in placed}) == 5


def test_a_small_box_is_not_hidden_by_its_number() -> None:
    x1, y1, x2, y2 = free_place((200, 200, 215, 215), (40, 40), (960, 960), [])
    assert x2 < 200 or x1 > 215 or y2 < 200 or y1 > 215


def test_the_whole_image_is_told_from_a_region() -> None:
    assert is_whole((0.0, 0.0, 1.0, 0.95))
    assert not is_whole((0.1, 0.1, 0.9, 0.9))


def test_colours_return_after_the_last() -> None:
    assert step_colour(len(STEP_COLOURS)) == step_colour(0)
