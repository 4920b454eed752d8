"""The bytes of an image file, judged before any decoder sees them, then opened by the one decoder that fits.

Only PNG, JPEG and WebP are known. Their structure is walked here (chunks, segments), which costs next to nothing and
tells size, frames and completeness; so a bomb, a cut-off file or a foreign format is refused without being decoded.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from pydantic import BaseModel, ConfigDict, Field

from sifthinker.policy.errors import ImageError

Format = Literal["PNG", "JPEG", "WebP"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FOREIGN = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"8BPS", "PSD"),
    (b"<svg", "SVG"),
)
# A progressive JPEG has about ten scans. Each scan of a few bytes makes the decoder visit every block again, so that
# thousands of them in a small file would hold it for minutes. Likewise millions of empty segments or chunks.
_MAX_JPEG_SCANS = 200
_MAX_SEGMENTS = 100_000
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# What Pillow's three decoders raise on damaged data (found by fuzzing): all of it means "this file is broken".
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    OverflowError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    UserWarning,  # where the caller has made warnings errors
)


class ImageLimits(BaseModel):
    """What an image may be. Every limit is checked before decoding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(default=20_000_000, ge=1, description="Size of the file.")
    max_pixels: int = Field(default=40_000_000, ge=1, description="Width times height.")
    max_edge: int = Field(default=8000, ge=1, description="Longer edge, in pixels.")
    max_aspect: float = Field(default=50.0, ge=1, description="Longer edge over shorter edge.")
    max_url_seconds: float = Field(default=20.0, gt=0, description="Time for fetching an address, in all.")


@dataclass(frozen=True)
class FileFacts:
    """What the structure of a file says about it."""

    format: Format
    size: tuple[int, int]
    """(width, height) as stored, before EXIF orientation."""
    bits: int = 8
    """Bits of one channel of one pixel."""


