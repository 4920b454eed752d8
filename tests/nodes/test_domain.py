"""Telling the block world from everything else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker.nodes import domain
from sifthinker.nodes.domain import looks_like_block_world
from sifthinker.training.world import scene
from sifthinker.training.world.render import render

PHOTOGRAPHS = sorted((Path(__file__).parents[2] / "examples" / "images").glob("*.jpg"))


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [render(scene.make_scene(scene.scene_seed("val", 4242, index))).image for index in range(12)]


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def test_scenes_are_of_the_block_world_in_any_size_and_through_jpeg(scenes):
    for picture in scenes:
        assert looks_like_block_world(picture)
        assert looks_like_block_world(picture.resize((150, 150), Image.Resampling.LANCZOS))
        assert looks_like_block_world(picture.resize((900, 900), Image.Resampling.BICUBIC))
        assert looks_like_block_world(as_jpeg(picture, 60))
        assert looks_like_block_world(picture.crop((40, 30, 340, 300)))


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_photographs_are_not(path):
    photograph = Image.open(path).convert("RGB")
    assert not looks_like_block_world(photograph)
    assert not looks_like_block_world(photograph.convert("L").convert("RGB"))
    width, height = photograph.size
    for left in range(0, width - 99, 100):
        for top in range(0, height - 99, 100):
            assert not looks_like_block_world(photograph.crop((left, top, left + 100, top + 100)))


@pytest.mark.parametrize("color", ["white", "black", "gray", "red", (186, 173, 157)])
def test_plain_pictures_are_not(color):
    assert not looks_like_block_world(Image.new("RGB", (64, 64), color))


def test_noise_is_not():
    noise = np.random.default_rng(0).integers(0, 255, (80, 90, 3), dtype=np.uint8)
    assert not looks_like_block_world(Image.fromarray(noise))


def test_it_knows_the_renderer_s_colours():
    assert set(domain.OBJECT_COLORS) == set(scene.COLORS.values())
    assert set(domain.GROUND_COLORS) == set(scene.GROUNDS)
