"""What the rewards cost: a fraction of a millisecond a completion, by the boxes and not by the pixels.

python -m pytest tests/training/rewards/test_rewards_speed.py -s     prints the figures
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.boxes import WHOLE, Box
from sifthinker.policy.trace import AreaBox, Step, Trace, render
from sifthinker.training.rewards import (
    answer_reward,
    completions,
    depth_reward,
    format_reward,
    grounding_reward,
    places,
)

GROUP = 8
SAMPLES = 6


def traces(count: int, boxes: int, seed: int) -> list[str]:
    """Completions of four areas, no two alike, whose last area lies on the boxes of `truth`."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        moved = [tuple(np.clip(np.array(box) + rng.normal(0, 0.004, 4), 0, 1)) for box in truth(boxes)]
        areas: list[list[Box]] = [[WHOLE], [(0.1, 0.1, 0.9, 0.9)], moved, moved]
        steps = [
            Step(boxes=[AreaBox(bbox_2d=box, depth=float(rng.random())) for box in area], text="There, I look closer.")
            for area in areas
        ]
        found.append(render(Trace(steps=steps, answer="red cube")))
    return found


def truth(boxes: int) -> list[Box]:
    return [(0.1 + 0.8 * index / boxes, 0.3, 0.1 + 0.8 * (index + 0.8) / boxes, 0.6) for index in range(boxes)]


def milliseconds(maps: Sequence[Callable[[], object]], boxes: int = 2) -> float:
    """CPU time of all four rewards a completion, best of several; nothing is remembered from before."""
    best = float("inf")
    for attempt in range(7):
        texts = traces(GROUP * len(maps), boxes, attempt)
        depth = [one for made in maps for one in [made()] * GROUP]
        columns = {
            "completions": [[{"role": "assistant", "content": text}] for text in texts],
            "answer": ["red cube"] * len(texts),
            "options": [["red cube", "blue cube"]] * len(texts),
            "boxes": [truth(boxes)] * len(texts),
            "depth": depth,
        }
        completions.read.cache_clear()
        places.place.cache_clear()
        started = time.process_time()
        for reward in (format_reward, answer_reward, grounding_reward, depth_reward):
            reward(**columns)
        best = min(best, time.process_time() - started)
    return best * 1000 / (GROUP * len(maps))


def arrays(height: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((height, width), dtype=np.float32) for _ in range(SAMPLES)]


@pytest.mark.slow
def test_all_four_rewards_cost_less_than_a_third_of_a_millisecond() -> None:
    pixels = arrays(480, 640)
    fresh = milliseconds([lambda one=one: DepthMap(one) for one in pixels])  # type: ignore[misc]
    raw = milliseconds([lambda one=one: one for one in pixels])  # type: ignore[misc]
    print(f"\n640 × 480, groups of {GROUP}: new depth maps {fresh:.3f} ms, arrays {raw:.3f} ms a completion")
    assert fresh <= 0.3
    assert raw <= 0.4  # each array is checked and taken up once a group


@pytest.mark.slow
def test_the_cost_does_not_grow_with_the_pixels() -> None:
    small, large = arrays(240, 320), arrays(960, 1280)
    known = [[DepthMap(one) for one in maps] for maps in (small, large)]
    for maps in known:
        for one in maps:
            one.mean(WHOLE)
    costs = [milliseconds([lambda one=one: one for one in maps]) for maps in known]  # type: ignore[misc]
    print(f"\n320 × 240: {costs[0]:.3f} ms, 1280 × 960: {costs[1]:.3f} ms a completion")
    assert costs[1] <= 1.5 * costs[0]


@pytest.mark.slow
def test_the_cost_is_linear_in_the_boxes() -> None:
    maps = [DepthMap(one) for one in arrays(480, 640)]
    costs = {boxes: milliseconds([lambda one=one: one for one in maps], boxes) for boxes in (2, 8, 16)}  # type: ignore[misc]
    print("\n" + ", ".join(f"{boxes} boxes: {cost:.3f} ms" for boxes, cost in costs.items()) + " a completion")
    assert costs[16] <= 1.5 * 16 / 2 * costs[2]
