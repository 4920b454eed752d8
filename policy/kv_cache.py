"""The prefix cache: what was encoded once is not encoded again, across turns, questions on one image, and branches.

Entries are keyed by the exact sequence of what stands at each place (`Encoded.keys`: token ids, and a digest of the
pixels where an image stands). A lookup takes the longest common prefix with any entry. A miss is only slower.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import Cache, DynamicLayer

logger = logging.getLogger(__name__)

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, (B, heads, L, width) each."""


@dataclass(eq=False)
class _Entry:
    keys: npt.NDArray[np.int64]
    layers: Layers
    bytes: int


class PrefixCache:
    """KV caches of recent conversations, bounded by bytes, the longest unused dropped first. One thread at a
    time may use it, and any may `clear` it meanwhile.

    Args:
        max_bytes: of keys and values kept; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: list[_Entry] = []  # the last used at the end
        self.hits = 0
        self.misses = 0
        self._told = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """Bytes of the keys and values kept."""
        return sum(entry.bytes for entry in self._entries)

    def match(self, keys: npt.NDArray[np.int64]) -> tuple[int, Layers]:
        """The longest prefix of `keys` that is kept: its length, and its keys and values (empty when there is none).

        The tensors are views: they must not be written to.
        """
        best, found = 0, None
        entries = self._entries
        for entry in entries:
            length = _common_prefix(entry.keys, keys)
            if length > best:
                best, found = length, entry
        if found is None:
            self.misses += 1
            return 0, []
        self.hits += 1
        entries.remove(found)
        entries.append(found)
        return best, [(k[:, :, :best], v[:, :, :best]) for k, v in found.layers]

    def keep(self, keys: npt.NDArray[np.int64], layers: Layers) -> None:
        """Keep a conversation's keys and values, (1, heads, L, width) each with L = len(keys).

        Shorter entries that it continues are dropped: it serves for them too.
        """
        if not self.max_bytes:
            return
        size = sum(k.nbytes + v.nbytes for k, v in layers)
        if size > self.max_bytes:
            self._tell(size)
            return
        entries = self._entries
        for entry in list(entries):
            common = _common_prefix(entry.keys, keys)
            if common == len(keys):
                return  # an entry continues it already
            if common == len(entry.keys):
                entries.remove(entry)
        entries.append(_Entry(keys, [(_own(k), _own(v)) for k, v in layers], size))
        while sum(entry.bytes for entry in entries) > self.max_bytes:
            entries.pop(0)

    def clear(self) -> None:
        """Forget everything."""
        self._entries = []  # another list: the engine's thread may be going through this one

    def _tell(self, size: int) -> None:
        """Say once that a conversation is too large: each of its turns is encoded from the beginning."""
        if not self._told:
            self._told = True
            logger.warning(
                "The KV cache of a conversation takes %.1f GB and is not kept for its next turn: at most %.1f GB are. "
                "The option cache_bytes of load_policy raises that.",
                size / 1e9,
                self.max_bytes / 1e9,
            )


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, copied if it is a view: a view into a batch would keep the whole batch alive."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _common_prefix(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> int:
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


class GrowingLayer(DynamicLayer):
    """The KV cache of one layer in a buffer with room to grow: a token is written into it, where transformers' own
    layer copies all that went before. `keys` and `values` are views of what stands in it."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def batch(
        cls, parts: Sequence[tuple[torch.Tensor, torch.Tensor]], lengths: Sequence[int], *, room: int = 0
    ) -> GrowingLayer:
        """A layer of several conversations, padded on the left with zeros; each is copied once, to where it will grow.

        Args:
            parts: keys and values of each, (1, heads, its length, width).
            lengths: of each.
            room: places that will be added at once.
        """
        layer, longest = cls(), max(lengths)
        layer.lazy_initialization(*parts[0])
        buffers = []
        for index in (0, 1):
            tensors = [part[index] for part in parts]
            buffer = _room(tensors[0], len(parts), longest, room)
            for row, (tensor, length) in enumerate(zip(tensors, lengths, strict=True)):
                buffer[row, :, : longest - length] = 0
                buffer[row, :, longest - length : longest] = tensor[0]
            buffers.append(buffer)
        layer._buffers = (buffers[0], buffers[1])
        layer.keys, layer.values = buffers[0][:, :, :longest], buffers[1][:, :, :longest]
        return layer

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add (B, heads, new, width) keys and values; all of them so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        length = before + key_states.shape[-2]
        if self._buffers is None or length > self._buffers[0].shape[-2]:
            self._buffers = (
                _roomier(self.keys, key_states, before, length),
                _roomier(self.values, value_states, before, length),
            )
        keys, values = self._buffers
        keys[:, :, before:length] = key_states
        values[:, :, before:length] = value_states
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]
        return self.keys, self.values


def _room(like: torch.Tensor, batch: int, length: int, more: int = 0) -> torch.Tensor:
    """A buffer for `length` places, and for half as much again, or for `more`."""
    _, heads, _, width = like.shape
    return like.new_empty(batch, heads, length + max(length // 2, 64, more), width)


def _roomier(old: torch.Tensor, new: torch.Tensor, before: int, length: int) -> torch.Tensor:
    """A buffer with room for half as much again, holding the first `before` places of the old one."""
    buffer = _room(new, new.shape[0], length)
    if before:
        buffer[:, :, :before] = old
    return buffer


def cache_argument(model: Any) -> str:
    """The name by which a model takes its KV cache: `cache`, or before transformers 5.24 `past_key_values`.

    Args:
        model: a model, an adapter around one, or a function that stands for its `forward`.
    """
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()  # an adapter's own forward hands on whatever it is given
    names = inspect.signature(getattr(model, "forward", model)).parameters
    return "cache" if "cache" in names and "past_key_values" not in names else "past_key_values"


def cache_of(layers: Layers, count: int) -> Cache:
    """A cache of `count` growing layers that holds copies of `layers` (none: an empty cache)."""
    cache = Cache(layers=[GrowingLayer() for _ in range(count)])
    for index, (keys, values) in enumerate(layers):
        cache.layers[index].update(keys, values)
    return cache


def joined(parts: Sequence[Layers], lengths: Sequence[int], *, room: int = 0) -> tuple[Cache, torch.Tensor]:
    """Caches of several conversations as one batch, padded on the left.

    Args:
        parts: one cache a conversation, batch size 1.
        lengths: how many places each has.
        room: places that will be added at once.

    Returns:
        The cache, of layers (B, heads, max length, width), and the mask (B, max length), 1 where something stands.
    """
    longest = max(lengths)
    mask = torch.zeros(len(parts), longest, dtype=torch.long, device=parts[0][0][0].device)
    for row, length in enumerate(lengths):
        mask[row, longest - length :] = 1
    layers = [GrowingLayer.batch([part[index] for part in parts], lengths, room=room) for index in range(len(parts[0]))]
    return Cache(layers=layers), mask
