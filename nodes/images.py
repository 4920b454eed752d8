"""Images as the program holds them: checked, upright, RGB, known by the hash of their pixels.

Everything that comes from outside passes `load_image`; everything that a state or checkpoint mentions is a hash into an
`ImageStore` (see `image_store.py`).
"""

from __future__ import annotations

import math
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sifthinker.nodes.image_store import FolderImageStore, ImageStore, MemoryImageStore, image_hash
from sifthinker.nodes.urls import Resolver, fetch
from sifthinker.policy.boxes import Box
from sifthinker.policy.errors import ImageError, UsageError
from sifthinker.policy.image_files import DECODER_ERRORS, ImageLimits, check_bytes, check_size, open_checked
from sifthinker.policy.image_modes import set_upright, to_rgb

__all__ = [
    "FolderImageStore",
    "ImageLimits",
    "ImageSource",
    "ImageStore",
    "LoadedImage",
    "MemoryImageStore",
    "crop",
    "fit",
    "image_hash",
    "load_image",
    "load_stored",
]

ImageSource = str | Path | bytes | Image.Image

_DEFAULT_LIMITS = ImageLimits()
_MOST_ASPECT = 50
"""Of a crop: the longer side over the shorter one. Qwen's processors refuse 200."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(?://|.*;base64,)")


@dataclass(frozen=True)
class LoadedImage:
    """An image that passed every check."""

    image: Image.Image
    """Upright, mode RGB."""
    sha256: str
    """Of the size and the upright RGB pixels: equal pictures have equal hashes, whatever file they came from."""
    warnings: tuple[str, ...] = ()
    """What was changed or left out, each a sentence for the user."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.size


def load_image(
    source: ImageSource,
    *,
    limits: ImageLimits = _DEFAULT_LIMITS,
    allow_urls: bool = False,
    resolver: Resolver | None = None,
) -> LoadedImage:
    """Check, decode and set upright an image from a path, from bytes, from an address, or already opened by Pillow.

    Transparency is laid on white, 16 bits become 8, CMYK becomes RGB, of an animation the first frame is taken; each is
    said in `warnings`.

    Args:
        source: a path, the bytes of a file, a Pillow image, or (if allowed) an http(s) address.
        limits: checked before decoding.
        allow_urls: whether an address may be fetched; see `urls.fetch` for what is refused even then.
        resolver: for addresses: host and port to a list of IP addresses; the system's by default.

    Raises:
        ImageError: with the reason code of what was refused.
    """
    image, notes = load_stored(source, limits=limits, allow_urls=allow_urls, resolver=resolver)
    rgb, more = to_rgb(image)
    rgb.info = {}  # the orientation is applied: nobody must find it there and apply it again
    return LoadedImage(rgb, image_hash(rgb), (*notes, *more))


def load_stored(
    source: ImageSource,
    *,
    limits: ImageLimits = _DEFAULT_LIMITS,
    allow_urls: bool = False,
    resolver: Resolver | None = None,
) -> tuple[Image.Image, list[str]]:
    """As `load_image`, but in the mode in which it is stored (16-bit depth keeps its 16 bits), with the warnings."""
    notes: list[str] = []
    if isinstance(source, Image.Image):
        check_size(source.size, limits)
        try:
            source.load()
            frames = getattr(source, "n_frames", 1)
        except DECODER_ERRORS as error:
            raise ImageError("truncated", f"The opened image cannot be decoded ({error}): open it anew.") from error
        image = source
    else:
        image, facts = open_checked(_read(source, limits, allow_urls, resolver), limits)
        if facts.bits > 8:
            notes.append(f"The image has {facts.bits} bits a channel; 8 are used.")
        frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"The image is animated; the first of its {frames} frames is used.")
    return set_upright(image, notes), notes


