"""The renderer of the block world: NumPy ray casting with soft shadows, exact depth and exact visible boxes.

Each pixel's ray is met with the ground and with the objects whose projection it can lie in; where the nearest surface
changes from a pixel to its neighbour, and on signs, four more rays are cast and averaged, so that edges are smooth at
little cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from sifthinker.policy.boxes import Box
from sifthinker.training.world.rays import FAR_T, ground_t, intersect, rays_of, window_of
from sifthinker.training.world.scene import DEPTH_FAR, DEPTH_NEAR, Scene
from sifthinker.training.world.shading import GROUND, ground_frame, shade, shade_object, sign_frame

Array = np.ndarray


@dataclass(frozen=True)
class Render:
    """A rendered scene.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float32 in [0, 1], 0 near, 1 far, exact at pixel centres.
        ids: (H, W) int8, the index of the object seen, or -1 for the ground.
        boxes: the box of each object's visible pixels, normalised xyxy; None for one that is hidden.
        visible: share of each object's silhouette that is seen, in [0, 1].
        sign_boxes: the box of each object's sign where all of it is seen, normalised xyxy; None otherwise.
    """

    rgb: Array
    depth: Array
    ids: Array
    boxes: tuple[Box | None, ...]
    visible: tuple[float, ...]
    sign_boxes: tuple[Box | None, ...]

    @property
    def image(self) -> Image.Image:
        """The picture as PIL RGB."""
        return Image.fromarray(self.rgb)


def render(scene: Scene, size: int = 384) -> Render:
    """Render a scene to a square picture of `size` pixels."""
    rays = rays_of(scene, size)
    t = ground_t(scene, rays).copy()
    ids = np.full((size, size), GROUND, np.int8)
    silhouette = []
    for index, obj in enumerate(scene.objects):
        rows, cols = window_of(scene, obj, size)
        hit = intersect(scene, obj, rays[rows, cols])
        silhouette.append(int(np.count_nonzero(hit < FAR_T)))
        nearer = hit < t[rows, cols]
        t[rows, cols][nearer] = hit[nearer]
        ids[rows, cols][nearer] = index
    color = ground_frame(scene, rays)
    on_sign = np.zeros((size, size), bool)
    for index, obj in enumerate(scene.objects):
        window = window_of(scene, obj, size)
        at = np.nonzero(ids[window] == index)
        shaded, sign = shade_object(scene, index, rays[window][at], t[window][at])
        color[window][at] = shaded
        on_sign[window][at] = sign
    _smooth_edges(scene, rays, ids, on_sign, color)
    rgb = np.sqrt(np.clip(color, 0.0, 1.0), out=color)
    rgb *= 255.0
    depth = np.clip((t - DEPTH_NEAR) / (DEPTH_FAR - DEPTH_NEAR), 0.0, 1.0).astype(np.float32)
    boxes, visible = _visible_boxes(scene, ids, silhouette)
    signs = tuple(_sign_box(scene, index, ids) for index in range(len(scene.objects)))
    return Render((rgb + 0.5).astype(np.uint8), depth, ids, boxes, visible, signs)


def visibility(scene: Scene, size: int = 96) -> list[float]:
    """Share of each object's silhouette that is seen, from a coarse cast without shading; 1.0 for an empty scene."""
    rays = rays_of(scene, size)
    t = np.full((size, size), FAR_T, np.float32)
    ids = np.full((size, size), GROUND, np.int8)
    silhouette = []
    for index, obj in enumerate(scene.objects):
        rows, cols = window_of(scene, obj, size)
        hit = intersect(scene, obj, rays[rows, cols])
        silhouette.append(int(np.count_nonzero(hit < FAR_T)))
        nearer = hit < t[rows, cols]
        t[rows, cols][nearer] = hit[nearer]
        ids[rows, cols][nearer] = index
    seen = np.bincount(ids.ravel() + 1, minlength=len(scene.objects) + 1)[1:]
    return [float(s) / max(total, 1) for s, total in zip(seen, silhouette, strict=True)] or [1.0]


def _sign_box(scene: Scene, index: int, ids: Array) -> Box | None:
    """The box around the sign's plate if nine points of it, the corners among them, are seen."""
    obj = scene.objects[index]
    if obj.sign is None:
        return None
    right, up, out = sign_frame(scene, obj)
    middle = np.array([obj.x, obj.height / 2, obj.z]) + out * obj.radius
    points = np.array([middle + obj.sign_half * (u * right + v * up) for u in (-1, 0, 1) for v in (-1, 0, 1)])
    xy = scene.camera.project(points)[:, :2]
    at = (xy * len(ids)).astype(int).clip(0, len(ids) - 1)
    if not (ids[at[:, 1], at[:, 0]] == index).all():
        return None
    (x0, y0), (x1, y1) = xy.min(0).tolist(), xy.max(0).tolist()
    return (x0, y0, x1, y1)


def _smooth_edges(scene: Scene, rays: Array, ids: Array, on_sign: Array, color: Array) -> None:
    """Average four rays in each pixel at an edge or on a sign, in place."""
    edge = on_sign.copy()
    for axis in (0, 1):
        change = np.diff(ids, axis=axis) != 0
        one, two = (np.s_[:-1, :], np.s_[1:, :]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        edge[one] |= change
        edge[two] |= change
    rows, cols = np.nonzero(edge)
    if not len(rows):
        return
    size = len(ids)
    step_x = rays[0, 1] - rays[0, 0]
    step_y = rays[1, 0] - rays[0, 0]
    offsets = np.array([[-0.125, -0.375], [0.375, -0.125], [0.125, 0.375], [-0.375, 0.125]], np.float32)
    sub = rays[rows, cols][None] + offsets[:, 0, None, None] * step_x + offsets[:, 1, None, None] * step_y
    flat = sub.reshape(-1, 3)
    sub_row, sub_col = np.tile(rows, 4), np.tile(cols, 4)
    t = ground_t(scene, flat).copy()
    sub_ids = np.full(len(flat), GROUND, np.int8)
    for index, obj in enumerate(scene.objects):
        r, c = window_of(scene, obj, size)
        inside = np.flatnonzero((sub_row >= r.start) & (sub_row < r.stop) & (sub_col >= c.start) & (sub_col < c.stop))
        hit = intersect(scene, obj, flat[inside])
        nearer = hit < t[inside]
        t[inside[nearer]] = hit[nearer]
        sub_ids[inside[nearer]] = index
    shaded = shade(scene, flat, t, sub_ids)
    color[rows, cols] = np.clip(shaded, 0.0, 1.0).reshape(4, -1, 3).mean(0)


def _visible_boxes(scene: Scene, ids: Array, silhouette: list[int]) -> tuple[tuple[Box | None, ...], tuple[float, ...]]:
    size = len(ids)
    boxes: list[Box | None] = []
    visible = []
    for index, (obj, total) in enumerate(zip(scene.objects, silhouette, strict=True)):
        window = window_of(scene, obj, size)
        mask = ids[window] == index
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        visible.append(float(np.count_nonzero(mask)) / max(total, 1))
        if len(rows):
            top, left = window[0].start, window[1].start
            x0, x1, y0, y1 = left + int(cols[0]), left + int(cols[-1]) + 1, top + int(rows[0]), top + int(rows[-1]) + 1
            boxes.append((x0 / size, y0 / size, x1 / size, y1 / size))
        else:
            boxes.append(None)
    return tuple(boxes), tuple(visible)
