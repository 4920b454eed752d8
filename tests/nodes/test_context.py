"""Views remember depth and crops, within bounds."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scripted import ScriptedPolicy

from sifthinker.nodes.context import FocusConfig, FocusContext, View, Views
from sifthinker.nodes.depth import DepthMap
from sifthinker.nodes.images import MemoryImageStore
from sifthinker.policy.errors import ImageError


class CountingDepth:
    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, image: Image.Image) -> DepthMap:
        self.calls += 1
        return DepthMap(np.full((image.height, image.width), 0.5, np.float32), source=self.name)


def picture(shade: int = 0) -> Image.Image:
    return Image.new("RGB", (64, 48), (shade, shade, shade))


def test_the_depth_of_an_image_is_estimated_once():
    depth = CountingDepth()
    context = FocusContext(policy=ScriptedPolicy(""), depth=depth)
    sha256 = context.images.put(picture())
    assert context.view(sha256) is context.view(sha256)
    assert depth.calls == 1


def test_two_estimators_do_not_share_a_view():
    images, views = MemoryImageStore(), Views()
    sha256 = images.put(picture())
    assert views.open(sha256, images, CountingDepth()).depth is not None
    assert views.open(sha256, images, None).depth is None


def test_only_the_last_views_are_remembered():
    images, views, depth = MemoryImageStore(), Views(max_bytes=2 * 24 * 64 * 48), CountingDepth()  # 20 bytes a pixel
    for shade in (0, 1, 2, 2, 1, 0):
        views.open(images.put(picture(shade)), images, depth)
    assert depth.calls == 4


def test_a_view_that_somebody_holds_is_not_opened_twice():
    images, views, depth = MemoryImageStore(), Views(max_bytes=1), CountingDepth()
    sha256 = images.put(picture(1))
    held = views.open(sha256, images, depth)
    views.open(images.put(picture(2)), images, depth)
    assert views.open(sha256, images, depth) is held
    assert depth.calls == 2


def test_a_pixel_takes_four_bytes_as_pillow_keeps_it():
    assert View(picture(), None).bytes == 4 * 64 * 48


def test_an_image_that_is_not_stored_is_missing():
    with pytest.raises(ImageError, match="stored"):
        FocusContext(policy=ScriptedPolicy("")).view("f" * 64)


def test_a_crop_is_cut_once_and_forgotten_when_there_are_many():
    view = View(picture(), None, max_crops=1)
    first = view.crop((0, 0, 0.5, 0.5), min_px=16)
    assert view.crop((0, 0, 0.5, 0.5), min_px=16)[0] is first[0]
    view.crop((0.5, 0.5, 1, 1), min_px=16)
    assert view.crop((0, 0, 0.5, 0.5), min_px=16)[0] is not first[0]


def test_crops_hold_no_more_pixels_than_are_counted_for_them():
    view = View(picture(), None)
    first = view.crop((0, 0, 0.9, 0.9), min_px=16)
    view.crop((0.1, 0, 1, 0.9), min_px=16)
    assert view.crop((0, 0, 0.9, 0.9), min_px=16)[0] is first[0], "two of them fit"
    view.crop((0, 0.1, 0.9, 1), min_px=16)
    last = view.crop((0.1, 0.1, 1, 1), min_px=16)
    assert view.crop((0.1, 0.1, 1, 1), min_px=16)[0] is last[0]
    assert view.crop((0, 0, 0.9, 0.9), min_px=16)[0] is not first[0]


def test_the_defaults_are_the_documented_limits():
    config = FocusConfig()
    assert (config.mode, config.max_steps, config.max_boxes, config.max_images) == ("tools", 8, 4, 16)
    assert (config.deadline_s, config.call_timeout_s, config.max_completion_bytes) == (300, 60, 32768)


def test_a_crop_is_cut_once_for_the_policy_and_for_the_result():
    view = View(picture(), None)
    cut, shown = view.crop((0.1, 0.2, 0.12, 0.5), min_px=16)
    again, same = view.crop(shown, min_px=1)
    assert again is cut
    assert same == shown
