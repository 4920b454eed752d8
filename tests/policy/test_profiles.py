"""A profile comes with a checkpoint: nothing in it may cost memory without bounds, or steer a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.errors import PolicyLoadError
from sifthinker.policy.profiles import profile_of_family, profile_of_folder, profile_of_server

FILE = "sifthinker.json"


@pytest.mark.parametrize(
    "field", ["rgb_px", "depth_px", "crop_px", "crop_min_px", "vision_patch_px", "min_image_pixels", "max_image_pixels"]
)
@pytest.mark.parametrize("value", [0, -1, 10**12, 1e300, "NaN", [4], "1e9"])
def test_sizes_that_no_picture_should_be_brought_to_are_refused(field: str, value: object, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({field: value}))
    with pytest.raises(PolicyLoadError, match=field):
        profile_of_folder(tmp_path)


def test_a_crop_is_never_enlarged_beyond_bounds() -> None:
    profile = PolicyProfile(name="p", crop_px=8000, vision_patch_px=1024)
    assert max(profile.shown_size((1, 1), "crop")) <= 8192
    assert max(profile.shown_size((8000, 160), "crop")) <= 8192


def test_a_model_as_it_comes_is_shown_small_crops_enlarged_and_large_pictures_whole() -> None:
    profile = profile_of_family("m", "qwen3_vl")
    assert profile.shown_size((60, 40), "crop") == (512, 341)
    assert profile.shown_size((1800, 900), "crop") == (1800, 900)
    assert profile.shown_size((4000, 3000), "rgb") == (4000, 3000)
    assert profile.shown_size((4000, 3000), "depth") == (518, 388)
    assert profile_of_family("m", "qwen3_vl", crop_px=256, depth_px=None).shown_size((60, 40), "crop") == (256, 171)


def test_a_served_qwen25_is_shown_what_every_server_leaves_as_it_is() -> None:
    model = "Qwen/Qwen2.5-VL-7B-Instruct"
    served = profile_of_server(model, None, None, {})
    for size in [(4000, 3000), (6000, 6000), (1792, 1792), (8000, 400), (640, 480)]:
        width, height = served.resized_size(size) or (0, 0)
        assert width * height <= 4096 * 28 * 28, "the most that llama.cpp takes"
    assert served.shown_size((4000, 3000)) == (1792, 1344)
    assert served.shown_size((2000, 1000), "crop") == (2000, 1000)
    assert profile_of_server(model, None, None, {"rgb_px": 3584}).shown_size((4000, 3000)) == (3584, 2688)
    given = profile_of_family("mine", "qwen2_5_vl")
    assert profile_of_server(model, None, given, {}).rgb_px is None
    assert profile_of_server("Qwen/Qwen3-VL-4B-Instruct", None, None, {}).rgb_px is None


def test_its_words_cannot_steer_a_terminal(tmp_path: Path) -> None:
    said = "a\x1b]0;taken\x07b\x9b2Jc\ud800"
    (tmp_path / FILE).write_text(
        json.dumps({"name": said, "family": said, "domain": said, "notes": [said, "x" * 9999]})
    )
    profile = profile_of_folder(tmp_path)
    assert profile is not None
    for words in (profile.name, profile.family, profile.domain, *profile.notes):
        assert words is not None
        assert not any(character < " " or "\x7f" <= character <= "\x9f" for character in words)
        assert len(words) <= 1000
        words.encode()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b'{"name": ' * 50_000, b"", b"null", b'{"a":NaN}'])
def test_a_file_that_is_no_profile_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(PolicyLoadError, match=FILE):
        profile_of_folder(tmp_path)
