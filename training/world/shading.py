"""What colour the surfaces of the block world have: light from one side, soft shadows, mottled ground, signs."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sifthinker.training.world.rays import ground_t, rays_of
from sifthinker.training.world.scene import COLORS, SIGN_CHARACTERS, Scene, SceneObject

Array = np.ndarray

GROUND = -1
"""The id of rays that meet the ground."""
_GLYPH_PX = 32
_TILE_PX = 512
_TILE_UNITS = 16.0


def shade(scene: Scene, rays: Array, t: Array, ids: Array) -> Array:
    """Linear colour (N, 3) of the surfaces that rays (N, 3) meet at planar depth t (N,)."""
    color = np.empty((len(t), 3), np.float32)
    ground = np.flatnonzero(ids == GROUND)
    p = _points(scene, rays[ground], t[ground])
    shade = _ground_light(scene, p, t[ground]) * _texture(scene, p[:, 0], p[:, 2])
    color[ground] = shade[:, None] * np.asarray(scene.ground, np.float32)
    for index in range(len(scene.objects)):
        at = np.flatnonzero(ids == index)
        if len(at):
            color[at], _ = shade_object(scene, index, rays[at], t[at])
    return color


def _dot(a: Array, b: Array) -> Array:
    """(N, 3) · (N, 3) → (N,); written out, since NumPy reduces short rows slowly."""
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def _points(scene: Scene, rays: Array, t: Array) -> Array:
    points = rays * t[..., None]
    points[..., 1] += np.float32(scene.camera.height)
    return points


def shade_object(scene: Scene, index: int, rays: Array, t: Array) -> tuple[Array, Array]:
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


def ground_frame(scene: Scene, rays: Array) -> Array:
    """Colour (H, W, 3) of the whole picture as if it were ground; objects are painted over it.

    Light is worked out on a third of the rows and columns, which soft shadows allow.
    """
    size = len(rays)
    coarse = rays_of(scene, max(size // 3, 1))
    coarse_t = ground_t(scene, coarse)
    points = _points(scene, coarse, coarse_t).reshape(-1, 3)
    light = _ground_light(scene, points, coarse_t.ravel()).reshape(coarse_t.shape).astype(np.float32)
    shade = np.array(Image.fromarray(light).resize((size, size), Image.Resampling.BILINEAR))
    fine_t = ground_t(scene, rays)
    shade *= _texture(scene, rays[..., 0] * fine_t, rays[..., 2] * fine_t)
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


def sign_frame(scene: Scene, obj: SceneObject) -> tuple[Array, Array, Array]:
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
    right, up, out = sign_frame(scene, obj)
    if obj.shape == "cube":
        facing = rel @ out > obj.radius - 1e-3
    else:
        facing = (rel @ out > 0) & (p[:, 1] < obj.height - 1e-3)
    return rel @ right / obj.sign_half, rel @ up / obj.sign_half, facing


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
