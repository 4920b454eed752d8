"""Short ways to write completions and samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from sifthinker.nodes.depth import DepthMap


@pytest.fixture
def said() -> Callable[..., str]:
    """A completion: `said([(x1, y1, x2, y2, depth)], …, answer="red")`, an area a list; texts are "I look."."""

    def text(*areas: Sequence[Sequence[Any]], answer: str = "red", words: str = "I look.") -> str:
        steps = "".join(f"<area>{_area(area)}</area><text>{words}</text>" for area in areas)
        return f"<think>{steps}</think><answer>{answer}</answer>"

    return text


def _area(area: Sequence[Sequence[Any]]) -> str:
    return json.dumps([{"bbox_2d": list(box[:4]), "depth": box[4] if len(box) > 4 else 0.5} for box in area])


@pytest.fixture
def ramp() -> DepthMap:
    """100 × 100: depth grows from 0 at the left to 1 at the right, 0.005 in the first column, 0.995 in the last."""
    return DepthMap(np.tile((np.arange(100, dtype=np.float32) + 0.5) / 100, (100, 1)))
