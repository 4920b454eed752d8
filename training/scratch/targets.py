"""The dense auxiliary head: what each merged vision token should know about the place it covers.

Thrown away after training. It teaches the vision tower colour, shape, box, depth and sign of the object at each token,
which next-token loss alone does not find on a small budget. Box and depth it must also tell in the language model's own
embeddings of numbers, by one linear map each: what an attention head copies of a token is linear, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sifthinker.policy.boxes import WHOLE, Box
from sifthinker.training.scratch.losses import divergence
from sifthinker.training.world.questions import SceneView
from sifthinker.training.world.scene import COLORS, SHAPES, SIGN_CHARACTERS
from sifthinker.training.world.traces import mean_depth

_COLOR = {name: index for index, name in enumerate(COLORS)}
_SHAPE = {name: index for index, name in enumerate(SHAPES)}
_NUMBERS = 5
"""Told in the language model's embeddings: a box's edges and its mean depth."""
_SIZES = (1, len(COLORS), len(SHAPES), 4, 1, len(SIGN_CHARACTERS), 1, 4)


@dataclass
class CellTargets:
    """For each token of an image, in raster order: (T,) longs, -1 where there is nothing (`object`: its index in the
    scene); boxes (T, 4) in the image's own coordinates; depth (T,) at the token and mean depth (T,) in the box of its
    object; sign boxes (T, 4) where the object shows a sign, NaN elsewhere."""

    object: np.ndarray
    color: np.ndarray
    shape: np.ndarray
    sign: np.ndarray
    boxes: np.ndarray
    depth: np.ndarray
    box_depth: np.ndarray
    sign_boxes: np.ndarray


def cell_targets(view: SceneView, rows: int, cols: int, part: Box = WHOLE) -> CellTargets:
    """Targets for the tokens of an image that shows `part` of the scene."""
    render, size = view.render, len(view.render.ids)
    width, height = part[2] - part[0], part[3] - part[1]
    x = part[0] + (np.arange(cols) + 0.5) / cols * width
    y = part[1] + (np.arange(rows) + 0.5) / rows * height
    px = np.clip((x * size).astype(int), 0, size - 1)
    py = np.clip((y * size).astype(int), 0, size - 1)
    ids = render.ids[np.ix_(py, px)].ravel()
    depth = render.depth[np.ix_(py, px)].ravel()
    color = np.full(len(ids), -1)
    shape, sign = color.copy(), color.copy()
    boxes = np.zeros((len(ids), 4), np.float32)
    box_depth = np.zeros(len(ids), np.float32)
    sign_boxes = np.full((len(ids), 4), np.nan, np.float32)
    xs, ys = np.tile(x, rows), np.repeat(y, cols)
    for index, obj in enumerate(view.scene.objects):
        at = ids == index
        color[at], shape[at] = _COLOR[obj.color], _SHAPE[obj.shape]
        box = render.boxes[index]
        if box is not None:
            boxes[at] = _within(box, part)
            box_depth[at] = mean_depth(render.depth, box)
        plate = render.sign_boxes[index]
        if plate is not None and obj.sign is not None:
            sign_boxes[at] = _within(plate, part)
            mx, my = width / cols / 3, height / rows / 3
            on = (xs > plate[0] - mx) & (xs < plate[2] + mx) & (ys > plate[1] - my) & (ys < plate[3] + my)
            sign[on & at] = SIGN_CHARACTERS.index(obj.sign)
    if part == WHOLE:  # too small to be read there
        sign[:] = -1
    return CellTargets(ids, color, shape, sign, boxes, depth, box_depth, sign_boxes)


def _within(box: Box, part: Box) -> list[float]:
    """The box in the coordinates of a part of the image."""
    width, height = part[2] - part[0], part[3] - part[1]
    return [
        (box[0] - part[0]) / width,
        (box[1] - part[1]) / height,
        (box[2] - part[0]) / width,
        (box[3] - part[1]) / height,
    ]


class CellHead(nn.Module):
    """From a merged token (D) to presence, colour, shape, box, depth, sign, mean depth in the box and sign box."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 256), nn.GELU(), nn.Linear(256, sum(_SIZES)))
        self.norm = nn.RMSNorm(width)
        self.numbers = nn.Linear(width, _NUMBERS * width, bias=False)
        nn.init.normal_(self.numbers.weight, std=width**-0.5)

    def loss(
        self, tokens: Tensor, targets: list[CellTargets], table: Tensor, soft: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of the tokens (T, D) of several images, concatenated in the order of `targets`, and its parts.

        Args:
            tokens, targets: what is seen, and what is there.
            table: (101, D) the language model's embeddings of 0.00 to 1.00.
            soft: (101, 101) for each number the distribution that is to be told, see `Losses`.
        """
        present, color, shape, box, depth, sign, box_depth, sign_box = self.net(tokens).float().split(_SIZES, dim=1)
        want_color = torch.from_numpy(np.concatenate([t.color for t in targets]))
        want_shape = torch.from_numpy(np.concatenate([t.shape for t in targets]))
        want_sign = torch.from_numpy(np.concatenate([t.sign for t in targets]))
        want_box = torch.from_numpy(np.concatenate([t.boxes for t in targets]))
        want_depth = torch.from_numpy(np.concatenate([t.depth for t in targets]))
        want_box_depth = torch.from_numpy(np.concatenate([t.box_depth for t in targets]))
        want_sign_box = torch.from_numpy(np.concatenate([t.sign_boxes for t in targets]))
        signed = (want_sign_box > -0.1).all(1) & (want_sign_box < 1.1).all(1)  # NaN is neither
        on = want_color >= 0
        on_sign = want_sign >= 0
        inside = on & (want_box > -0.3).all(1) & (want_box < 1.3).all(1)  # a crop need not know what lies far outside
        parts = {
            "present": F.binary_cross_entropy_with_logits(present[:, 0], on.float()),
            "color": F.cross_entropy(color[on], want_color[on]),
            "shape": F.cross_entropy(shape[on], want_shape[on]) * 3,  # learnt last
            "box": (box[inside] - want_box[inside]).abs().mean() * 10,
            "depth": (depth[:, 0] - want_depth).abs().mean() * 5,
            "box_depth": (box_depth[on, 0] - want_box_depth[on]).abs().mean() * 10,
        }
        whole = on & (want_box >= 0).all(1) & (want_box <= 1).all(1)
        want = (torch.cat([want_box, want_box_depth[:, None]], dim=1)[whole] * 100).round().long().clamp(0, 100)
        said = (
            self.numbers(self.norm(tokens[whole].float())).view(len(want), _NUMBERS, -1).float() @ table.detach().T * 4
        )
        parts["numbers"] = divergence(said.log_softmax(-1), soft[want]).mean() * 2
        if bool(signed.any()):
            parts["sign_box"] = (sign_box[signed] - want_sign_box[signed]).abs().mean() * 10
        if bool(on_sign.any()):
            parts["sign"] = F.cross_entropy(sign[on_sign], want_sign[on_sign]) * 2
        with torch.no_grad():
            told = {name: float(value) for name, value in parts.items()}
            told["color_right"] = float((color[on].argmax(1) == want_color[on]).float().mean())
            told["shape_right"] = float((shape[on].argmax(1) == want_shape[on]).float().mean())
            told["numbers_right"] = float(((said.argmax(-1) - want).abs() <= 5).float().mean())
            told["box_error"] = told["box"] / 10
            told["depth_error"] = told["depth"] / 5
            told["box_depth_error"] = told["box_depth"] / 10
            if "sign_box" in parts:
                told["sign_box_error"] = told["sign_box"] / 10
            if "sign" in parts:
                told["sign_right"] = float((sign[on_sign].argmax(1) == want_sign[on_sign]).float().mean())
        return torch.stack(list(parts.values())).sum(), told
