"""Depth maps, and where they come from.

One polarity everywhere: 0 is near, 1 is far. One colour map for every picture of depth that a policy or a person sees.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, cast, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sifthinker.nodes.images import ImageSource, image_hash, load_stored
from sifthinker.policy.boxes import Box
from sifthinker.policy.errors import DepthError, UsageError

Near = Literal["dark", "bright"]

HUB_SIZES = {
    "small": "depth-anything/Depth-Anything-V2-Small-hf",
    "base": "depth-anything/Depth-Anything-V2-Base-hf",
    "large": "depth-anything/Depth-Anything-V2-Large-hf",
}
"""Short names of the published models. Small is Apache-2.0, the others are CC-BY-NC-4.0."""

SPEC_FORMS = (
    '"embedded" (the block world only), "none", "small", "base" or "large" (Depth Anything V2 from the hub), a hub id, '
    'a folder, a .safetensors or .pth file, or "image:PATH:near=dark" (or bright) for a depth image of your own'
)

# ColorBrewer's eleven-class diverging scheme "Spectral", red end first.
_SPECTRAL = (
    (158, 1, 66),
    (213, 62, 79),
    (244, 109, 67),
    (253, 174, 97),
    (254, 224, 139),
    (255, 255, 191),
    (230, 245, 152),
    (171, 221, 164),
    (102, 194, 165),
    (50, 136, 189),
    (94, 79, 162),
)


def _colour_table() -> NDArray[np.uint8]:
    anchors = np.asarray(_SPECTRAL, dtype=np.float64)
    at = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(at, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


_COLOURS = _colour_table()  # (256, 3)
_PALETTE = _COLOURS.tobytes()


def _levels(depth: NDArray[np.floating]) -> NDArray[np.uint8]:
    return (np.clip(depth, 0.0, 1.0) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def depth_to_rgb(depth: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Depth `(H, W)` in [0, 1], 0 near, as colours `(H, W, 3)`: near red, over yellow and green, to far violet."""
    return np.take(_COLOURS, _levels(depth), axis=0)


