"""The renderer of the block world: NumPy ray casting with soft shadows, exact depth and exact visible boxes.

Each pixel's ray is met with the ground and with the objects whose projection it can lie in; where the nearest surface
changes from a pixel to its neighbour, and on signs, four more rays are cast and averaged, so that edges are smooth at
little cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sifthinker.training.world.scene import COLORS, DEPTH_FAR, DEPTH_NEAR, SIGN_CHARACTERS, Scene, SceneObject

Box = tuple[float, float, float, float]
Array = np.ndarray

GROUND = -1
_FAR_T = np.float32(1e6)
_GLYPH_PX = 32
_TILE_PX = 512
_TILE_UNITS = 16.0


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
    rays = _rays(scene, size)
    t = _ground_t(scene, rays).copy()
    ids = np.full((size, size), GROUND, np.int8)
    silhouette = []
    for index, obj in enumerate(scene.objects):
        rows, cols = _window(scene, obj, size)
        hit = _intersect(scene, obj, rays[rows, cols])
        silhouette.append(int(np.count_nonzero(hit < _FAR_T)))
        nearer = hit < t[rows, cols]
        t[rows, cols][nearer] = hit[nearer]
        ids[rows, cols][nearer] = index
    color = _ground_frame(scene, rays, t)
    on_sign = np.zeros((size, size), bool)
    for index, obj in enumerate(scene.objects):
        window = _window(scene, obj, size)
        at = np.nonzero(ids[window] == index)
        shaded, sign = _shade_object(scene, index, rays[window][at], t[window][at])
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
    rays = _rays(scene, size)
    t = np.full((size, size), _FAR_T, np.float32)
    ids = np.full((size, size), GROUND, np.int8)
    silhouette = []
    for index, obj in enumerate(scene.objects):
        rows, cols = _window(scene, obj, size)
        hit = _intersect(scene, obj, rays[rows, cols])
        silhouette.append(int(np.count_nonzero(hit < _FAR_T)))
        nearer = hit < t[rows, cols]
        t[rows, cols][nearer] = hit[nearer]
        ids[rows, cols][nearer] = index
    seen = np.bincount(ids.ravel() + 1, minlength=len(scene.objects) + 1)[1:]
    return [float(s) / max(total, 1) for s, total in zip(seen, silhouette, strict=True)] or [1.0]


def _rays(scene: Scene, size: int) -> Array:
    """Directions (H, W, 3) float32 whose component along the viewing axis is 1, so that t is the planar depth."""
    camera = scene.camera
    at = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1) * np.float32(camera.tan_half)
    sin, cos = np.float32(np.sin(camera.pitch)), np.float32(np.cos(camera.pitch))
    rays = np.empty((size, size, 3), np.float32)
    rays[..., 0] = at[None, :]
    rays[..., 1] = (-sin - at * cos)[:, None]
    rays[..., 2] = (cos - at * sin)[:, None]
    return rays


def _window(scene: Scene, obj: SceneObject, size: int) -> tuple[slice, slice]:
    """Rows and columns that the object's projection can cover."""
    r = obj.footprint
    corners = np.array(
        [[obj.x + sx * r, y, obj.z + sz * r] for sx in (-1, 1) for sz in (-1, 1) for y in (0.0, obj.height)]
    )
    xy = scene.camera.project(corners)[:, :2] * size
    (x0, y0), (x1, y1) = np.floor(xy.min(0)) - 1, np.ceil(xy.max(0)) + 1
    x0, y0, x1, y1 = (int(min(max(edge, 0), size)) for edge in (x0, y0, x1, y1))
    return slice(y0, y1), slice(x0, x1)


def _ground_t(scene: Scene, rays: Array) -> Array:
    return (np.float32(scene.camera.height) / -rays[..., 1]).astype(np.float32)


