"""From scene samples to tensors: images through the vision tower, branches padded in groups, what is to be learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from sifthinker.policy.boxes import WHOLE, Box
from sifthinker.training.scratch.labels import Part
from sifthinker.training.scratch.model import TOKEN_PX
from sifthinker.training.scratch.packing import Blocks, Branches, encode_batch, encode_images
from sifthinker.training.scratch.samples import Branch, SampleMaker, SceneSample
from sifthinker.training.scratch.targets import CellTargets, cell_targets

KINDS = ("ground", "verdict", "direct", "internal", "tools")


@dataclass
class Images:
    """The vision tokens of a batch.

    Attributes:
        tokens: (T, D) merged tokens of each image.
        order: for each scene the indices of its RGB, its depth and its crops.
        targets: what the auxiliary head should read from each image, in the order of `order`.
        objects: for each scene the object (T,) at each token of its RGB, -1 where there is none.
    """

    tokens: list[Tensor]
    order: list[list[int]]
    targets: list[CellTargets]
    objects: list[np.ndarray]

    def in_order(self) -> Tensor:
        """All tokens (ΣT, D) in the order of the targets."""
        return torch.cat([self.tokens[index] for indices in self.order for index in indices])


@dataclass
class Learnt:
    """The places of a batch that are learnt: states (T, D) that predict `targets` (T,), weights (T,), and for each
    the kind of its branch and the part of it that it belongs to."""

    states: Tensor
    targets: Tensor
    weights: Tensor
    kinds: list[str]
    parts: list[Part]


def pixels(picture: np.ndarray) -> Tensor:
    """(h, w, 3) uint8 to (3, h, w) in [-1, 1], as the image processor does."""
    return torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32)) / 127.5 - 1.0


def encode(visual: Qwen3VLVisionModel, samples: Sequence[SceneSample], blocks: Blocks | None = None) -> Images:
    """All images of the samples through the vision tower, by `blocks` (see `packing`)."""
    rgb = encode_batch(visual, torch.stack([pixels(s.rgb) for s in samples]), blocks)
    depth = encode_batch(visual, torch.stack([pixels(s.depth) for s in samples]), blocks)
    crops = [_crops(sample) for sample in samples]
    tokens = encode_images(visual, [pixels(crop) for some in crops for crop, _ in some], blocks)
    order, targets, objects, at = [], [], [], 2 * len(samples)
    for row, (sample, some) in enumerate(zip(samples, crops, strict=True)):
        order.append([row, len(samples) + row, *range(at, at + len(some))])
        at += len(some)
        for picture, part in ((sample.rgb, WHOLE), (sample.depth, WHOLE), *some):
            rows, cols = picture.shape[0] // TOKEN_PX, picture.shape[1] // TOKEN_PX
            targets.append(cell_targets(sample.view, rows, cols, part))
        objects.append(targets[-2 - len(some)].object)
    return Images([*rgb.unbind(0), *depth.unbind(0), *tokens], order, targets, objects)


def _crops(sample: SceneSample) -> list[tuple[np.ndarray, Box]]:
    """All crops of a scene with what they show: the branches' own in their order, then the further ones."""
    own = [pair for branch in sample.branches for pair in zip(branch.crops, branch.crop_boxes, strict=True)]
    return own + sample.sign_crops


def collate(
    maker: SampleMaker, samples: Sequence[SceneSample], order: Sequence[Sequence[int]]
) -> tuple[Branches, list[Branches], list[list[Branch]]]:
    """The common prefix, the branches in groups of about one length, and the branches of each group."""
    count = len(samples)
    prefix = Branches(
        ids=torch.tensor(maker.prefix_ids).expand(count, -1),
        positions=torch.from_numpy(maker.prefix_positions)[:, None].expand(-1, count, -1),
        owner=torch.arange(count),
        images=[i for indices in order for i in indices[:2]],
    )
    rows: dict[str, list[tuple[int, Branch, list[int]]]] = {kind: [] for kind in KINDS}
    for row, (sample, indices) in enumerate(zip(samples, order, strict=True)):
        at = 2
        for branch in sample.branches:
            rows[branch.kind].append((row, branch, list(indices[at : at + len(branch.crops)])))
            at += len(branch.crops)
    groups, members = [], []
    for some in rows.values():
        some.sort(key=lambda r: len(r[1].ids))
        for part in (some[: len(some) // 2], some[len(some) // 2 :]):  # halves by length: less padding
            if part:
                groups.append(_pad(part, int(maker.tokenizer.pad_token_id)))
                members.append([branch for _, branch, _ in part])
    return prefix, groups, members


def _pad(rows: Sequence[tuple[int, Branch, list[int]]], pad: int) -> Branches:
    length = max(len(branch.ids) for _, branch, _ in rows)
    ids = torch.full((len(rows), length), pad)
    positions = torch.zeros(3, len(rows), length, dtype=torch.long)
    for i, (_, branch, _) in enumerate(rows):
        ids[i, : len(branch.ids)] = torch.tensor(branch.ids)
        positions[:, i, : len(branch.ids)] = torch.from_numpy(branch.positions)
    return Branches(ids, positions, torch.tensor([r for r, _, _ in rows]), [i for _, _, im in rows for i in im])


def pointing(
    maker: SampleMaker,
    attention: Sequence[Sequence[Tensor]],
    groups: Sequence[Branches],
    members: Sequence[Sequence[Branch]],
    objects: Sequence[np.ndarray],
) -> Tensor:
    """How badly attention points at what is told of: the mean of -log of its share that lies on the object's tokens.

    A number of a box is said at the token before it; that is where the model should look at the object in the image. To
    be found by the number's own loss alone, such a look must first be there.

    Args:
        maker: of the samples; it knows where in the prefix the RGB image is.
        attention: of each group, (N, L, prefix + L) of each watched head.
        groups, members: the batch, as `collate` gives it.
        objects: of each scene, see `Images`.
    """
    start = maker.prefix_ids.index(maker.image_id)
    losses: list[Tensor] = []
    for weights, group, branches in zip(attention, groups, members, strict=True):
        rows: list[int] = []
        places: list[int] = []
        cells: list[np.ndarray] = []
        for row, branch in enumerate(branches):
            seen = objects[int(group.owner[row])]
            for place, told in enumerate(branch.objects):
                if told >= 0 and branch.weights[place] > 0 and (here := seen == told).any():
                    rows.append(row)
                    places.append(place - 1)
                    cells.append(here)
        if rows:
            on = torch.from_numpy(np.stack(cells))
            for head in weights:
                looks = head[torch.tensor(rows), torch.tensor(places), start : start + on.shape[1]].float()
                losses.append(-((looks * on).sum(1) + 1e-4).log())
    return torch.cat(losses).mean() if losses else torch.zeros(())


def learnt(hidden: Sequence[Tensor], members: Sequence[Sequence[Branch]]) -> Learnt:
    """Picks from the hidden states (N, L, D) of each group those that predict a learnt token."""
    states: list[Tensor] = []
    targets: list[int] = []
    weights: list[float] = []
    kinds: list[str] = []
    parts: list[Part] = []
    for group, branches in zip(hidden, members, strict=True):
        for row, branch in enumerate(branches):
            at = [i for i, weight in enumerate(branch.weights) if weight > 0]
            states.append(group[row, torch.tensor(at) - 1])
            targets += [branch.ids[i] for i in at]
            weights += [branch.weights[i] for i in at]
            kinds += [branch.kind] * len(at)
            parts += [branch.parts[i] for i in at]
    return Learnt(torch.cat(states), torch.tensor(targets), torch.tensor(weights), kinds, parts)