def crop(image: Image.Image, box: Box, *, min_px: int = 16) -> tuple[Image.Image, Box]:
    """The pixels of a box, and the box that they really show.

    Args:
        image: the full-resolution image.
        box: normalised xyxy; parts outside the image are left out.
        min_px: a shorter side is grown to this about its centre, moved inside the image (or to the whole image's side),
            and to a fiftieth of the longer side, since processors refuse what is much thinner.

    Returns:
        the crop and its normalised xyxy, which contains the box's part inside the image.

    Raises:
        UsageError: a number that is not finite, or nothing of the box lies inside the image.
    """
    if not all(math.isfinite(value) for value in box):
        raise UsageError(f"Expected a box of four finite numbers, got {box}.")
    width, height = image.size
    left, right = _pixel_span(box[0], box[2], width, min_px)
    top, bottom = _pixel_span(box[1], box[3], height, min_px)
    if (least := math.ceil((right - left) / _MOST_ASPECT)) > bottom - top:
        top, bottom = _pixel_span(box[1], box[3], height, max(least, min_px))
    elif (least := math.ceil((bottom - top) / _MOST_ASPECT)) > right - left:
        left, right = _pixel_span(box[0], box[2], width, max(least, min_px))
    return image.crop((left, top, right, bottom)), (left / width, top / height, right / width, bottom / height)


def fit(image: Image.Image, longest_px: int, *, enlarge: bool = False) -> Image.Image:
    """The image with its longer edge at most `longest_px` (exactly so with `enlarge`), its aspect kept."""
    if longest_px < 1:
        raise UsageError(f"Expected a longest edge of at least 1 pixel, got {longest_px}.")
    longest = max(image.size)
    if longest == longest_px or (longest < longest_px and not enlarge):
        return image
    width, height = (max(1, round(side * longest_px / longest)) for side in image.size)
    method = Image.Resampling.LANCZOS if longest > longest_px else Image.Resampling.BICUBIC
    return image.resize((width, height), method)


def _pixel_span(low: float, high: float, side: int, min_px: int) -> tuple[int, int]:
    """Whole pixels that cover [low, high] of a side, grown to `min_px` about the centre and kept inside."""
    low, high = max(low, 0.0) * side, min(high, 1.0) * side
    if high < low or low >= side or high <= 0:
        raise UsageError("Expected a box that overlaps the image, x1 < x2 and y1 < y2: give one inside [0, 1].")
    # Rounding first: 0.7 × 10 is 7.000000000000001, which is no reason to show an eighth pixel.
    start, end = math.floor(round(low, 6)), math.ceil(round(high, 6))
    length = min(max(end - start, min_px, 1), side)
    if length > end - start:
        start = min(max(round((low + high) / 2 - length / 2), 0), side - length)
        end = start + length
    return start, end


def _read(source: str | Path | bytes, limits: ImageLimits, allow_urls: bool, resolver: Resolver | None) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, str) and _SCHEME.match(source):
        if not source.lower().startswith(("http://", "https://")):
            raise ImageError("url", "Only http and https addresses are known: save the image to a file and name that.")
        if not allow_urls:
            raise ImageError("url", "Addresses are not fetched unless allowed: save the image to a file and name that.")
        return fetch(source, max_bytes=limits.max_bytes, timeout=limits.max_url_seconds, resolver=resolver)
    return _read_file(Path(source), limits)


def _read_file(path: Path, limits: ImageLimits) -> bytes:
    """At most `max_bytes` of a regular file: a pipe, a device or a folder is never opened."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError("missing", f"No image can be read at {str(path)!r} ({reason}): check the path.") from error
    if not stat.S_ISREG(mode):
        raise ImageError("not_a_file", f"Expected an image file, but {str(path)!r} is not a regular file.")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            check_bytes(size, limits)
            # Room for what it says it holds, not for all that is allowed; some file systems say nothing (0).
            return file.read((size or limits.max_bytes) + 1)
    except OSError as error:
        raise ImageError("not_a_file", f"The file {str(path)!r} cannot be read ({error.strerror}).") from error
