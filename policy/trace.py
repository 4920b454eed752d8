"""The trace grammar: how a policy says where it looked, what it saw there, and what it answers.

    <think>(<area>[{"bbox_2d":[x1,y1,x2,y2],"depth":d}, …]</area><text>…</text>)+</think><answer>…</answer>

White space may stand between the tags, nothing else outside them. Three parsers read it:

- `parse`, strict: the text is a trace, or a `TraceError` says why not and where. The format reward is this parser,
  and asks for a text to each area.
- `parse_lenient`, for people and for models only told the grammar: what can be recovered, and what was wrong.
  `parse_span` and `last_area` read one unfinished turn of tool mode in the same way.
- `TraceStream`, incremental: fed piece by piece, tells each area, text and answer as it closes.

`render` writes a trace in its one canonical spelling.
"""

from __future__ import annotations

from sifthinker.policy.trace_lenient import Span, last_area, parse_lenient, parse_span
from sifthinker.policy.trace_model import AreaBox, Step, Trace, render, render_boxes
from sifthinker.policy.trace_stream import AnswerEvent, AreaEvent, TextEvent, TraceEvent, TraceStream
from sifthinker.policy.trace_strict import last_area_strict, parse

__all__ = [
    "AnswerEvent",
    "AreaBox",
    "AreaEvent",
    "Span",
    "Step",
    "TextEvent",
    "Trace",
    "TraceEvent",
    "TraceStream",
    "last_area",
    "last_area_strict",
    "parse",
    "parse_lenient",
    "parse_span",
    "render",
    "render_boxes",
]
