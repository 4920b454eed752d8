"""Prefill: what the prefix cache does not have of a conversation is encoded, several conversations in one forward pass.

A pass over a short turn costs little more for eight conversations than for one. The conversations of a pass stand in it
so, each a row, with what is known of it before what is new, and nothing between the two:

    padding  known  new  padding

Padding is masked. What is new never sees the padding behind it, and padding never stands alone, which would give
numbers that are none.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from sifthinker.policy.errors import PolicyError
from sifthinker.policy.job import Job
from sifthinker.policy.kv_cache import Layers, PrefixCache, cache_argument, cache_of, joined

PASS_TOKENS = 4096
"""New tokens of a shared pass at most, padding counted: beyond that a pass is busy enough, and memory is dear."""

_SHORT = 64  # new tokens: among so short ones padding costs nothing
_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)  # of a model, on a conversation


@dataclass(eq=False)
class _Opened:
    """A conversation of which the cache has been asked."""

    job: Job
    known: int
    """Places that are not encoded again."""
    layers: Layers
    """Of these."""
    ids: torch.Tensor
    """(1, new)."""
    positions: torch.Tensor | None
    """(3, 1, new), for patch families."""
    vision: dict[str, torch.Tensor]

    @property
    def new(self) -> int:
        """Tokens to be encoded."""
        return self.ids.shape[1]


class Prefill:
    """Encodes conversations on one model.

    Args:
        model: a transformers image-text-to-text model in eval mode.
        cache: the prefix cache.
        together: whether conversations may share a pass. They then do where the model can be told their positions.
    """

    def __init__(self, model: Any, cache: PrefixCache, *, together: bool) -> None:
        self.model = model
        self.cache = cache
        self._core = getattr(model, "model", model)
        self.patch_family = hasattr(self._core, "get_rope_index")
        kinds = [type(layer) for layer in DynamicCache(config=model.config).layers]
        self._layers = len(kinds)
        self.plain = set(kinds) == {DynamicLayer}
        """Whether keys and values are all that the model remembers."""
        self._together = together and self.plain and self.patch_family
        self._few_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._cached = cache_argument(model)

    def run(self, jobs: Sequence[Job]) -> list[tuple[list[Job], torch.Tensor]]:
        """Encode conversations up to where their turns begin.

        Each gets its cache, its length, and what it took; one on which the model fails, its error; one for which there
        is no memory, only what it would fail with (`Job.short`).

        Returns:
            Those of each pass, with the logits of their first tokens, (B, V).
        """
        opened = [one for job in jobs if (one := self._open(job)) is not None]
        groups = _groups(opened) if self._together else [[one] for one in opened]
        return [encoded for group in groups for encoded in self._encode(group)]

    def _open(self, job: Job) -> _Opened | None:
        try:
            known, layers = self._known_prefix(job)
            return self._opened(job, known, layers)
        except _FAILURES as error:
            if not (len(self.cache) and isinstance(error, torch.OutOfMemoryError)):
                _fail(job, error)
                return None
        self.cache.clear()
        return self._open(job)

    def _encode(self, group: list[_Opened]) -> list[tuple[list[Job], torch.Tensor]]:
        try:
            logits = self._shared(group) if len(group) > 1 else self._alone(group[0])
        except _FAILURES as error:
            if len(group) == 1 and not (len(self.cache) and isinstance(error, torch.OutOfMemoryError)):
                _fail(group[0].job, error)
                return []
        else:
            for one in group:
                one.job.turn.cached_tokens = one.known
                one.job.length = len(one.job.encoded.keys)
            return [([one.job for one in group], logits)]
        # Tried again out here: in there the error holds all that the model had made so far.
        if len(group) > 1:  # one of them is at fault, or there is no memory for all: each for itself
            return [encoded for one in group for encoded in self._encode([one])]
        self.cache.clear()
        return self._encode(group)

    def _alone(self, one: _Opened) -> torch.Tensor:
        """One conversation, by itself: the simple version of `_shared`."""
        cache = cache_of(one.layers, self._layers) if self.plain else DynamicCache(config=self.model.config)
        inputs: dict[str, Any] = {
            "input_ids": one.ids,
            **one.vision,
            **({"logits_to_keep": 1} if self._few_logits else {}),
        }
        if one.positions is not None:
            inputs["position_ids"] = one.positions
        logits: torch.Tensor = self.model(**inputs, **{self._cached: cache}, use_cache=True).logits[:, -1]
        if self.plain:
            one.job.layers = [(layer.keys, layer.values) for layer in cache.layers]
        else:
            one.job.whole = cache
        return logits

    def _shared(self, group: list[_Opened]) -> torch.Tensor:
        """Several conversations in one pass, as the head of this file draws it."""
        past, width = max(one.known for one in group), max(one.new for one in group)
        device = group[0].ids.device
        mask = torch.zeros(len(group), past + width, dtype=torch.long, device=device)
        for row, one in enumerate(group):
            mask[row, past - one.known : past + one.new] = 1
        names = {name for one in group for name in one.vision}
        inputs: dict[str, Any] = {
            name: torch.cat([one.vision[name] for one in group if name in one.vision]) for name in names
        }
        ends = sorted({one.new - 1 for one in group})
        if self._few_logits:
            inputs["logits_to_keep"] = torch.tensor(ends, device=device)
        cache = _joined(group, room=width) if past else cache_of([], self._layers)
        logits = self.model(
            input_ids=torch.cat([_padded(one.ids, width, int(one.ids[0, -1])) for one in group]),
            attention_mask=mask,
            position_ids=torch.cat([_padded(one.positions, width, 0) for one in group if one.positions is not None], 1),
            **{self._cached: cache},
            use_cache=True,
            **inputs,
        ).logits  # (B, ends, V)
        for row, one in enumerate(group):
            places = slice(past - one.known, past + one.new)
            one.job.layers = [
                (layer.keys[row : row + 1, :, places], layer.values[row : row + 1, :, places]) for layer in cache.layers
            ]
        at = [ends.index(one.new - 1) if self._few_logits else one.new - 1 for one in group]
        last: torch.Tensor = logits[torch.arange(len(group), device=device), torch.tensor(at, device=device)]
        return last

    def _known_prefix(self, job: Job) -> tuple[int, Layers]:
        if not self.plain:
            return 0, []
        keys = job.encoded.keys
        length, layers = self.cache.match(keys)
        length = min(length, len(keys) - 1)  # the last place must be seen again: its logits are wanted
        if not self.patch_family and bool((keys[length:] < 0).any()):
            return 0, []  # only patch families can be given some of their images
        return length, [(k[:, :, :length], v[:, :, :length]) for k, v in layers] if length else []

    def _opened(self, job: Job, known: int, layers: Layers) -> _Opened:
        """What the model is called with, from the place `known` on."""
        encoded, device = job.encoded, self.model.device
        positions = None
        if self.patch_family:
            grids = [pixels["image_grid_thw"] for pixels in encoded.pixels]
            known_to_model = inspect.signature(self._core.get_rope_index).parameters
            wanted = {"mm_token_type_ids": encoded.vision.get("mm_token_type_ids")}
            every, delta = self._core.get_rope_index(
                encoded.input_ids,
                image_grid_thw=torch.cat(grids) if grids else None,
                **{name: value for name, value in wanted.items() if name in known_to_model},
            )  # (3, 1, L), (1, 1)
            job.rope_delta = int(delta)
            positions = every[:, :, known:].to(device)
            new = [pixels for pixels, start in zip(encoded.pixels, encoded.image_starts, strict=True) if start >= known]
            job.turn.images = len(new)
            vision = {name: torch.cat([pixels[name] for pixels in new]) for name in (new[0] if new else ())}
        else:
            job.turn.images = 0 if known else encoded.images
            vision = {} if known else encoded.vision
        return _Opened(
            job,
            known,
            layers,
            encoded.input_ids[:, known:].to(device),
            positions,
            {
                name: tensor.to(device, self.model.dtype if tensor.is_floating_point() else None)
                for name, tensor in vision.items()
            },
        )


def _groups(opened: Sequence[_Opened]) -> list[list[_Opened]]:
    """Those of like length together, so that little is padding, as many as a pass takes."""
    groups: list[list[_Opened]] = []
    for one in sorted(opened, key=lambda one: one.new, reverse=True):
        longest = groups[-1][0].new if groups else 0
        alike = longest <= max(_SHORT, 2 * one.new)
        if groups and alike and (len(groups[-1]) + 1) * longest <= PASS_TOKENS:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _joined(group: Sequence[_Opened], *, room: int) -> Any:
    """What is known of each conversation, as one cache with room for so many places more."""
    some = next(one.layers for one in group if one.layers)
    nothing = [(k[:, :, :0], v[:, :, :0]) for k, v in some]
    return joined([one.layers or nothing for one in group], [one.known for one in group], room=room)[0]


def _padded(tensor: torch.Tensor, width: int, value: int) -> torch.Tensor:
    return F.pad(tensor, (0, width - tensor.shape[-1]), value=value)


def _fail(job: Job, error: Exception) -> None:
    failed = PolicyError(f"The model failed on this conversation: {error}")
    if isinstance(error, torch.OutOfMemoryError):
        job.short = failed
    else:
        job.error = failed
