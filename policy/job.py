"""A turn on its way through the engine of a local policy."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from sifthinker.policy.base import TokenCallback
from sifthinker.policy.decoding import Turn
from sifthinker.policy.encoding import Encoded
from sifthinker.policy.kv_cache import Layers


@dataclass(eq=False)
class Job:
    """A turn with what it takes to run it."""

    encoded: Encoded
    turn: Turn
    on_token: TokenCallback | None = None
    pieces: deque[str] = field(default_factory=deque)
    """Text not yet handed to `on_token`, which is called in the thread that asked."""
    error: Exception | None = None
    short: Exception | None = None
    """What it fails with if it is alone: there was no memory to encode it."""
    ended: bool = False
    """The turn is complete, its last piece handed over."""
    dropped: bool = False
    """Nobody waits for it any more."""
    layers: Layers = field(default_factory=list)
    """Its KV cache, between prefill and the moment it joins the batch."""
    whole: Any = None
    """The same where the model keeps more than keys and values: its cache as it made it."""
    length: int = 0
    """Places in its KV cache."""
    rope_delta: int = 0
    """How far the rotary position is from the place (patch families)."""

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do for it."""
        return self.ended or self.error is not None or self.dropped
