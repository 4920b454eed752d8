"""What the framework adds to a focus step: graph, parsing, cropping, bookkeeping."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image
from scripted import ScriptedPolicy, focus_lines

from sifthinker.agent import create_focus_agent
from sifthinker.nodes.depth import DepthMap

LIMIT_MS = 3.0
RUNS = 15


@pytest.mark.slow
def test_a_focus_step_at_1080p_costs_at_most_three_milliseconds_of_processor_time():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), dtype=np.uint8))
    depth = DepthMap(np.tile(np.linspace(0, 1, 1920, dtype=np.float32), (1080, 1)))

    def cost(steps: int) -> float:
        boxes = [(0.1 + 0.01 * n, 0.2, 0.5, 0.6) for n in range(steps)]
        agent = create_focus_agent(ScriptedPolicy(*focus_lines(*boxes)), depth=depth)
        begun = time.process_time()
        assert len(agent.ask("What colour?", image=image).crops) == steps
        return time.process_time() - begun

    cost(8)
    few, many = (min(cost(steps) for _ in range(RUNS)) for steps in (1, 8))
    per_step_ms = (many - few) / 7 * 1000
    print(f"{per_step_ms:.2f} ms a focus step")
    assert per_step_ms <= LIMIT_MS
