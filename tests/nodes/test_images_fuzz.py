"""Damaged and hostile image files end in an image or in the declared error, in bounded memory.

The quick run tries some thousands of inputs, the slow one 200,000:

    pytest -m slow tests/nodes/test_images_fuzz.py
"""

from __future__ import annotations

import io
import resource
import struct
import warnings
import zlib
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image

from sifthinker.nodes.images import ImageLimits, load_image
from sifthinker.policy.errors import ImageError

LIMITS = ImageLimits(max_pixels=1_000_000, max_edge=2000)
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xD8, 0xD9, 0xDA, 0xC0, 0xC2, 0xE1)


@lru_cache(maxsize=1)
def corpus() -> tuple[bytes, ...]:
    """Small files of every format, mode and metadata that the decoders treat differently."""
    rng = np.random.default_rng(0)
    base = Image.fromarray(rng.integers(0, 256, (18, 21, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    frames = {"save_all": True, "append_images": [base.transpose(Image.Transpose.ROTATE_180)] * 2}
    files = []
    for format, mode, options in [
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {"exif": exif}),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "LA", {"icc_profile": bytes(200)}),
        ("PNG", "1", {}),
        ("PNG", "I;16", {}),
        ("PNG", "RGB", frames),
        ("JPEG", "RGB", {"exif": exif}),
        ("JPEG", "RGB", {"progressive": True, "icc_profile": bytes(100)}),
        ("JPEG", "L", {"restart_marker_blocks": 1}),
        ("JPEG", "CMYK", {"comment": b"a comment"}),
        ("WebP", "RGB", {}),
        ("WebP", "RGBA", {"lossless": True, "exif": exif}),
        ("WebP", "RGB", frames),
    ]:
        buffer = io.BytesIO()
        image = base.convert("I").convert(mode) if mode == "I;16" else base.convert(mode)
        image.save(buffer, format, **options)
        files.append(buffer.getvalue())
    return tuple(files)


def mutated(rng: np.random.Generator) -> bytes:
    """One file of the corpus after one to four changes, with the checksums made right again half of the time."""
    files = corpus()
    data = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(len(data) + 1))
        kind = rng.integers(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1 and at < len(data):
            data[at] = INTERESTING[rng.integers(len(INTERESTING))]
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 20))]
        elif kind == 4:
            data[at:at] = rng.bytes(int(rng.integers(1, 20)))
        elif kind == 5:  # a piece of another file, as in a polyglot
            other = files[rng.integers(len(files))]
            start = int(rng.integers(len(other)))
            data[at:at] = other[start : start + int(rng.integers(1, 200))]
        elif kind == 6 and at + 4 <= len(data):
            number = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 65535, len(data)]))
            data[at : at + 4] = struct.pack(str(rng.choice(["<I", ">I"])), number)
        if not data:
            break
    if data[:4] == b"\x89PNG" and rng.random() < 0.5:
        mend_png(data)
    if data[:4] == b"RIFF" and len(data) >= 12 and rng.random() < 0.5:
        struct.pack_into("<I", data, 4, len(data) - 8)
    return bytes(data)


def mend_png(data: bytearray) -> None:
    """Right the checksum of every chunk, so that damage gets past it to the decoder."""
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[position + 4 : end]))
        position = end + 4


def run(count: int, seed: int) -> Counter[str]:
    """Load `count` mutated files; what came of them."""
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        try:
            loaded = load_image(mutated(rng), limits=LIMITS)
        except ImageError as error:
            outcomes[error.reason] += 1
        else:
            assert loaded.image.mode == "RGB"
            assert loaded.image.width * loaded.image.height <= LIMITS.max_pixels
            outcomes["loaded"] += 1
    return outcomes


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_thousands_of_damaged_files_end_in_an_image_or_the_declared_error() -> None:
    outcomes = run(3000, seed=1)
    assert outcomes["loaded"] > 100
    assert outcomes["truncated"] > 100


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_two_hundred_thousand_damaged_files_do_no_harm_in_bounded_memory(capsys: pytest.CaptureFixture[str]) -> None:
    warnings.simplefilter("ignore")
    outcomes = run(20_000, seed=2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes += run(180_000, seed=3)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    with capsys.disabled():
        print(f"\ninputs {outcomes.total()}, peak memory grown by {grown / 1024:.0f} MiB, {dict(outcomes)}")
    assert grown < 100 * 1024
