"""The trace grammar: how a policy says where it looked, what it saw there, and what it answers.

    <think>(<area>[{"bbox_2d":[x1,y1,x2,y2],"depth":d}, …]</area><text>…</text>)+</think><answer>…</answer>

White space may stand between the tags, nothing else outside them.
"""

from __future__ import annotations

from sifthinker.policy.trace_model import AreaBox, Step, Trace, render, render_boxes
from sifthinker.policy.trace_strict import last_area_strict, parse

__all__ = [
    "AreaBox",
    "Step",
    "Trace",
    "last_area_strict",
    "parse",
    "render",
    "render_boxes",
]
