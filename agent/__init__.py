"""The focus graph assembled, and how people use it.

    from sifthinker.agent import ask

    result = ask("scene.png", "Which is closer, the red cube or the blue sphere?")

The names below are loaded when they are first used: importing this package alone costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sifthinker.agent.api import aask, ask, ask_stream
    from sifthinker.agent.config import FocusConfig, FocusContext, focus_context
    from sifthinker.agent.focus_agent import FocusAgent
    from sifthinker.agent.graph import build_focus_graph, create_focus_agent
    from sifthinker.agent.result import FocusResult
    from sifthinker.nodes.person import FocusDecision, FocusRequest
    from sifthinker.nodes.questions import question_message

_HOMES = {
    "FocusAgent": "sifthinker.agent.focus_agent",
    "FocusConfig": "sifthinker.agent.config",
    "FocusContext": "sifthinker.agent.config",
    "FocusDecision": "sifthinker.nodes.person",
    "FocusRequest": "sifthinker.nodes.person",
    "FocusResult": "sifthinker.agent.result",
    "aask": "sifthinker.agent.api",
    "ask": "sifthinker.agent.api",
    "ask_stream": "sifthinker.agent.api",
    "build_focus_graph": "sifthinker.agent.graph",
    "create_focus_agent": "sifthinker.agent.graph",
    "focus_context": "sifthinker.agent.config",
    "question_message": "sifthinker.nodes.questions",
}

__all__ = [
    "FocusAgent",
    "FocusConfig",
    "FocusContext",
    "FocusDecision",
    "FocusRequest",
    "FocusResult",
    "aask",
    "ask",
    "ask_stream",
    "build_focus_graph",
    "create_focus_agent",
    "focus_context",
    "question_message",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
