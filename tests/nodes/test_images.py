"""Images from outside: what is taken, how it is brought upright and to RGB, and what is refused with which reason."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sifthinker.nodes.images import (
    FolderImageStore,
    ImageLimits,
    ImageStore,
    MemoryImageStore,
    crop,
    fit,
    load_image,
)
from sifthinker.policy.errors import ImageError, UsageError

FORMATS = ("PNG", "JPEG", "WebP")


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Smooth enough that JPEG keeps it, and different in every corner."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def reason_of(source: object, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return caught.value.reason


@pytest.mark.parametrize("format", FORMATS)
def test_the_three_formats_load_from_bytes_and_from_a_file_of_any_name(format: str, tmp_path: Path) -> None:
    data = encoded(picture(), format, **({} if format == "PNG" else {"quality": 95}))
    path = tmp_path / "picture.txt"
    path.write_bytes(data)
    loaded = load_image(data)
    assert loaded.size == (40, 30)
    assert loaded.image.mode == "RGB"
    assert loaded.warnings == ()
    assert load_image(path).sha256 == load_image(str(path)).sha256 == loaded.sha256
    difference = np.asarray(loaded.image, int) - np.asarray(picture(), int)
    assert np.abs(difference).mean() < 6


def test_the_hash_is_of_the_pixels_not_of_the_file() -> None:
    image = picture()
    assert load_image(encoded(image)).sha256 == load_image(encoded(image, compress_level=0)).sha256
    assert load_image(image).sha256 == load_image(encoded(image)).sha256
    assert load_image(picture(seed=1)).sha256 != load_image(image).sha256
    black = Image.new("RGB", (4, 6))
    assert load_image(black).sha256 != load_image(black.transpose(Image.Transpose.ROTATE_90)).sha256


def test_a_loaded_image_is_the_callers_no_longer() -> None:
    mine = picture()
    loaded = load_image(mine)
    mine.putpixel((0, 0), (1, 2, 3))
    assert loaded.image.getpixel((0, 0)) != (1, 2, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", FORMATS)
def test_every_exif_orientation_is_set_upright_once(orientation: int, format: str) -> None:
    upright = picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    as_stored = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    stored = upright
    for step in as_stored:
        stored = stored.transpose(step)
    options = {"lossless": True} if format == "WebP" else {"quality": 95} if format == "JPEG" else {}
    data = encoded(stored, format, exif=exif, **options)
    for source in (data, Image.open(io.BytesIO(data))):
        loaded = load_image(source)
        assert loaded.size == upright.size
        assert np.abs(np.asarray(loaded.image, int) - np.asarray(upright, int)).mean() < 6
    assert load_image(load_image(data).image).sha256 == load_image(data).sha256


@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "exif",
    [b"II*\0\x08\0\0\0" + b"\xff" * 40, b"II*\0\x08\0\0\0\x05\0\x12\x01", b"MM\0*\0\0\xff\xff" + bytes(9), b"II*\0"],
)
def test_broken_exif_data_is_said_and_the_image_taken_as_it_is(exif: bytes, format: str) -> None:
    loaded = load_image(encoded(picture(), format, exif=b"Exif\0\0" + exif))
    assert loaded.size == (40, 30)
    assert [note for note in loaded.warnings if "EXIF data is broken" in note] == list(loaded.warnings)
    assert len(loaded.warnings) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_exif_data_without_an_orientation_is_no_fault(format: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    assert load_image(encoded(picture(), format, exif=exif)).warnings == ()
    assert load_image(encoded(picture(), format, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")).warnings == ()


def test_transparency_is_laid_on_white_and_said() -> None:
    image = picture().convert("RGBA")
    image.putpixel((3, 4), (10, 200, 30, 0))
    loaded = load_image(encoded(image))
    assert loaded.image.getpixel((3, 4)) == (255, 255, 255)
    assert any("transparent" in warning for warning in loaded.warnings)
    assert load_image(encoded(picture().convert("RGBA"))).warnings == ()


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    image = picture().convert(mode)
    loaded = load_image(encoded(image))
    assert loaded.image.mode == "RGB"
    expected = np.asarray(image.convert("RGB"), int)
    assert np.abs(np.asarray(loaded.image, int) - expected).max() <= 1


def test_a_transparent_palette_entry_is_laid_on_white() -> None:
    image = picture().convert("P")
    index = image.getpixel((0, 0))
    loaded = load_image(encoded(image, transparency=index))
    assert loaded.image.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_to_eight_not_cut_off() -> None:
    grey = Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16))
    loaded = load_image(encoded(grey))
    values = np.asarray(loaded.image)[..., 0].ravel()
    assert values[0] == 0
    assert values[-1] == 255
    assert np.all(np.diff(values.astype(int)) >= 0)
    assert len(np.unique(values)) == 256
    assert any("16 bits" in warning for warning in loaded.warnings)


def test_cmyk_is_converted_and_said() -> None:
    loaded = load_image(encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = loaded.image.getpixel((10, 10))
    assert red > 200
    assert max(green, blue) < 60
    assert any("CMYK" in warning for warning in loaded.warnings)


@pytest.mark.parametrize("format", ["PNG", "WebP"])
def test_of_an_animation_the_first_frame_is_taken_and_said(format: str) -> None:
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "green", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    loaded = load_image(data)
    assert loaded.image.getpixel((5, 5)) == (255, 0, 0)
    assert any("first of its 3 frames" in warning for warning in loaded.warnings)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_tiny_images_load(size: tuple[int, int]) -> None:
    assert load_image(Image.new("RGB", size)).size == size


def test_what_is_too_large_in_any_way_is_refused_with_its_reason(tmp_path: Path) -> None:
    assert reason_of(encoded(Image.new("L", (8001, 200)))) == "edge"
    assert reason_of(encoded(Image.new("L", (200, 8001)), "WebP")) == "edge"
    assert reason_of(encoded(Image.new("L", (7000, 7000)))) == "pixels"
    assert reason_of(encoded(Image.new("L", (510, 10)), "JPEG")) == "aspect"
    assert reason_of(Image.new("L", (8001, 300))) == "edge"
    assert reason_of(encoded(picture()), limits=ImageLimits(max_bytes=100)) == "too_large"
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(20_000_001)  # a sparse file: it is refused by its size, not read
    assert reason_of(large) == "too_large"


def test_a_png_bomb_is_refused_before_it_is_decoded() -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    assert reason_of(bomb + png_chunk(b"IEND", b"")) in ("edge", "pixels")


def test_a_webp_that_lies_about_its_canvas_is_refused_before_its_decoder_reserves_it() -> None:
    data = bytearray(encoded(picture().convert("RGBA"), "WebP", save_all=True, append_images=[picture(seed=1)]))
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\xff\xff\xff\xff\xff\xff"
    assert reason_of(bytes(data)) in ("edge", "pixels")


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = encoded(picture(), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    assert reason_of(data[:-2] + scan * 1000 + data[-2:]) == "format"


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\x01", b"\xff\xfe\x00\x02", b"\xff\x00"])
def test_a_hostile_jpeg_of_twenty_megabytes_is_judged_quickly(filler: bytes) -> None:
    data = encoded(picture(), "JPEG")
    with pytest.raises(ImageError):
        load_image(data[:2] + filler * (19_000_000 // len(filler)))


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_cut_off_at_any_byte_is_refused(format: str) -> None:
    data = encoded(picture(12, 9), format)
    for length in range(len(data)):
        assert reason_of(data[:length]) in ("truncated", "not_an_image")


def test_a_progressive_jpeg_cut_off_at_any_byte_is_refused() -> None:
    data = encoded(picture(24, 24), "JPEG", progressive=True)
    for length in range(0, len(data), 3):
        assert reason_of(data[:length]) in ("truncated", "not_an_image")


@pytest.mark.parametrize("format", FORMATS)
def test_what_follows_the_picture_is_ignored(format: str) -> None:
    data = encoded(picture(), format)
    assert load_image(data + b"PK\x03\x04<script>alert(1)</script>").sha256 == load_image(data).sha256


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PDF", "ICO", "PPM", "TGA"])
def test_other_formats_never_reach_a_decoder(format: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(picture(), format))
    assert reason_of(path) in ("format", "not_an_image")


def test_text_called_png_and_an_empty_file_are_no_images(tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("shopping list")
    assert reason_of(text) == "not_an_image"
    assert reason_of(b"") == "not_an_image"


def test_paths_that_lead_to_no_file_are_refused(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "nowhere.png") == "missing"
    assert reason_of(tmp_path) == "not_a_file"
    assert reason_of("bad\x00name") == "missing"
    assert reason_of("x" * 5000) == "missing"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert reason_of(pipe) == "not_a_file"  # and does not wait for a writer


@given(st.binary(max_size=200))
def test_arbitrary_bytes_end_in_an_image_or_the_declared_error(data: bytes) -> None:
    for start in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x90\x00\x00\x00WEBPVP8 "):
        try:
            load_image(start + data)
        except ImageError:
            continue


boxes = st.tuples(*[st.floats(0, 1) for _ in range(4)]).filter(lambda b: b[0] < b[2] and b[1] < b[3])


@given(boxes, st.integers(1, 200), st.integers(1, 200))
def test_a_crop_holds_its_box_lies_inside_and_is_not_too_small(
    box: tuple[float, float, float, float], width: int, height: int
) -> None:
    piece, shown = crop(Image.new("RGB", (width, height)), box)
    assert piece.width >= min(16, width)
    assert piece.height >= min(16, height)
    assert shown[0] <= box[0] + 1e-6
    assert shown[1] <= box[1] + 1e-6
    assert shown[2] >= box[2] - 1e-6
    assert shown[3] >= box[3] - 1e-6
    assert 0 <= shown[0] < shown[2] <= 1
    assert 0 <= shown[1] < shown[3] <= 1
    assert piece.size == (round((shown[2] - shown[0]) * width), round((shown[3] - shown[1]) * height))


def test_a_crop_shows_exactly_the_pixels_of_its_box() -> None:
    image = picture(100, 100)
    piece, shown = crop(image, (0.2, 0.3, 0.7, 0.9))
    assert np.array_equal(np.asarray(piece), np.asarray(image)[30:90, 20:70])
    assert shown == (0.2, 0.3, 0.7, 0.9)


def test_a_small_crop_grows_about_its_centre_and_moves_inside() -> None:
    image = picture(100, 100)
    assert crop(image, (0.5, 0.5, 0.52, 0.52))[1] == (0.43, 0.43, 0.59, 0.59)
    assert crop(image, (0.0, 0.98, 0.01, 1.0))[1] == (0.0, 0.84, 0.16, 1.0)


def test_a_thin_crop_grows_until_a_processor_takes_it() -> None:
    """A horizon in a photograph: 4032 × 16 pixels are refused by Qwen's processors, and the run would end there."""
    wide, shown = crop(Image.new("RGB", (4032, 3024)), (0, 0.499, 1, 0.501))
    assert wide.size == (4032, 81)
    assert shown[1] < 0.499 < 0.501 < shown[3]
    high, _ = crop(Image.new("RGB", (3024, 4032)), (0.9999, 0, 1, 1))
    assert high.size == (81, 4032)


