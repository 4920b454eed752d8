"""Going back: where in a thread's history a step of the last question stands."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import StateSnapshot

from sifthinker.nodes.conversation import policy_turns
from sifthinker.policy.errors import UsageError


def step_config(agent: CompiledStateGraph[Any, Any, Any, Any], thread: RunnableConfig, step: int) -> RunnableConfig:
    """The checkpoint of a thread's last question from which its step `step` (from 1) was about to be looked at.

    The way back goes from parent to parent: what was left behind by an earlier fork does not count.

    Raises:
        UsageError: the last question has no such step.
    """
    history = list(agent.get_state_history(thread))
    by_id = {_id(state.config): state for state in history}
    state: StateSnapshot | None = history[0] if history else None
    asked = _questions(state)
    found: set[int] = set()
    while state is not None and _questions(state) == asked:
        calls = policy_turns(state.values.get("turns") or ())
        if state.next == ("focus",) and calls:
            if calls[-1]["steps"] == step:
                return state.config
            found.add(calls[-1]["steps"])
        state = by_id.get(_id(state.parent_config))
    if not found:
        raise UsageError("The last question has no step to go back to: only what mode tools looked at can be forked.")
    raise UsageError(f"Expected a step from {min(found)} to {max(found)} of the last question, got {step}.")


def go_back(agent: CompiledStateGraph[Any, Any, Any, Any], thread: RunnableConfig, step: int) -> None:
    """Make that checkpoint the thread's newest: a run of the thread goes on before the step's crop.

    Raises:
        UsageError: the last question has no such step.
    """
    agent.update_state(step_config(agent, thread, step), {"turns": []}, as_node="reason")


def paused_step(state: StateSnapshot) -> int | None:
    """The step before whose crop a run waits for a person; None where none waits."""
    for interrupt in state.interrupts:
        if isinstance(interrupt.value, dict) and isinstance(interrupt.value.get("step"), int):
            return int(interrupt.value["step"])
    return None


def _questions(state: StateSnapshot | None) -> int:
    if state is None:
        return 0
    return sum(isinstance(message, HumanMessage) for message in state.values.get("messages") or ())


def _id(config: RunnableConfig | None) -> str | None:
    return None if config is None else (config.get("configurable") or {}).get("checkpoint_id")
