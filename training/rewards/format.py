"""Format: is the completion a trace?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sifthinker.training.rewards.completions import Completion, readings


def format_reward(completions: Sequence[Completion], depth: Sequence[Any] | None = None, **columns: Any) -> list[float]:
    """1.0 for a trace by the strict parser (`sifthinker.policy.trace.parse`) that has a text to each area, else 0.0.

    A text that has no letter and no digit in it is none.

    Args:
        completions: texts or lists of messages.
        depth: the depth maps; a row that is None does not require the boxes to say a depth.
        columns: what else TRL hands over.
    """
    return [0.0 if reading.trace is None else 1.0 for reading in readings(completions, depth)]