@pytest.mark.parametrize("box", [(float("nan"), 0, 1, 1), (0, 0, float("inf"), 1), (2, 2, 3, 3), (0.5, 0.5, 0.2, 0.9)])
def test_a_box_that_shows_nothing_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(UsageError):
        crop(picture(), box)


def test_fit_reduces_and_enlarges_only_when_told() -> None:
    image = picture(100, 50)
    assert fit(image, 40).size == (40, 20)
    assert fit(image, 200).size == (100, 50)
    assert fit(image, 200, enlarge=True).size == (200, 100)
    assert fit(Image.new("RGB", (500, 2)), 96).size == (96, 1)


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    return MemoryImageStore() if request.param == "memory" else FolderImageStore(tmp_path / "store")


def test_a_store_gives_back_the_same_pixels_under_the_hash_of_loading(store: ImageStore) -> None:
    image = picture()
    sha256 = store.put(image)
    assert sha256 == load_image(image).sha256 == store.put(image.copy())
    assert sha256 in store
    assert np.array_equal(np.asarray(store.get(sha256)), np.asarray(image))


@pytest.mark.parametrize("name", ["0" * 64, "../../etc/passwd", ""])
def test_a_store_refuses_what_it_does_not_hold(store: ImageStore, name: str) -> None:
    assert name not in store
    with pytest.raises(ImageError) as caught:
        store.get(name)
    assert caught.value.reason == "missing"


