"""From an image as it is stored to an image as a viewer shows it: upright, RGB, eight bits, on white."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

from sifthinker.policy.errors import ImageError
from sifthinker.policy.image_files import DECODER_ERRORS

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def set_upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """Apply the EXIF orientation once. Broken EXIF data leaves the image as it is, and says so."""
    try:
        exif = image.getexif()
        orientation = exif.get(_ORIENTATION_TAG, 1)
        broken = not exif and _claims_entries(image.info.get("exif"))
    except DECODER_ERRORS:
        broken = True
    if broken:
        notes.append("The image's EXIF data is broken; it is taken as upright.")
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _claims_entries(exif: object) -> bool:
    """Whether EXIF data says that it holds anything: the decoder passes over broken data without an error."""
    if not isinstance(exif, bytes):
        return False
    data = exif.removeprefix(b"Exif\0\0")
    if len(data) < 10:
        return bool(data)
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    start = int.from_bytes(data[4:8], order)
    return data[start : start + 2] != b"\0\0"


def to_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """A new RGB image of what a viewer would see, and what was changed for it."""
    notes: list[str] = []
    try:
        if image.mode.startswith("I"):
            levels = np.asarray(image).astype(np.int64).clip(0, 65535)
            sixteen_bit = image.mode != "I" or levels.max() > 255
            return Image.fromarray((levels >> 8 if sixteen_bit else levels).astype(np.uint8)).convert("RGB"), notes
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            return _on_white(image.convert("RGBA"), notes), notes
        if image.mode == "F":
            raise ImageError("format", "Expected 8 or 16 bits a channel, got floating point: convert the image to RGB.")
        if image.mode == "CMYK":
            notes.append("The image is in print colours (CMYK); they are converted without its colour profile.")
        rgb = image.convert("RGB")
    except DECODER_ERRORS as error:
        raise ImageError(
            "format", f"The image's colours (mode {image.mode}) cannot be read as RGB ({error})."
        ) from error
    return rgb, notes


def _on_white(rgba: Image.Image, notes: list[str]) -> Image.Image:
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert("RGB")
    notes.append("The image has transparent parts; they are shown on white.")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba.convert("RGB"), mask=alpha)
    return white
