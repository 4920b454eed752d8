"""How much memory of a device KV caches may take, where nobody says it."""

from __future__ import annotations

import torch

_LEAST = 1_000_000_000


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a GPU has left, with those that torch keeps for its next tensors; None: it is no CUDA GPU."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def kept_bytes(device: torch.device) -> int:
    """For caches that are kept for later turns: a quarter of what a GPU has left, 1 GB at least and elsewhere."""
    free = free_bytes(device)
    return _LEAST if free is None else max(_LEAST, free // 4)


def decoded_bytes(device: torch.device) -> int | None:
    """For caches of turns that are decoded together: a quarter of what a GPU has left, elsewhere without bound."""
    free = free_bytes(device)
    return None if free is None else free // 4