def test_a_full_memory_store_drops_the_longest_unused() -> None:
    store = MemoryImageStore(max_bytes=3 * 40 * 30 * 4)
    names = [store.put(picture(seed=seed)) for seed in range(3)]
    store.get(names[0])
    store.put(picture(seed=9))
    assert names[0] in store
    assert names[1] not in store
    huge = MemoryImageStore(max_bytes=1)
    assert huge.put(picture()) in huge


def test_an_image_that_was_dropped_is_found_while_somebody_holds_it() -> None:
    store = MemoryImageStore(max_bytes=1)
    first, again = picture(), picture()
    name = store.put(first)
    assert store.put(again) == name
    store.put(picture(seed=1))
    del first
    assert store.get(name) is again
    del again
    with pytest.raises(ImageError, match="stored"):
        store.get(name)


def test_two_processes_may_share_a_folder(tmp_path: Path) -> None:
    one, two = FolderImageStore(tmp_path), FolderImageStore(tmp_path)
    assert np.array_equal(np.asarray(two.get(one.put(picture()))), np.asarray(picture()))
    assert [path.suffix for path in tmp_path.iterdir()] == [".png"]


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_file_that_a_power_failure_left_half_is_written_again(kept: float, tmp_path: Path) -> None:
    store = FolderImageStore(tmp_path)
    path = tmp_path / f"{store.put(picture())}.png"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert np.array_equal(np.asarray(store.get(store.put(picture()))), np.asarray(picture()))
