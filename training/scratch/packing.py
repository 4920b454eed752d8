"""The forward pass for many questions about one image: images and prefix once, each question as a branch.

A branch sees the prefix (both images) and itself, never another branch, and stands at the positions that it would have
if it were alone, so each gives what the plain model gives for prefix + branch (tested); only the work is shared. Images
of one size go through the vision tower as a batch.

The computation follows Qwen3-VL as transformers defines it and uses its weights and modules in place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextDecoderLayer,
    Qwen3VLVisionBlock,
    Qwen3VLVisionModel,
    apply_rotary_pos_emb,
    apply_rotary_pos_emb_vision,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)


@dataclass
class Branches:
    """Questions of about one length, padded on the right.

    Attributes:
        ids: (N, L) token ids.
        positions: (3, N, L) rotary positions (time, row, column).
        owner: (N,) the row of the prefix that each belongs to.
        images: index of each crop among the batch's images, in the order of their places in `ids`.
    """

    ids: Tensor
    positions: Tensor
    owner: Tensor
    images: list[int]


@dataclass(frozen=True)
class Blocks:
    """The two functions that nearly all time goes into: `text_layer` and `vision_block`, or what computes the same."""

    text: Callable[..., tuple[Tensor, tuple[Tensor, Tensor], Tensor]]
    vision: Callable[..., Tensor]


def encode_images(visual: Qwen3VLVisionModel, images: Sequence[Tensor], blocks: Blocks | None = None) -> list[Tensor]:
    """Merged vision tokens (h·w, D) of each image (3, H, W), values in [-1, 1], edges multiples of a token."""
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        by_size[image.shape[1], image.shape[2]].append(index)
    out: list[Tensor] = [torch.empty(0)] * len(images)
    for indices in by_size.values():
        tokens = encode_batch(visual, torch.stack([images[i] for i in indices]), blocks)
        for row, index in enumerate(indices):
            out[index] = tokens[row]
    return out


def encode_batch(visual: Qwen3VLVisionModel, pixels: Tensor, blocks: Blocks | None = None) -> Tensor:
    """(N, 3, H, W) images of one size to (N, h·w, D) merged tokens, each row in raster order."""
    blocks = blocks or PLAIN
    number, _, height, width = pixels.shape
    patch, merge = visual.config.patch_size, visual.config.spatial_merge_size
    rows, cols = height // patch, width // patch
    grid = torch.tensor([[1, rows, cols]])
    # patches in the order of the merge blocks: (N, rows/m, cols/m, m, m, 3, p, p)
    x = pixels.view(number, 3, rows // merge, merge, patch, cols // merge, merge, patch)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(number, rows * cols, 3 * patch * patch)
    kernel = visual.patch_embed.proj.weight.sum(2).flatten(1)  # a still image: both frames are the same
    x = F.linear(x, kernel, visual.patch_embed.proj.bias)
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=visual.num_grid_per_side,
        mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners,
        spatial_merge_size=merge,
    )
    x = x + (visual.pos_embed(indices) * weights[:, :, None]).sum(1)
    cos, sin = visual.rotary_pos_emb(x, get_vision_position_ids(grid, merge))
    for block in visual.blocks:
        x = blocks.vision(block, x, cos, sin)
    merger = visual.merger
    x = merger.norm(x).view(number, -1, merger.hidden_size)
    return merger.linear_fc2(merger.act_fn(merger.linear_fc1(x)))


def vision_block(block: Qwen3VLVisionBlock, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """States (N, L, D) after a block of the vision tower."""
    number, length, width = x.shape
    attn = block.attn
    q, k, v = attn.qkv(block.norm1(x)).view(number, length, 3, attn.num_heads, -1).unbind(2)
    q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)  # (N, L, heads, d)
    out, _ = _attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn.scaling, None)
    x = x + attn.proj(out.transpose(1, 2).reshape(number, length, width))
    return x + block.mlp(block.norm2(x))


def _attention(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention written out, and its weights: in bfloat16 on a CPU its backward pass takes a third of the fused
    kernel's time."""
    with torch.autocast("cpu", enabled=False):
        scores = (q * scale) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores + mask.to(scores.dtype)
        weights = torch.softmax(scores, dim=-1)
        return weights @ v, weights