def _intersect(scene: Scene, obj: SceneObject, rays: Array) -> Array:
    """Planar depth at which each ray meets the object, or a huge number."""
    height = np.float32(scene.camera.height)
    dx, dy, dz = rays[..., 0], rays[..., 1], rays[..., 2]
    if obj.shape == "sphere":
        ox, oy, oz = np.float32(-obj.x), height - np.float32(obj.radius), np.float32(-obj.z)
        a = dx * dx + dy * dy + dz * dz
        b = dx * ox + dy * oy + dz * oz
        disc = b * b - a * (ox * ox + oy * oy + oz * oz - np.float32(obj.radius**2))
        with np.errstate(invalid="ignore"):
            return np.where(disc > 0, (-b - np.sqrt(disc)) / a, _FAR_T)
    if obj.shape == "cylinder":
        ox, oz = np.float32(-obj.x), np.float32(-obj.z)
        a = dx * dx + dz * dz
        b = dx * ox + dz * oz
        disc = b * b - a * (ox * ox + oz * oz - np.float32(obj.radius**2))
        with np.errstate(invalid="ignore"):
            side = (-b - np.sqrt(disc)) / a
        y = height + side * dy
        hit = np.where((disc > 0) & (y >= 0) & (y <= obj.height), side, _FAR_T)
        cap = (np.float32(obj.height) - height) / dy
        px, pz = cap * dx + ox, cap * dz + oz
        return np.where(px * px + pz * pz <= obj.radius**2, np.minimum(hit, cap), hit)
    cos, sin = np.float32(np.cos(obj.yaw)), np.float32(np.sin(obj.yaw))
    ox, oz = cos * -obj.x - sin * -obj.z, sin * -obj.x + cos * -obj.z
    lx, lz = cos * dx - sin * dz, sin * dx + cos * dz
    r = np.float32(obj.radius)
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.full(dx.shape, -_FAR_T, np.float32)
        far = np.full(dx.shape, _FAR_T, np.float32)
        for origin, direction, low, high in ((ox, lx, -r, r), (height, dy, np.float32(0), 2 * r), (oz, lz, -r, r)):
            one, two = (low - origin) / direction, (high - origin) / direction
            near = np.maximum(near, np.minimum(one, two))
            far = np.minimum(far, np.maximum(one, two))
    return np.where((near <= far) & (near > 0), near, _FAR_T)


def _shade(scene: Scene, rays: Array, t: Array, ids: Array) -> Array:
    """Linear colour (N, 3) of the surfaces that rays (N, 3) meet at planar depth t (N,)."""
    color = np.empty((len(t), 3), np.float32)
    ground = np.flatnonzero(ids == GROUND)
    p = _points(scene, rays[ground], t[ground])
    shade = _ground_light(scene, p, t[ground]) * _texture(scene, p[:, 0], p[:, 2])
    color[ground] = shade[:, None] * np.asarray(scene.ground, np.float32)
    for index in range(len(scene.objects)):
        at = np.flatnonzero(ids == index)
        if len(at):
            color[at], _ = _shade_object(scene, index, rays[at], t[at])
    return color


def _dot(a: Array, b: Array) -> Array:
    """(N, 3) · (N, 3) → (N,); written out, since NumPy reduces short rows slowly."""
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def _points(scene: Scene, rays: Array, t: Array) -> Array:
    points = rays * t[..., None]
    points[..., 1] += np.float32(scene.camera.height)
    return points


def _shade_object(scene: Scene, index: int, rays: Array, t: Array) -> tuple[Array, Array]:
    """Linear colour (N, 3) of an object's points, and which of them lie on its sign."""
    obj = scene.objects[index]
    light = np.asarray(scene.light, np.float32)
    p = _points(scene, rays, t)
    normal = _normal(obj, p)
    lit = np.maximum(normal @ light, 0.0) * _lit(scene, p, skip=index)
    base = np.minimum(1.0, 0.55 + 0.5 * p[:, 1] / obj.height)  # darker where it meets the ground
    ambient = (0.24 + 0.16 * normal[:, 1]) * base
    albedo, sign = _albedo(scene, obj, p)
    half = light - rays / np.sqrt(_dot(rays, rays))[:, None]
    shine = np.maximum(_dot(normal, half), 0.0) / np.sqrt(_dot(half, half))
    gloss = shine**40 * 0.22 * (lit > 0) * ~sign
    return (albedo * (ambient + 0.86 * lit)[:, None] + gloss[:, None]).astype(np.float32), sign


