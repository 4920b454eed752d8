"""What the depth network learns from, and what it is measured by: rendered scenes with exact depth."""

from __future__ import annotations

import logging
import time

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field
from torch import Tensor

from sifthinker.nodes.depth import DepthEstimator
from sifthinker.training.world.render import Render, render
from sifthinker.training.world.scene import Split, make_scene, scene_seed

log = logging.getLogger(__name__)

RELATIVE_FLOOR = 0.02
"""Relative errors divide by at least this."""


class DepthScores(BaseModel):
    """Errors against the exact depth, averaged over scenes."""

    scenes: int
    abs_rel: float = Field(description="Mean over pixels of |d - d*| / max(d*, 0.02).")
    mae: float = Field(description="Mean over pixels of |d - d*|.")
    object_abs_rel: float = Field(description="The same relative error of the mean depth in each object's box.")
    ms_per_image: float


def render_scenes(count: int, size: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Pictures (N, size, size, 3) as the network sees them, and exact depth (N, size, size), 65535 far."""
    rgb = np.empty((count, size, size, 3), np.uint8)
    depth = np.empty((count, size, size), np.uint16)
    start = time.perf_counter()
    for index in range(count):
        scene = make_scene(scene_seed("train", seed, index))
        rendered = render(scene)
        rgb[index] = np.asarray(rendered.image.resize((size, size), Image.Resampling.BICUBIC))
        depth[index] = np.rint(shrink_depth(rendered.depth, size) * 65535)
        if (index + 1) % 500 == 0:
            log.info("%d of %d scenes rendered in %.0f s", index + 1, count, time.perf_counter() - start)
    return rgb, depth


def shrink_depth(depth: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The exact depth at a smaller size: each new pixel has the median of those it covers, which blurs no edge."""
    edge = depth.shape[0]
    if edge % size:
        return np.asarray(Image.fromarray(depth).resize((size, size), Image.Resampling.NEAREST))
    factor = edge // size
    tiles = depth.reshape(size, factor, size, factor).swapaxes(1, 2).reshape(size, size, -1)
    return np.asarray(np.median(tiles, axis=2), dtype=np.float32)


def draw_batch(
    rgb: NDArray[np.uint8], depth: NDArray[np.uint16], rng: np.random.Generator, size: int
) -> tuple[Tensor, Tensor]:
    """Random scenes as (B, 3, H, W) normalised and (B, H, W); half of them mirrored, their light and colours varied."""
    pick = rng.integers(len(rgb), size=size)
    pixels = torch.from_numpy(rgb[pick]).permute(0, 3, 1, 2).float() / 255
    target = torch.from_numpy(depth[pick].astype(np.float32)) / 65535
    mirrored = torch.from_numpy(rng.random(size) < 0.5)
    pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
    target = torch.where(mirrored[:, None, None], target.flip(2), target)
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, (size, 3, 1, 1)).astype(np.float32))
    pixels = (pixels * gain).clamp(0, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels - mean[:, None, None]) / std[:, None, None], target


def measure_depth(estimator: DepthEstimator, *, split: Split = "test", count: int = 300, seed: int = 0) -> DepthScores:
    """Compare an estimator with the renderer's exact depth on `count` scenes of 384 × 384."""
    errors, absolute, objects = [], [], []
    seconds = 0.0
    for index in range(count):
        scene = render(make_scene(scene_seed(split, seed, index)))
        start = time.perf_counter()
        predicted = estimator.predict(scene.image)
        seconds += time.perf_counter() - start
        difference = np.abs(predicted.array - scene.depth)
        errors.append(float((difference / np.maximum(scene.depth, RELATIVE_FLOOR)).mean()))
        absolute.append(float(difference.mean()))
        objects.extend(_object_errors(predicted.array, scene))
    return DepthScores(
        scenes=count,
        abs_rel=float(np.mean(errors)),
        mae=float(np.mean(absolute)),
        object_abs_rel=float(np.mean(objects)),
        ms_per_image=1000 * seconds / count,
    )


def _object_errors(predicted: NDArray[np.float32], scene: Render) -> list[float]:
    """Relative error of the mean depth in the box of each visible object."""
    height, width = predicted.shape
    errors = []
    for box in scene.boxes:
        if box is None:
            continue
        part = np.s_[round(box[1] * height) : round(box[3] * height), round(box[0] * width) : round(box[2] * width)]
        true = float(scene.depth[part].mean())
        errors.append(abs(float(predicted[part].mean()) - true) / max(true, RELATIVE_FLOOR))
    return errors
