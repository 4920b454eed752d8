"""A scene of the block world: what stands where, seen from which camera, under which light.

Coordinates: x to the right, y up, z forward along the ground, in units of about one object. The camera stands at
(0, height, 0) and looks forward and down; its planar depth (distance along the viewing axis) is what the depth map
holds, scaled to [0, 1] between `DEPTH_NEAR` and `DEPTH_FAR`, a scale that is the same for every scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "val", "test"]
Shape = Literal["cube", "sphere", "cylinder"]
Size = Literal["small", "large"]

SHAPES: tuple[Shape, ...] = ("cube", "sphere", "cylinder")
COLORS: dict[str, tuple[float, float, float]] = {  # linear RGB albedo
    "red": (0.62, 0.035, 0.035),
    "orange": (0.86, 0.27, 0.02),
    "yellow": (0.85, 0.66, 0.04),
    "green": (0.05, 0.36, 0.07),
    "cyan": (0.06, 0.55, 0.60),
    "blue": (0.04, 0.10, 0.58),
    "purple": (0.30, 0.05, 0.46),
}
SIGN_CHARACTERS = "0123456789ACEHKLTX"
GROUNDS: tuple[tuple[float, float, float], ...] = (
    (0.50, 0.46, 0.40),
    (0.42, 0.44, 0.46),
    (0.46, 0.48, 0.42),
    (0.55, 0.53, 0.50),
    (0.40, 0.38, 0.42),
)

DEPTH_NEAR = 2.5
DEPTH_FAR = 12.0
MIN_VISIBLE = 0.4
"""Every object of a scene shows at least this share of its silhouette."""

_SPLIT_BASE: dict[str, int] = {"train": 0, "val": 1 << 42, "test": 1 << 43}
SCENES_PER_SEED = 1_000_000
"""Scenes that a split has for each seed, and seeds there are."""


def scene_seed(split: Split, seed: int, index: int) -> int:
    """The seed of the `index`-th scene of a split. The ranges of the three splits do not meet.

    Args:
        split: which range.
        seed: 0 <= seed < 1,000,000: which run of scenes in it.
        index: 0 <= index < 1,000,000: which scene of the run.
    """
    if split not in _SPLIT_BASE:
        raise ValueError(f"split must be train, val or test, got {split!r}")
    if not (0 <= seed < SCENES_PER_SEED and 0 <= index < SCENES_PER_SEED):
        raise ValueError(f"seed and index must be in [0, 1,000,000), got {seed} and {index}")
    return _SPLIT_BASE[split] + seed * SCENES_PER_SEED + index


@dataclass(frozen=True)
class SceneObject:
    """A solid that stands on the ground. `radius` is half the edge of a cube; a cylinder is `height` high."""

    shape: Shape
    color: str
    size: Size
    x: float
    z: float
    radius: float
    height: float
    yaw: float
    sign: str | None = None
    sign_half: float = 0.0

    @property
    def name(self) -> str:
        """'red cube': unique in its scene."""
        return f"{self.color} {self.shape}"

    @property
    def footprint(self) -> float:
        """Radius of the circle it covers on the ground."""
        return self.radius * (1.42 if self.shape == "cube" else 1.0)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with a square picture. `pitch` in radians downwards; `tan_half` of the field of view."""

    height: float
    pitch: float
    tan_half: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) to (N, 3): x and y in the picture from 0 to 1 (y down), and the planar depth."""
        rel = points - np.array([0.0, self.height, 0.0])
        sin, cos = np.sin(self.pitch), np.cos(self.pitch)
        depth = -sin * rel[:, 1] + cos * rel[:, 2]
        up = cos * rel[:, 1] + sin * rel[:, 2]
        scale = 0.5 / (self.tan_half * depth)
        return np.stack([0.5 + rel[:, 0] * scale, 0.5 - up * scale, depth], axis=1)


@dataclass(frozen=True)
class Scene:
    """Everything that the renderer needs; equal scenes render to equal pixels."""

    seed: int
    objects: tuple[SceneObject, ...]
    camera: Camera
    light: tuple[float, float, float]
    ground: tuple[float, float, float]
    ground_offset: tuple[float, float]


def make_scene(seed: int) -> Scene:
    """The scene of a seed: three to six objects, each in a colour and shape that no other one shares, all visible."""
    from sifthinker.training.world.render import visibility

    rng = np.random.default_rng(seed)
    while True:
        camera = Camera(
            height=float(rng.uniform(3.0, 3.5)),
            pitch=float(np.radians(rng.uniform(34.0, 38.0))),
            tan_half=float(np.tan(np.radians(rng.uniform(19.5, 21.0)))),
        )
        azimuth = rng.uniform(-1.05, -0.35) if rng.random() < 0.5 else rng.uniform(-2.8, -2.1)  # from one side
        elevation = rng.uniform(0.65, 0.95)
        light = (
            float(np.cos(elevation) * np.cos(azimuth)),
            float(np.sin(elevation)),
            float(np.cos(elevation) * np.sin(azimuth)),
        )
        objects = _place(rng, camera, int(rng.choice([3, 4, 5, 6], p=[0.2, 0.35, 0.3, 0.15])))
        scene = Scene(
            seed=seed,
            objects=objects,
            camera=camera,
            light=light,
            ground=GROUNDS[int(rng.integers(len(GROUNDS)))],
            ground_offset=(float(rng.uniform(0, 64)), float(rng.uniform(0, 64))),
        )
        if len(objects) >= 3 and min(visibility(scene)) >= MIN_VISIBLE:
            return scene


def _place(rng: np.random.Generator, camera: Camera, count: int) -> tuple[SceneObject, ...]:
    """Up to `count` objects that do not touch and lie wholly inside the picture."""
    palette = list(COLORS)
    if rng.random() < 0.4:  # few colours: makes counting and telling apart by shape worth asking
        palette = [str(c) for c in rng.choice(palette, size=3, replace=False)]
    kinds = [(color, shape) for color in palette for shape in SHAPES]
    rng.shuffle(kinds)
    placed: list[SceneObject] = []
    for color, shape in kinds[:count]:
        for _ in range(60):
            candidate = _candidate(rng, shape, color)
            apart = all(
                np.hypot(candidate.x - o.x, candidate.z - o.z) > candidate.footprint + o.footprint + 0.12
                for o in placed
            )
            if apart and _inside(candidate, camera):
                placed.append(candidate)
                break
    return tuple(placed)


def _candidate(rng: np.random.Generator, shape: Shape, color: str) -> SceneObject:
    size: Size = "large" if rng.random() < 0.55 else "small"
    radius = float(rng.uniform(0.66, 0.80) if size == "large" else rng.uniform(0.42, 0.52))
    height = 2 * radius if shape != "cylinder" else float(radius * rng.uniform(1.9, 2.5))
    signed = rng.random() < 0.5
    yaw = float(rng.uniform(-0.45, 0.45) if signed else rng.uniform(-0.785, 0.785))
    return SceneObject(
        shape=shape,
        color=color,
        size=size,
        x=float(rng.uniform(-3.2, 3.2)),
        z=float(rng.uniform(3.0, 9.0)),
        radius=radius,
        height=height,
        yaw=yaw,
        sign=str(rng.choice(list(SIGN_CHARACTERS))) if signed else None,
        sign_half=float(rng.uniform(0.13, 0.18)) if signed else 0.0,
    )


def _inside(obj: SceneObject, camera: Camera) -> bool:
    r = obj.footprint
    corners = np.array(
        [[obj.x + sx * r, y, obj.z + sz * r] for sx in (-1, 1) for sz in (-1, 1) for y in (0.0, obj.height)]
    )
    xy = camera.project(corners)[:, :2]
    return bool(np.all((xy > 0.01) & (xy < 0.99)))
