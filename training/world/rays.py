"""Rays of the block world's camera, and where they meet the ground and the objects."""

from __future__ import annotations

import numpy as np

from sifthinker.training.world.scene import Scene, SceneObject

Array = np.ndarray

FAR_T = np.float32(1e6)
"""The depth of a ray that meets nothing."""


def rays_of(scene: Scene, size: int) -> Array:
    """Directions (H, W, 3) float32 whose component along the viewing axis is 1, so that t is the planar depth."""
    camera = scene.camera
    at = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1) * np.float32(camera.tan_half)
    sin, cos = np.float32(np.sin(camera.pitch)), np.float32(np.cos(camera.pitch))
    rays = np.empty((size, size, 3), np.float32)
    rays[..., 0] = at[None, :]
    rays[..., 1] = (-sin - at * cos)[:, None]
    rays[..., 2] = (cos - at * sin)[:, None]
    return rays


def window_of(scene: Scene, obj: SceneObject, size: int) -> tuple[slice, slice]:
    """Rows and columns that the object's projection can cover."""
    r = obj.footprint
    corners = np.array(
        [[obj.x + sx * r, y, obj.z + sz * r] for sx in (-1, 1) for sz in (-1, 1) for y in (0.0, obj.height)]
    )
    xy = scene.camera.project(corners)[:, :2] * size
    (x0, y0), (x1, y1) = np.floor(xy.min(0)) - 1, np.ceil(xy.max(0)) + 1
    x0, y0, x1, y1 = (int(min(max(edge, 0), size)) for edge in (x0, y0, x1, y1))
    return slice(y0, y1), slice(x0, x1)


def ground_t(scene: Scene, rays: Array) -> Array:
    return (np.float32(scene.camera.height) / -rays[..., 1]).astype(np.float32)


def intersect(scene: Scene, obj: SceneObject, rays: Array) -> Array:
    """Planar depth at which each ray meets the object, or a huge number."""
    height = np.float32(scene.camera.height)
    dx, dy, dz = rays[..., 0], rays[..., 1], rays[..., 2]
    if obj.shape == "sphere":
        ox, oy, oz = np.float32(-obj.x), height - np.float32(obj.radius), np.float32(-obj.z)
        a = dx * dx + dy * dy + dz * dz
        b = dx * ox + dy * oy + dz * oz
        disc = b * b - a * (ox * ox + oy * oy + oz * oz - np.float32(obj.radius**2))
        with np.errstate(invalid="ignore"):
            return np.where(disc > 0, (-b - np.sqrt(disc)) / a, FAR_T)
    if obj.shape == "cylinder":
        ox, oz = np.float32(-obj.x), np.float32(-obj.z)
        a = dx * dx + dz * dz
        b = dx * ox + dz * oz
        disc = b * b - a * (ox * ox + oz * oz - np.float32(obj.radius**2))
        with np.errstate(invalid="ignore"):
            side = (-b - np.sqrt(disc)) / a
        y = height + side * dy
        hit = np.where((disc > 0) & (y >= 0) & (y <= obj.height), side, FAR_T)
        cap = (np.float32(obj.height) - height) / dy
        px, pz = cap * dx + ox, cap * dz + oz
        return np.where(px * px + pz * pz <= obj.radius**2, np.minimum(hit, cap), hit)
    cos, sin = np.float32(np.cos(obj.yaw)), np.float32(np.sin(obj.yaw))
    ox, oz = cos * -obj.x - sin * -obj.z, sin * -obj.x + cos * -obj.z
    lx, lz = cos * dx - sin * dz, sin * dx + cos * dz
    r = np.float32(obj.radius)
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.full(dx.shape, -FAR_T, np.float32)
        far = np.full(dx.shape, FAR_T, np.float32)
        for origin, direction, low, high in ((ox, lx, -r, r), (height, dy, np.float32(0), 2 * r), (oz, lz, -r, r)):
            one, two = (low - origin) / direction, (high - origin) / direction
            near = np.maximum(near, np.minimum(one, two))
            far = np.minimum(far, np.maximum(one, two))
    return np.where((near <= far) & (near > 0), near, FAR_T)
