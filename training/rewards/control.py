"""Rewards that know nothing: the control that tells what a gain owes to the rewards, and what to training alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from sifthinker.training.rewards.answer import sample_keys
from sifthinker.training.rewards.completions import Completion, text_of


def random_reward(name: str) -> Callable[..., list[float | None]]:
    """A reward drawn evenly from [0, 1] for each completion, whatever it says.

    The draw is a hash of the reward's name, the sample and the text: rewards of different names are independent, and a
    run that is killed and goes on draws the same.

    Args:
        name: format, answer, grounding or depth, in whose place it stands.
    """

    def reward(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        count = len(completions)
        keys = sample_keys(count, **{"question": [""] * count, **columns})
        return [_drawn(name, key, text_of(one)) for key, one in zip(keys, completions, strict=True)]

    reward.__name__ = f"{name}_reward"  # what TRL calls it in its logs
    return reward


def _drawn(name: str, key: str, text: str) -> float:
    told = "\0".join((name, key, text)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(told).digest()[:7]) / (1 << 56)