class DepthMap:
    """Relative depth of every pixel of an image.

    Attributes:
        array: `(H, W)` float32 in [0, 1], 0 near, 1 far; not to be changed.
        source: what it was made by, for results and reports.
    """

    def __init__(self, array: NDArray[np.floating], source: str = "array") -> None:
        array = np.asarray(array)
        if array.ndim != 2 or 0 in array.shape:
            raise DepthError(f"Expected depth of shape (H, W), got {array.shape}.")
        low, high = float(array.min()), float(array.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # also false for NaN
            raise DepthError(f"Expected finite depth in [0, 1] (0 near, 1 far), got values from {low:g} to {high:g}.")
        self.array: NDArray[np.float32] = np.clip(array, 0.0, 1.0).astype(np.float32, copy=False)
        self.source = source

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.array.shape[1], self.array.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory that it takes, its table of sums included."""
        return 3 * self.array.nbytes

    def mean(self, box: Box) -> float:
        """Mean depth within a box (normalised xyxy), in constant time.

        Pixels that the box covers in part count by the covered part, so the result does not jump with the map's
        resolution. Of a box that reaches beyond the image the part inside counts.

        Raises:
            UsageError: a number that is not finite, or nothing of the box lies inside the image.
        """
        if not all(math.isfinite(value) for value in box):
            raise UsageError(f"Expected a box of four finite numbers, got {box}.")
        width, height = self.size
        x1, x2 = _inside(box[0], box[2], width)
        y1, y2 = _inside(box[1], box[3], height)
        total = self._until(x2, y2) - self._until(x1, y2) - self._until(x2, y1) + self._until(x1, y1)
        return min(max(total / ((x2 - x1) * (y2 - y1)), 0.0), 1.0)

    def picture(self) -> Image.Image:
        """The depth in colours, as policies and people see it (see `depth_to_rgb`)."""
        image = Image.fromarray(_levels(self.array))
        image.putpalette(_PALETTE)
        return image.convert("RGB")

    def to_png16(self, path: str | Path) -> None:
        """Write a 16-bit grey PNG, 0 near, 65535 far."""
        levels = (self.array.astype(np.float64) * 65535 + 0.5).astype(np.uint16)
        Image.fromarray(levels).save(path, "PNG")

    @classmethod
    def from_png16(cls, path: str | Path) -> DepthMap:
        """Read what `to_png16` or the block world wrote.

        Raises:
            DepthError: not a 16-bit grey image. ImageError: not a readable image at all.
        """
        image, _ = load_stored(path if isinstance(path, Path) else Path(path))
        if not image.mode.startswith("I"):
            raise DepthError(
                f"Expected a 16-bit grey PNG at {str(path)!r}, got mode {image.mode}: for other depth images name "
                'their polarity, "image:PATH:near=dark" or "image:PATH:near=bright".'
            )
        return cls(np.asarray(image).astype(np.float32) / 65535, source=str(path))

    @classmethod
    def from_image(cls, source: ImageSource, *, near: Near) -> DepthMap:
        """Read a grey depth image (8 or 16 bits), whose polarity the caller knows.

        Args:
            source: as for `load_image`.
            near: whether near things are "dark" or "bright" in it.

        Raises:
            DepthError: the image is coloured, where no order of the colours is known. ImageError: as `load_image`.
        """
        if near not in get_args(Near):
            raise UsageError(f'Expected near="dark" or near="bright", got {near!r}.')
        image, _ = load_stored(source)
        grey = _grey(image)
        name = "image" if isinstance(source, (bytes, Image.Image)) else str(source)
        return cls(grey if near == "dark" else 1 - grey, source=name)

    @cached_property
    def _integral(self) -> NDArray[np.float64]:
        """`(H + 1, W + 1)`: the sum of all pixels above and left of each pixel corner."""
        table = np.zeros((self.array.shape[0] + 1, self.array.shape[1] + 1))
        np.cumsum(self.array, axis=0, dtype=np.float64, out=table[1:, 1:])
        np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
        return table

    def _until(self, x_px: float, y_px: float) -> float:
        """The integral up to a point in pixels: exact between corners, as a pixel's depth is constant inside it."""
        column, row = min(int(x_px), self.size[0] - 1), min(int(y_px), self.size[1] - 1)
        right, down = x_px - column, y_px - row
        table = self._integral
        upper = table[row, column] * (1 - right) + table[row, column + 1] * right
        lower = table[row + 1, column] * (1 - right) + table[row + 1, column + 1] * right
        return float(upper * (1 - down) + lower * down)


@runtime_checkable
class DepthEstimator(Protocol):
    """Anything that tells the depth of an image."""

    @property
    def name(self) -> str:
        """What results call it."""
        ...

    def predict(self, image: Image.Image) -> DepthMap:
        """The depth of an upright RGB image, in the image's own size or one of the same aspect."""
        ...


class FixedDepth:
    """Depth known beforehand: a depth image of the user's, or the renderer's exact depth.

    Args:
        depth: the map.
        of_first: it is of the first image that it is asked for, and of no other, be it of the same shape.
    """

    def __init__(self, depth: DepthMap, *, of_first: bool = False) -> None:
        self.depth = depth
        self._of_first = of_first
        self._image: str | None = None

    @property
    def name(self) -> str:
        """The map's source."""
        return self.depth.source

    def predict(self, image: Image.Image) -> DepthMap:
        """The known map, if it can belong to this image.

        Raises:
            DepthError: its aspect is another than the image's, or it is another image's.
        """
        width, height = self.depth.size
        if abs(width * image.height - height * image.width) > 0.02 * width * image.height + max(width, image.height):
            raise DepthError(
                f"The depth map is {width} × {height}, but the image is {image.width} × {image.height}: give the "
                "depth of this very image."
            )
        if self._of_first:
            asked = image_hash(image)
            self._image = self._image or asked
            if asked != self._image:
                raise DepthError(
                    f"The depth map {self.name} is of the image before this one: give each image its own, or go "
                    'without depth ("none").'
                )
        return self.depth


class CachedDepth:
    """Remembers the last maps of an estimator by the hash of the image, within `max_bytes`. Thread-safe."""

    def __init__(self, estimator: DepthEstimator, max_bytes: int = 256_000_000) -> None:
        self.estimator = estimator
        self.max_bytes = max_bytes
        self._maps: OrderedDict[str, DepthMap] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The estimator's."""
        return self.estimator.name

    def predict(self, image: Image.Image) -> DepthMap:
        """The remembered map, or a new one."""
        key = image_hash(image)
        with self._lock:
            if key in self._maps:
                self._maps.move_to_end(key)
                return self._maps[key]
        depth = self.estimator.predict(image)
        with self._lock:
            self._maps[key] = depth
            while len(self._maps) > 1 and sum(known.nbytes for known in self._maps.values()) > self.max_bytes:
                self._maps.popitem(last=False)
        return depth


def load_depth(spec: str | DepthMap | DepthEstimator | None) -> DepthEstimator | None:
    """What tells the depth, from its name.

    Args:
        spec: see `SPEC_FORMS`; a map or an estimator is taken as it is; None is "none".

    Returns:
        an estimator, or None for "none": boxes then go without depth.

    Raises:
        UsageError: the name is none of the forms. DepthError: the model or map cannot be had.
    """
    if spec is None or spec == "none":
        return None
    if isinstance(spec, DepthMap):
        return FixedDepth(spec)
    if not isinstance(spec, str):
        if isinstance(spec, DepthEstimator):
            return spec
        raise UsageError(f"Expected a depth source, got {type(spec).__name__}: give {SPEC_FORMS}.")
    if spec.startswith("image:"):
        path, _, near = spec.removeprefix("image:").rpartition(":near=")
        if not path or near not in get_args(Near):
            raise UsageError(f'Expected "image:PATH:near=dark" or "image:PATH:near=bright", got {spec!r}.')
        return FixedDepth(DepthMap.from_image(Path(path), near=cast(Near, near)), of_first=True)
    if not spec.strip() or "://" in spec:
        raise UsageError(f"Expected a depth source, got {spec!r}: give {SPEC_FORMS}.")

    from sifthinker.nodes.depth_anything import DepthAnythingV2  # brings torch and timm

    source = HUB_SIZES.get(spec, spec)
    return CachedDepth(DepthAnythingV2.from_pretrained(source, device="cpu" if source == "embedded" else "auto"))


def _inside(low: float, high: float, side: int) -> tuple[float, float]:
    """[low, high] of a side in pixels, inside the image; a span of no length becomes the pixel that it lies in."""
    low, high = max(low, 0.0) * side, min(high, 1.0) * side
    if high < low or low > side or high < 0:
        raise UsageError("Expected a box that overlaps the image, x1 < x2 and y1 < y2: give one inside [0, 1].")
    if high - low < 1e-6:
        low = float(min(int(low), side - 1))
        high = low + 1
    return low, high


def _grey(image: Image.Image) -> NDArray[np.float32]:
    """A grey image of 8 or 16 bits as `(H, W)` in [0, 1]."""
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.float32)
        return levels / np.float32(65535 if image.mode != "I" or levels.max() > 255 else 255)
    if image.mode not in ("1", "L"):
        channels = np.asarray(image.convert("RGB")).astype(np.int16)
        if np.ptp(channels, axis=2).max() > 8:  # JPEG may tint grey by a little
            raise DepthError(
                "Expected a grey depth image, got a coloured one, whose colours have no known order: give it in grey."
            )
    return np.asarray(image.convert("L")).astype(np.float32) / np.float32(255)
