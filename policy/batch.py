"""The KV caches of the turns that are being decoded together: a row each, in one buffer a layer.

A turn that begins or ends costs its own row. Rows begin at the first place and are as long as they are: what stands
behind them is masked, and each new token is written where its own row ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, DynamicLayer

from sifthinker.policy.kv_cache import Layers


class Batch:
    """Rows of keys and values. Turns are known by their row.

    Args:
        layers: of the model.
    """

    def __init__(self, layers: int) -> None:
        self._layers = [_RowsLayer() for _ in range(layers)]
        self._lengths: list[int] = []
        self.cache = Cache(layers=self._layers)
        """As the model takes it, after `begin`."""

    def __len__(self) -> int:
        return len(self._lengths)

    def join(self, caches: Sequence[Layers]) -> None:
        """Copy keys and values of conversations, (1, heads, length, width) each, into new last rows."""
        lengths = [layers[0][0].shape[2] for layers in caches]
        rows, longest = len(self) + len(caches), max([*self._lengths, *lengths])
        for index, layer in enumerate(self._layers):
            layer.reserve(rows, longest + 1, like=caches[0][index][0])
            for row, layers in enumerate(caches, len(self)):
                layer.write(row, *layers[index])
        self._lengths += lengths

    def reserve(self, rows: int, places: int) -> None:
        """Have room for so many rows of so many places. Where that fails the rows are as they were."""
        for layer in self._layers:
            layer.reserve(rows, places)

    def reserve_one(self) -> None:
        """Have room for a token more in each row, as `reserve`."""
        self.reserve(len(self), max(self._lengths) + 1)

    def row(self, row: int) -> Layers:
        """The keys and values of a row, as views."""
        return [layer.row(row, self._lengths[row]) for layer in self._layers]

    def leave(self, row: int) -> None:
        """Give a row up. The last one takes its place."""
        last = len(self) - 1
        if row != last:
            for layer, (keys, values) in zip(self._layers, self.row(last), strict=True):
                layer.write(row, keys, values)
            self._lengths[row] = self._lengths[last]
        self._lengths.pop()

    def begin(self) -> torch.Tensor | None:
        """Make ready for a token more in each row.

        Returns:
            The mask (rows, longest + 1), 1 where something stands then; None for a single row, which needs none.
        """
        rows, longest = len(self), max(self._lengths)
        device = self._layers[0].device
        ends = torch.tensor(self._lengths, device=device)
        numbers = torch.arange(rows, device=device)
        for layer in self._layers:
            layer.reserve(rows, longest + 1)  # without effect where `reserve_one` came first
            layer.begin(numbers, ends, longest)
        self._lengths = [length + 1 for length in self._lengths]
        if rows == 1:
            return None
        return (torch.arange(longest + 1, device=device) <= ends[:, None]).long()


class _RowsLayer(DynamicLayer):
    """One layer of a batch. `keys` and `values` are what stood in it before the step, as views."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None  # (rows, heads, places, width) each

    def reserve(self, rows: int, places: int, *, like: torch.Tensor | None = None) -> None:
        """Have room for so many rows of so many places; for half as much again of either where it has to be made."""
        if self._buffers is None:
            assert like is not None
            self.lazy_initialization(like, like)
            self._buffers = (like[:, :, :0], like[:, :, :0])
            had_rows = had_places = 0
        else:
            had_rows, had_places = self._buffers[0].shape[0], self._buffers[0].shape[2]
        if rows <= had_rows and places <= had_places:
            return
        rows = max(rows, had_rows + had_rows // 2) if rows > had_rows else had_rows
        places = places + max(places // 2, 64) if places > had_places else had_places
        made = []
        for old in self._buffers:
            new = old.new_zeros(rows, old.shape[1], places, old.shape[3])  # what is masked must be a number
            new[:had_rows, :, :had_places] = old[:had_rows]
            made.append(new)
        self._buffers = (made[0], made[1])

    def write(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Fill a row from its first place on."""
        for buffer, tensor in zip(self._both, (keys, values), strict=True):
            buffer[row, :, : tensor.shape[2]] = tensor[0]

    def row(self, row: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A row's (1, heads, length, width) keys and values, as views."""
        keys, values = self._both
        return keys[row : row + 1, :, :length], values[row : row + 1, :, :length]

    def begin(self, rows: torch.Tensor, ends: torch.Tensor, longest: int) -> None:
        """Know where each row ends, and how long the longest is."""
        keys, values = self._both
        self._rows, self._ends, self._longest = rows.to(self.device), ends.to(self.device), longest
        self.keys, self.values = keys[: len(rows), :, :longest], values[: len(rows), :, :longest]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add (rows, heads, 1, width) keys and values, each where its row ends; all of them so far."""
        keys, values = self._both
        if len(self._rows) == 1:
            keys[0, :, self._longest], values[0, :, self._longest] = key_states[0, :, 0], value_states[0, :, 0]
        else:
            keys[self._rows, :, self._ends] = key_states[:, :, 0]
            values[self._rows, :, self._ends] = value_states[:, :, 0]
        together = slice(0, len(self._rows)), slice(None), slice(0, self._longest + 1)
        self.keys, self.values = keys[together], values[together]
        return self.keys, self.values

    @property
    def _both(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._buffers is not None
        return self._buffers
