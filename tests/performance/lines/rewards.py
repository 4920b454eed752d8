"""All four rewards of a group of completions, with the judge left out: processor time by the completion.

The published code takes 242 ms for it, 241 of them to read a coloured depth picture back by nearest-neighbour search,
for every completion anew; that search is measured here beside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from performance.figures import Figure, number
from performance.measure import rounds

from sifthinker.nodes.depth import DepthMap, depth_to_rgb
from sifthinker.policy.boxes import WHOLE, Box
from sifthinker.policy.trace import AreaBox, Step, Trace, render
from sifthinker.training import rewards
from sifthinker.training.rewards import completions, places

GROUP, SAMPLES = 8, 6


def figures(repeat: int) -> Iterator[Figure]:
    """See `performance.command.LINES`."""
    pixels = _arrays(480, 640)
    found = rounds(
        repeat,
        lambda: _cost(lambda: [DepthMap(one) for one in pixels]),
        lambda: _cost(lambda: pixels),
        lambda: 1000 * _decoding(pixels[0]),
    )
    note = (
        f"decoding one coloured depth picture by nearest-neighbour search, as the published code does for each "
        f"completion, takes {number(sorted(row[2] for row in found)[repeat // 2])} ms here"
    )
    about = "no cache warm, 640 × 480"
    yield Figure(
        f"all four rewards, new depth maps ({about})", [row[0] for row in found], "", "ms", at_most=0.3, note=note
    )
    yield Figure(f"all four rewards, depth as plain arrays ({about})", [row[1] for row in found], "", "ms")
    small, large = ([DepthMap(one) for one in _arrays(*size)] for size in ((240, 320), (960, 1280)))
    for one in (*small, *large):
        one.mean(WHOLE)
    found = rounds(repeat, lambda: _cost(lambda: large), lambda: _cost(lambda: small))
    yield Figure("cost at 1280 × 960", [row[0] / row[1] for row in found], "at 320 × 240", at_most=1.5)
    maps = [DepthMap(one) for one in pixels]
    found = rounds(repeat, lambda: _cost(lambda: maps, boxes=16), lambda: _cost(lambda: maps, boxes=2))
    yield Figure(
        "cost with 16 boxes", [row[0] / row[1] for row in found], "with 2 (linear would be 8)", at_most=8 * 1.25
    )


def _cost(depths: Callable[[], Sequence[Any]], boxes: int = 2) -> float:
    """Milliseconds a completion, best of three; nothing is remembered from before, but what `depths` brings along."""
    best = float("inf")
    for attempt in range(3):
        depth = depths()
        best = min(best, reward_all(depth, boxes, attempt))
    return best * 1000 / (GROUP * len(depth))


def reward_all(depth: Sequence[Any], boxes: int, seed: int) -> float:
    """Seconds for all four rewards of a group of completions for each of these depths, nothing remembered."""
    texts = _traces(GROUP * len(depth), boxes, seed)
    columns: dict[str, Any] = {
        "completions": [[{"role": "assistant", "content": text}] for text in texts],
        "answer": ["red cube"] * len(texts),
        "options": [["red cube", "blue cube"]] * len(texts),
        "boxes": [_truth(boxes)] * len(texts),
        "depth": [one for one in depth for _ in range(GROUP)],
    }
    completions.read.cache_clear()
    places.place.cache_clear()
    began = time.process_time()
    for reward in (rewards.format_reward, rewards.answer_reward, rewards.grounding_reward, rewards.depth_reward):
        reward(**columns)
    return time.process_time() - began


def _decoding(depth: np.ndarray) -> float:
    """Seconds to read a coloured depth picture back by the nearest of 256 colours, pixel for pixel."""
    from scipy.spatial import cKDTree

    picture = depth_to_rgb(depth).reshape(-1, 3)
    tree = cKDTree(depth_to_rgb(np.linspace(0, 1, 256, dtype=np.float32)[None])[0])
    began = time.process_time()
    tree.query(picture)
    return time.process_time() - began


def _traces(count: int, boxes: int, seed: int) -> list[str]:
    """Completions of four areas, no two alike, whose last area lies on the boxes of `_truth`."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        moved = [tuple(np.clip(np.array(box) + rng.normal(0, 0.004, 4), 0, 1)) for box in _truth(boxes)]
        areas: list[list[Any]] = [[WHOLE], [(0.1, 0.1, 0.9, 0.9)], moved, moved]
        steps = [
            Step(boxes=[AreaBox(bbox_2d=box, depth=float(rng.random())) for box in area], text="There, I look closer.")
            for area in areas
        ]
        found.append(render(Trace(steps=steps, answer="red cube")))
    return found


def _truth(boxes: int) -> list[Box]:
    return [(0.1 + 0.8 * index / boxes, 0.3, 0.1 + 0.8 * (index + 0.8) / boxes, 0.6) for index in range(boxes)]


def _arrays(height: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((height, width), dtype=np.float32) for _ in range(SAMPLES)]
