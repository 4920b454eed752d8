"""Pictures of a data set that are no pictures, or would be enormous: one sentence, never another exception."""

from __future__ import annotations

import json
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from sifthinker.policy.errors import DataError, UsageError
from sifthinker.training.compare.data import open_data
from sifthinker.training.compare.readers import upright_size
from sifthinker.training.data.samples import inside

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return SIGNATURE + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(bytes(4))) + chunk(b"IEND", b"")


def exif(content: bytes) -> bytes:
    return chunk(b"eXIf", content)


HOSTILE = {
    "a picture of 3.6 gigapixels": png(60_000, 60_000),
    "a size beyond any": png(0x7FFFFFFF, 0x7FFFFFFF),
    "no size": png(0, 0),
    "no header": SIGNATURE + chunk(b"IDAT", b""),
    "a header that is cut off": SIGNATURE + b"\0\0\0\rIHDR\0\0",
    "a text that swells": png(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
    "a JPEG of nothing": b"\xff\xd8\xff\xda\0\x02",
    "a WebP of nothing": b"RIFF\x04\0\0\0WEBP",
    "another format": b"GIF89a" + bytes(20),
    "nothing": b"",
}
ODD_EXIF = {
    "no order": exif(b"XX*\0\x08\0\0\0"),
    "a count without end": exif(b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x112, 3, 0xFFFFFFFF, 8)),
    "a directory that is its own": exif(
        b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x8769, 4, 1, 8) + b"\x08\0\0\0"
    ),
    "an orientation that is a text": exif(b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", 0x112, 2, 4, b"six\0")),
    "cut off": exif(b"II*\0\x08"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_size_is_read_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(DataError, match="cannot be read as a picture"):
        upright_size(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ODD_EXIF)
def test_odd_metadata_ends_in_a_size_or_in_a_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(4, 2, ODD_EXIF[name]))
    with suppress(DataError):
        assert upright_size(path) in ((4, 2), (2, 4))


@pytest.mark.filterwarnings("ignore")
def test_a_row_that_names_an_enormous_picture_is_told_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(HOSTILE["a picture of 3.6 gigapixels"])
    row = {"id": "1", "image": "a.png", "question": "?", "answer": "a", "boxes": [[0, 0, 9, 9]], "space": "pixel"}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"a\.png"):
        open_data(str(tmp_path / "q.jsonl")).questions()


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.png").symlink_to(tmp_path / "secret.png")
    row = {"id": "1", "image": "a.png", "question": "?", "answer": "a", "boxes": [], "space": "unit"}
    (folder / "q.jsonl").write_text(json.dumps(row) + "\n")
    data = open_data(str(folder / "q.jsonl"))
    with pytest.raises(DataError, match="leads out of the data set's folder"):
        data.image(data.questions()[0])


def test_names_that_no_file_can_have_are_told(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for name in ("a\ud800.png", "x" * 5000, "a/" * 5000, "circle", "circle/a.png", "\x00", "..", "/etc/passwd", "C:a"):
        with suppress(DataError):
            assert not inside(tmp_path, name).is_file()
    for name in ("a\ud800.png", "x" * 5000, "circle/a.png"):
        with pytest.raises(DataError, match="the name of no file"):
            inside(tmp_path, name)


@pytest.mark.parametrize("depth", [["d.png"], {"a": 1}, True])
def test_a_depth_that_is_no_file_s_name_is_told(depth: object, tmp_path: Path) -> None:
    row = {"image": "a.png", "question": "?", "answer": "a", "depth": depth}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UsageError, match="line 1"):
        open_data(str(tmp_path / "q.jsonl"))
