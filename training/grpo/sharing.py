"""One prompt, many completions: the prompt (images and question) is computed once for the whole group.

GRPO asks each prompt G times. TRL gives the model every completion with its prompt before it, images and all; here the
prompt's keys and values are computed once and every completion attends to them, at the positions that it would have if
it were alone. Each gets what the plain model gives (tested); gradients flow through the shared part. Completions are
laid end to end, so that none is padded to the longest.

It works on the weights and modules of Qwen's vision-language models as transformers defines them (`get_rope_index`,
`language_model`), and replaces their attention for the completions only (see `attention`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sifthinker.policy.kv_cache import cache_argument
from sifthinker.training.grpo.attention import Prefix, Rows, own_attention


@dataclass
class Prompts:
    """Distinct prompts, padded on the left.

    Attributes:
        ids: (N, P) token ids.
        mask: (N, P) 1 where something stands.
        kinds: (N, P) 1 where an image stands (`mm_token_type_ids`).
        vision: `pixel_values` and `image_grid_thw` of their images in order; empty without images.
    """

    ids: Tensor
    mask: Tensor
    kinds: Tensor
    vision: dict[str, Tensor]


@dataclass
class Completions:
    """What the backbone is called with, besides the tokens, to compute completions on shared prompts."""

    prompts: Prompts
    rows: Rows


def can_share(model: Any) -> bool:
    """Whether a model is of a family whose prompts can be shared: Qwen2-VL and its heirs, with plain attention."""
    core = getattr(model, "model", None)
    text = getattr(core, "language_model", None)
    if core is None or text is None or not hasattr(core, "get_rope_index"):
        return False
    kinds = set(getattr(text.config, "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"}


def encode_prompts(core: Any, prompts: Prompts) -> Prefix:
    """Compute prompts with the plain model and keep what completions need.

    Args:
        core: the backbone (`Qwen3VLModel` or its like).
    """
    from transformers import DynamicCache

    positions, delta = rope_index(core, prompts)  # (3, N, P), (N, 1)
    cache = DynamicCache(config=core.config)
    forward = getattr(core, "unshared_forward", core.forward)
    out = forward(
        input_ids=prompts.ids,
        attention_mask=prompts.mask,
        position_ids=positions,
        **{cache_argument(forward): cache},
        use_cache=True,
        **prompts.vision,
    )
    padded = not bool(prompts.mask.all())
    hidden = out.last_hidden_state
    least = torch.finfo(hidden.dtype).min / 2
    mask = ((1 - prompts.mask[:, None, None, :]).to(hidden.dtype) * least) if padded else None
    return Prefix(
        [(layer.keys.to(layer.values.dtype), layer.values) for layer in cache.layers],
        hidden[:, -1],
        prompts.mask.sum(1) + delta[:, 0].to(prompts.mask.device),
        mask,
    )


def rope_index(core: Any, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Rotary positions (3, N, P) of prompts, and how far they are from the places, (N, 1)."""
    wanted = {"mm_token_type_ids": prompts.kinds, "attention_mask": prompts.mask}
    known = inspect.signature(core.get_rope_index).parameters
    positions, delta = core.get_rope_index(
        prompts.ids,
        image_grid_thw=prompts.vision.get("image_grid_thw"),
        **{name: value for name, value in wanted.items() if name in known},
    )
    return positions, delta


def complete(core: Any, prefix: Prefix, rows: Rows, ids: Tensor, cache: Any = None, place: int = 0) -> Tensor:
    """Final states (as `ids`, D) of completions' tokens.

    Args:
        core: the backbone.
        prefix: of their prompts.
        rows: how they belong to them.
        ids: (1, T) tokens laid end to end, or (B, 1), the next token of each.
        cache: of the completions' own keys and values where they come token by token; see `kv_cache.GrowingLayer`.
        place: of the next token in its completion, where they come so.
    """
    text = core.language_model
    if rows.places is not None:
        positions = prefix.position[rows.owner[rows.places[0]]] + rows.places[1]  # (T,)
        positions = positions[None]
    else:
        positions = (prefix.position[rows.owner] + place)[:, None]  # (B, 1)
    with own_attention(text.config):
        out = text(
            inputs_embeds=text.embed_tokens(ids),
            position_ids=positions.expand(3, *positions.shape),
            **{cache_argument(text): cache},
            use_cache=False,
            prefix=prefix,
            rows=rows,
        )
    return out.last_hidden_state


def shared_states(core: Any, ids: Tensor, completions: Completions) -> Tensor:
    """States (1, T, D) that predict the tokens (1, T) of completions laid end to end, prompts computed once."""
    prefix = encode_prompts(core, completions.prompts)
    rows = completions.rows
    assert rows.places is not None
    states = complete(core, prefix, rows, ids)[0]  # (T, D)
    first = rows.places[1] == 0
    before = torch.cat([states[:1], states[:-1]])  # a token is predicted by the place before it …
    opening = prefix.hidden[rows.owner[rows.places[0]]].to(states.dtype)  # … the first one by the prompt's last
    return torch.where(first[:, None], opening, before)[None]


def install(model: Any) -> None:
    """Let a model's backbone take `completions=`: then it returns the states that predict them.

    Called through the model as a whole, so whatever is wrapped around it (DDP, PEFT, mixed precision) does its work.

    Args:
        model: the model itself, without adapters around it.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPast

    core = model.model
    if hasattr(core, "unshared_forward"):
        return
    plain = core.forward

    def forward(*args: Any, completions: Completions | None = None, **kwargs: Any) -> Any:
        if completions is None:
            return plain(*args, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=shared_states(core, kwargs["input_ids"], completions))

    core.unshared_forward = plain
    core.forward = forward


def distinct(
    ids: Tensor, mask: Tensor, owner: Tensor, vision: Mapping[str, Tensor | None], images: list[int] | None
) -> Prompts:
    """The distinct ones among repeated prompts.

    Args:
        ids, mask: (B, P), padded on the left.
        owner: (B,) which are the same: 0 … N - 1, each at least once.
        vision: `pixel_values` (rows of all images), `image_grid_thw` (images, 3), `mm_token_type_ids` (B, at least P).
        images: of each row how many.
    """
    count = int(owner.max()) + 1
    rows = torch.arange(len(owner), device=owner.device)
    first = rows.new_full((count,), len(owner)).scatter_reduce(0, owner, rows, "amin")
    ids, mask = ids[first], mask[first]
    used = mask.any(0).int().argmax()  # places that all of them leave empty
    kinds = vision.get("mm_token_type_ids")
    found: dict[str, Tensor] = {}
    pixels, grids = vision.get("pixel_values"), vision.get("image_grid_thw")
    if pixels is not None and grids is not None and images is not None:
        starts = [0]
        for number in images:
            starts.append(starts[-1] + number)
        ends = [0, *grids.prod(-1).cumsum(0).tolist()]
        wanted = first.tolist()
        found["image_grid_thw"] = torch.cat([grids[starts[i] : starts[i + 1]] for i in wanted])
        found["pixel_values"] = torch.cat([pixels[ends[starts[i]] : ends[starts[i + 1]]] for i in wanted])
    kinds = torch.zeros_like(ids) if kinds is None else kinds[first, : mask.shape[1]]
    return Prompts(ids[:, used:], mask[:, used:], kinds[:, used:], found)
