"""Whether an image is of the block world: a policy trained on nothing else must say so when it is not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

OBJECT_COLORS = (
    (0.62, 0.035, 0.035),
    (0.86, 0.27, 0.02),
    (0.85, 0.66, 0.04),
    (0.05, 0.36, 0.07),
    (0.06, 0.55, 0.60),
    (0.04, 0.10, 0.58),
    (0.30, 0.05, 0.46),
)
"""Linear RGB of the world's objects, as its renderer has them."""

GROUND_COLORS = (
    (0.50, 0.46, 0.40),
    (0.42, 0.44, 0.46),
    (0.46, 0.48, 0.42),
    (0.55, 0.53, 0.50),
    (0.40, 0.38, 0.42),
)
"""Linear RGB of its grounds."""

_SAMPLES = 64  # an image is judged by as many rows and columns
_OBJECT_DISTANCE = 0.05  # of two chromas that count as one
_GROUND_DISTANCE = 0.015
_LEAST_GROUND = 0.1
_LEAST_OBJECTS = 0.01
_LEAST_EXPLAINED = 0.6


def looks_like_block_world(image: Image.Image) -> bool:
    """Whether an RGB image is plainly of the block world.

    The world's light is white, so shading leaves chroma (RGB over its sum, in linear light) alone: nearly every pixel
    of a scene has the chroma of the scene's one ground or of one of seven object colours, wherever light falls.
    Photographs hold a spread of chromas.

    Measured: all of 600 test scenes, each also as JPEG of quality 90, 75 and 50, at half and double size, and cropped,
    are taken for the world (least share explained: 0.84). None of 31 pictures shipped with scikit-image and
    scikit-learn is, nor any of 3,100 random crops of them (largest share explained: 0.35).
    """
    ground, objects = explained(image)
    return ground >= _LEAST_GROUND and objects >= _LEAST_OBJECTS and ground + objects >= _LEAST_EXPLAINED


def explained(image: Image.Image) -> tuple[float, float]:
    """Shares of an image's pixels in the colour of the most likely ground, and in the colours of objects."""
    small = image.resize((_SAMPLES, _SAMPLES), Image.Resampling.NEAREST)  # no other filter: mixing makes new chromas
    linear = (np.asarray(small, dtype=np.float32).reshape(-1, 3) / 255) ** 2  # (N, 3); the renderer's gamma is 2
    chroma = linear / np.maximum(linear.sum(axis=1, keepdims=True), 1e-4)
    is_ground = _near(chroma, GROUND_COLORS, _GROUND_DISTANCE)  # (N, grounds)
    best = int(is_ground.sum(axis=0).argmax())
    is_object = _near(chroma, OBJECT_COLORS, _OBJECT_DISTANCE).any(axis=1) & ~is_ground[:, best]
    return float(is_ground[:, best].mean()), float(is_object.mean())


def _near(
    chroma: NDArray[np.float32], colors: tuple[tuple[float, float, float], ...], distance: float
) -> NDArray[np.bool_]:
    """(N, 3) chromas and K colours give (N, K): whether they are of one chroma."""
    wanted = np.asarray(colors, dtype=np.float32)
    wanted /= wanted.sum(axis=1, keepdims=True)
    return np.linalg.norm(chroma[:, None] - wanted[None], axis=2) < distance