def sniff(data: bytes) -> Format:
    """The format by its first bytes, never by a file's name.

    Raises:
        ImageError: "not_an_image", or "format" for an image of a format that is not taken.
    """
    if data.startswith(_PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if not data:
        raise ImageError("not_an_image", "Expected a PNG, JPEG or WebP image, but the file is empty.")
    for start, name in _FOREIGN:
        if data.startswith(start):
            raise ImageError("format", f"Expected PNG, JPEG or WebP, but this is {name}: convert it first.")
    if data[4:8] == b"ftyp":
        raise ImageError("format", "Expected PNG, JPEG or WebP, but this is HEIF or AVIF: convert it first.")
    if any(signature.startswith(data[:12]) for signature in (_PNG_SIGNATURE, b"\xff\xd8\xff")):
        raise ImageError("truncated", "The file ends within its first bytes: fetch or copy it again.")
    raise ImageError("not_an_image", "Expected a PNG, JPEG or WebP image, but the content is none of these.")


def check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    """Refuse a size (width, height) outside the limits.

    Raises:
        ImageError: "not_an_image" (an empty edge), "edge", "pixels" or "aspect".
    """
    width, height = size
    if width < 1 or height < 1:
        raise ImageError("not_an_image", f"Expected at least 1 × 1 pixels, but the image is {width} × {height}.")
    if max(size) > limits.max_edge:
        raise ImageError(
            "edge", f"The image is {width} × {height}; no edge may exceed {limits.max_edge} pixels: reduce it first."
        )
    if width * height > limits.max_pixels:
        raise ImageError(
            "pixels",
            f"The image has {width} × {height} = {width * height / 1e6:.1f} million pixels; at most "
            f"{limits.max_pixels / 1e6:g} million are taken: reduce it first.",
        )
    if max(size) > limits.max_aspect * min(size):
        raise ImageError(
            "aspect",
            f"The image is {width} × {height}; its longer edge may be at most {limits.max_aspect:g} times the shorter: "
            "cut it first.",
        )


def check_bytes(count: int, limits: ImageLimits) -> None:
    """Refuse a file of too many bytes (ImageError "too_large")."""
    if count > limits.max_bytes:
        raise ImageError(
            "too_large",
            f"The file has {count / 1e6:.1f} MB; at most {limits.max_bytes / 1e6:g} MB are taken: reduce it first.",
        )


def examine(data: bytes, limits: ImageLimits) -> FileFacts:
    """Walk the file's structure and check every limit, without decoding.

    Raises:
        ImageError: any reason but "missing", "not_a_file" and "url".
    """
    check_bytes(len(data), limits)
    kind = sniff(data)
    return {"PNG": _examine_png, "JPEG": _examine_jpeg, "WebP": _examine_webp}[kind](data, limits)


def open_checked(data: bytes, limits: ImageLimits) -> tuple[Image.Image, FileFacts]:
    """The decoded first frame, in the mode in which it is stored and not yet upright, and what the file says of itself.

    Raises:
        ImageError: a limit is exceeded, or the data is damaged.
    """
    facts = examine(data, limits)
    decoders: dict[Format, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
        "PNG": PngImagePlugin.PngImageFile,
        "JPEG": JpegImagePlugin.JpegImageFile,  # directly, as Image.open would let a JPEG pose as the MPO format
        "WebP": WebPImagePlugin.WebPImageFile,
    }
    try:
        image = decoders[facts.format](io.BytesIO(data))
        if image.size != facts.size:
            raise ImageError("not_an_image", f"The {facts.format} file names two different sizes: save it anew.")
        image.load()
    except DECODER_ERRORS as error:
        raise ImageError(
            "truncated", f"The {facts.format} data is damaged or cut off ({error}): fetch or copy the file again."
        ) from error
    return image, facts


def _cut_off(kind: Format) -> ImageError:
    return ImageError("truncated", f"The {kind} file is cut off: fetch or copy it again.")


def _too_many_parts(kind: Format) -> ImageError:
    return ImageError("format", f"The {kind} file is cut into far too many parts: save it anew.")


def _examine_png(data: bytes, limits: ImageLimits) -> FileFacts:
    facts: FileFacts | None = None
    for index, (name, start, length) in enumerate(_png_chunks(data)):
        if index >= _MAX_SEGMENTS:
            raise _too_many_parts("PNG")
        if facts is None:
            if name != b"IHDR" or length != 13:
                raise ImageError("not_an_image", "The PNG file does not begin with its header: save it anew.")
            width, height, bits = struct.unpack_from(">IIB", data, start)
            facts = FileFacts("PNG", (width, height), bits)
            check_size(facts.size, limits)
        if name == b"IEND":
            return facts
    raise _cut_off("PNG")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, offset of the content, its length) of each chunk that is wholly there."""
    position = len(_PNG_SIGNATURE)
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if position + 12 + length > len(data):
            return
        yield name, position + 8, length
        position += 12 + length


def _examine_jpeg(data: bytes, limits: ImageLimits) -> FileFacts:
    facts: FileFacts | None = None
    scans = 0
    position = 2
    segments = 0
    while match := _JPEG_MARKER.search(data, position):
        marker, position = data[match.end() - 1], match.end()
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise _too_many_parts("JPEG")
        if marker == 0xD9:
            if facts is None or scans == 0:
                raise ImageError("not_an_image", "The JPEG file holds no picture: save it anew.")
            return facts
        if marker in (0x01, 0xD8):
            continue
        if position + 2 > len(data):
            break
        (length,) = struct.unpack_from(">H", data, position)
        if marker in _JPEG_SIZE_MARKERS and facts is None:
            if position + 7 > len(data):
                break
            bits, height, width = struct.unpack_from(">BHH", data, position + 2)
            if bits != 8:
                raise ImageError("format", f"Expected 8 bits a channel, but this JPEG has {bits}: convert it first.")
            facts = FileFacts("JPEG", (width, height))
            check_size(facts.size, limits)
        if marker == 0xDA:
            scans += 1
            if scans > _MAX_JPEG_SCANS:
                raise _too_many_parts("JPEG")
        position += max(length, 2)
    raise _cut_off("JPEG")


def _examine_webp(data: bytes, limits: ImageLimits) -> FileFacts:
    if len(data) < 30 or 8 + struct.unpack_from("<I", data, 4)[0] > len(data):
        raise _cut_off("WebP")
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ImageError("not_an_image", "The WebP file does not begin with a picture: save it anew.")
    check_size((width, height), limits)
    return FileFacts("WebP", (width, height))