def forward(
    model: Qwen3VLForConditionalGeneration,
    prefix: Branches,
    branches: Sequence[Branches],
    image_tokens: Sequence[Tensor],
    watched: Sequence[tuple[int, int]] = (),
    blocks: Blocks | None = None,
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Final hidden states (N, L, D) of each group of branches; `lm_head` makes logits of them.

    Args:
        prefix: one row a scene, all of one length; `owner` is not read.
        branches: groups, each padded to a length of its own.
        image_tokens: merged tokens of every image of the batch.
        watched: (layer, head) pairs, in the layers' order, of attention that is wanted, too.
        blocks: what computes a layer; by default `text_layer`.

    Returns:
        the states of each group, and of each group what is watched: attention (N, L, prefix + L) of each pair.
    """
    blocks = blocks or PLAIN
    text = model.model.language_model
    groups = [prefix, *branches]
    hidden = [_embed(model, group, image_tokens) for group in groups]
    rotary: list[tuple[Tensor, Tensor]] = [text.rotary_emb(h, g.positions) for h, g in zip(hidden, groups, strict=True)]
    length = prefix.ids.shape[1]
    own = _mask(0, length)
    masks = [_mask(length, group.ids.shape[1]) for group in branches]
    seen: list[list[Tensor]] = [[] for _ in branches]
    for number, layer in enumerate(text.layers):
        first, past, _ = blocks.text(layer, hidden[0], rotary[0], None, None, own)
        heads = [head for at, head in watched if at == number]
        rest = []
        for index, (h, at, group, mask) in enumerate(zip(hidden[1:], rotary[1:], branches, masks, strict=True)):
            out, _, attention = blocks.text(layer, h, at, past, group.owner, mask)
            rest.append(out)
            seen[index] += [attention[:, head] for head in heads]
        hidden = [first, *rest]
    return [text.norm(h) for h in hidden[1:]], seen


def _embed(model: Qwen3VLForConditionalGeneration, group: Branches, image_tokens: Sequence[Tensor]) -> Tensor:
    embeds = model.model.language_model.embed_tokens(group.ids)
    if group.images:
        mask = (group.ids == model.config.image_token_id)[..., None].expand_as(embeds)
        tokens = torch.cat([image_tokens[i] for i in group.images]).to(embeds.dtype)
        embeds = embeds.masked_scatter(mask, tokens)
    return embeds


def _mask(prefix_length: int, length: int) -> Tensor:
    """(1, 1, L, prefix + L), added to the scores: all of the prefix is seen, and of the branch what came before."""
    own = torch.full((length, length), -1e4).triu(1)
    return torch.cat([torch.zeros(length, prefix_length), own], dim=1)[None, None]


def text_layer(
    layer: Qwen3VLTextDecoderLayer,
    x: Tensor,
    rotary: tuple[Tensor, Tensor],
    past: tuple[Tensor, Tensor] | None,
    owner: Tensor | None,
    mask: Tensor,
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Hidden states, keys and values, and the attention (N, heads, L, past + L)."""
    attn = layer.self_attn
    number, length, _ = x.shape
    shape = (number, length, -1, attn.head_dim)
    normed = layer.input_layernorm(x)
    q = attn.q_norm(attn.q_proj(normed).view(shape)).transpose(1, 2)
    k = attn.k_norm(attn.k_proj(normed).view(shape)).transpose(1, 2)
    v = attn.v_proj(normed).view(shape).transpose(1, 2)
    q, k = apply_rotary_pos_emb(q, k, *rotary)
    q, k = q.to(v.dtype), k.to(v.dtype)
    own = (k, v)
    if past is not None and owner is not None:
        k = torch.cat([past[0][owner], k], dim=2)
        v = torch.cat([past[1][owner], v], dim=2)
    out, weights = _attention(q, k, v, attn.scaling, mask)
    x = x + attn.o_proj(out.transpose(1, 2).reshape(number, length, -1))
    return x + layer.mlp(layer.post_attention_layernorm(x)), own, weights


PLAIN = Blocks(text_layer, vision_block)