def _ground_frame(scene: Scene, rays: Array, t: Array) -> Array:
    """Colour (H, W, 3) of the whole picture as if it were ground; objects are painted over it.

    Light is worked out on a third of the rows and columns, which soft shadows allow.
    """
    size = len(t)
    coarse = _rays(scene, max(size // 3, 1))
    coarse_t = _ground_t(scene, coarse)
    points = _points(scene, coarse, coarse_t).reshape(-1, 3)
    light = _ground_light(scene, points, coarse_t.ravel()).reshape(coarse_t.shape).astype(np.float32)
    shade = np.array(Image.fromarray(light).resize((size, size), Image.Resampling.BILINEAR))
    ground_t = _ground_t(scene, rays)
    shade *= _texture(scene, rays[..., 0] * ground_t, rays[..., 2] * ground_t)
    color = np.empty((size, size, 3), np.float32)
    for channel, value in enumerate(scene.ground):
        np.multiply(shade, np.float32(value), out=color[..., channel])
    return color


def _ground_light(scene: Scene, p: Array, t: Array) -> Array:
    """Brightness of ground points (N, 3) at planar depth t (N,): ambient and direct light, dimmer far away."""
    light = 0.30 * _contact(scene, p) + 0.70 * np.float32(scene.light[1]) * _lit(scene, p, skip=None)
    return light * (1.0 - 0.035 * np.maximum(t - 6.0, 0.0))


def _normal(obj: SceneObject, p: Array) -> Array:
    """Outward unit normals (N, 3) of points on the object's surface."""
    rel = p - np.array([obj.x, 0.0, obj.z], np.float32)
    normal = np.zeros_like(rel)
    if obj.shape == "sphere":
        rel[:, 1] -= obj.radius
        return rel / np.float32(obj.radius)
    if obj.shape == "cylinder":
        top = p[:, 1] > obj.height - 1e-3
        normal[:, 0], normal[:, 2] = rel[:, 0] / obj.radius, rel[:, 2] / obj.radius
        normal[top] = (0.0, 1.0, 0.0)
        return normal
    cos, sin = np.cos(obj.yaw), np.sin(obj.yaw)
    local = np.stack(
        [cos * rel[:, 0] - sin * rel[:, 2], rel[:, 1] - obj.radius, sin * rel[:, 0] + cos * rel[:, 2]], axis=1
    )
    axis = np.abs(local).argmax(1)
    value = np.sign(local[np.arange(len(local)), axis])
    normal[:, 0] = np.where(axis == 0, cos * value, np.where(axis == 2, sin * value, 0.0))
    normal[:, 1] = np.where(axis == 1, value, 0.0)
    normal[:, 2] = np.where(axis == 0, -sin * value, np.where(axis == 2, cos * value, 0.0))
    return normal


def _lit(scene: Scene, p: Array, skip: int | None) -> Array:
    """Share of the light that reaches each point, in [0, 1]: each object shades like a soft-edged ball."""
    lx, ly, lz = (np.float32(value) for value in scene.light)
    x, y, z = p[:, 0], p[:, 1], p[:, 2]
    out = np.ones(len(p), np.float32)
    for index, obj in enumerate(scene.objects):
        if index == skip:
            continue
        dx, dy, dz = np.float32(obj.x) - x, np.float32(obj.height / 2) - y, np.float32(obj.z) - z
        along = dx * lx + dy * ly + dz * lz
        gap = np.sqrt(np.maximum(dx * dx + dy * dy + dz * dz - along * along, 0.0))
        reach = np.float32(obj.radius * (1.12 if obj.shape == "cube" else 1.0))
        soft = np.float32(0.16) + np.float32(0.10) * np.maximum(along, 0.0)
        covered = np.clip((reach + soft - gap) / (2 * soft), 0.0, 1.0) * (along > 0)
        out *= 1.0 - np.float32(0.85) * covered * covered * (3 - 2 * covered)
    return out


def _contact(scene: Scene, p: Array) -> Array:
    """Ambient light of ground points: less of it close to an object."""
    out = np.ones(len(p), np.float32)
    for obj in scene.objects:
        dx, dz = p[:, 0] - np.float32(obj.x), p[:, 2] - np.float32(obj.z)
        near = np.clip(1.75 - np.sqrt(dx * dx + dz * dz) / np.float32(obj.radius), 0.0, 1.0)
        out *= 1.0 - 0.6 * near * near
    return out


def _texture(scene: Scene, x: Array, z: Array) -> Array:
    """Soft mottling of the ground, around 1."""
    scale = np.float32(_TILE_PX / _TILE_UNITS)
    u = ((x + np.float32(scene.ground_offset[0])) * scale).astype(np.int32)
    v = ((z + np.float32(scene.ground_offset[1])) * scale).astype(np.int32)
    u &= _TILE_PX - 1
    v &= _TILE_PX - 1
    return np.take(_ground_tile(), v * _TILE_PX + u)


def _albedo(scene: Scene, obj: SceneObject, p: Array) -> tuple[Array, Array]:
    """Surface colour (N, 3), with the sign's plate and character, and where the sign is."""
    albedo = np.broadcast_to(np.asarray(COLORS[obj.color], np.float32), p.shape).copy()
    if obj.sign is None:
        return albedo, np.zeros(len(p), bool)
    u, v, facing = _sign_coordinates(scene, obj, p)
    plate = facing & (np.abs(u) < 1) & (np.abs(v) < 1) & (u**4 + v**4 < 1.3)
    glyph = _glyphs()[SIGN_CHARACTERS.index(obj.sign)]
    col = np.clip((u[plate] * 0.5 + 0.5) * _GLYPH_PX, 0, _GLYPH_PX - 1).astype(np.int32)
    row = np.clip((0.5 - v[plate] * 0.5) * _GLYPH_PX, 0, _GLYPH_PX - 1).astype(np.int32)
    ink = glyph[row, col][:, None]
    albedo[plate] = (1 - ink) * np.float32(0.88) + ink * np.float32(0.015)
    return albedo, plate


def _sign_frame(scene: Scene, obj: SceneObject) -> tuple[Array, Array, Array]:
    """Unit vectors to the right, up and outwards of the sign's plate, which is centred on the object's middle."""
    up = np.array([0.0, 1.0, 0.0], np.float32)
    if obj.shape == "cube":  # on the face that looks at the camera
        right = np.array([np.cos(obj.yaw), 0.0, -np.sin(obj.yaw)], np.float32)
        return right, up, np.array([-np.sin(obj.yaw), 0.0, -np.cos(obj.yaw)], np.float32)
    out = np.array([-obj.x, 0.0, -obj.z], np.float32)
    if obj.shape == "sphere":
        out[1] = scene.camera.height - obj.height / 2
    out /= np.linalg.norm(out)
    right = np.cross(out, up)
    right /= np.linalg.norm(right)
    return right, np.cross(right, out), out


def _sign_coordinates(scene: Scene, obj: SceneObject, p: Array) -> tuple[Array, Array, Array]:
    """Position of points on the sign's plate, each axis from -1 to 1 (u right, v up), and whether they face it."""
    rel = p - np.array([obj.x, obj.height / 2, obj.z], np.float32)
    right, up, out = _sign_frame(scene, obj)
    if obj.shape == "cube":
        facing = rel @ out > obj.radius - 1e-3
    else:
        facing = (rel @ out > 0) & (p[:, 1] < obj.height - 1e-3)
    return rel @ right / obj.sign_half, rel @ up / obj.sign_half, facing


def _sign_box(scene: Scene, index: int, ids: Array) -> Box | None:
    """The box around the sign's plate if nine points of it, the corners among them, are seen."""
    obj = scene.objects[index]
    if obj.sign is None:
        return None
    right, up, out = _sign_frame(scene, obj)
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
    t = _ground_t(scene, flat).copy()
    sub_ids = np.full(len(flat), GROUND, np.int8)
    for index, obj in enumerate(scene.objects):
        r, c = _window(scene, obj, size)
        inside = np.flatnonzero((sub_row >= r.start) & (sub_row < r.stop) & (sub_col >= c.start) & (sub_col < c.stop))
        hit = _intersect(scene, obj, flat[inside])
        nearer = hit < t[inside]
        t[inside[nearer]] = hit[nearer]
        sub_ids[inside[nearer]] = index
    shaded = _shade(scene, flat, t, sub_ids)
    color[rows, cols] = np.clip(shaded, 0.0, 1.0).reshape(4, -1, 3).mean(0)


def _visible_boxes(scene: Scene, ids: Array, silhouette: list[int]) -> tuple[tuple[Box | None, ...], tuple[float, ...]]:
    size = len(ids)
    boxes: list[Box | None] = []
    visible = []
    for index, (obj, total) in enumerate(zip(scene.objects, silhouette, strict=True)):
        window = _window(scene, obj, size)
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


@lru_cache(maxsize=1)
def _ground_tile() -> Array:
    """A tileable texture (512, 512) around 1: a few octaves of smoothed noise."""
    rng = np.random.default_rng(20260101)
    out = np.zeros((_TILE_PX, _TILE_PX), np.float32)
    for cells, weight in ((16, 0.055), (64, 0.04), (256, 0.025)):
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        grid = np.pad(grid, 2, mode="wrap")
        grown = Image.fromarray(grid).resize(((cells + 4) * _TILE_PX // cells,) * 2, Image.Resampling.BICUBIC)
        cut = 2 * _TILE_PX // cells
        out += weight * np.asarray(grown)[cut : cut + _TILE_PX, cut : cut + _TILE_PX]
    return 1.0 + out


@lru_cache(maxsize=1)
def _glyphs() -> Array:
    """Ink (characters, 32, 32) in [0, 1] of the sign characters."""
    font = ImageFont.load_default(size=_GLYPH_PX * 1.05)
    out = np.zeros((len(SIGN_CHARACTERS), _GLYPH_PX, _GLYPH_PX), np.float32)
    for index, character in enumerate(SIGN_CHARACTERS):
        picture = Image.new("L", (_GLYPH_PX, _GLYPH_PX), 0)
        ImageDraw.Draw(picture).text(
            (_GLYPH_PX / 2, _GLYPH_PX / 2), character, fill=255, font=font, anchor="mm", stroke_width=1
        )
        out[index] = np.asarray(picture, np.float32) / 255
    return out
