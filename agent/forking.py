"""Going back: where in a thread's history a step of the last question stands, and the answer that was left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import StateSnapshot

from sifthinker.agent.settling import settle
from sifthinker.nodes.conversation import policy_turns
from sifthinker.policy.errors import UsageError

_LEFT = "left_answer"
"""In the metadata of the checkpoint that a fork begins with: the checkpoint with the answer that was left."""


def step_config(agent: CompiledStateGraph[Any, Any, Any, Any], thread: RunnableConfig, step: int) -> RunnableConfig:
    """The checkpoint of a thread's last question from which its step `step` (from 1) was about to be looked at.

    The way back goes from parent to parent: what was left behind by an earlier fork does not count.

    Raises:
        UsageError: the last question has no such step.
    """
    found: set[int] = set()
    for state in _last_question(agent, thread):
        calls = policy_turns(state.values.get("turns") or ())
        if state.next == ("focus",) and calls:
            if calls[-1]["steps"] == step:
                return state.config
            found.add(calls[-1]["steps"])
    if not found:
        raise UsageError("The last question has no step to go back to: only what mode tools looked at can be forked.")
    raise UsageError(f"Expected a step from {min(found)} to {max(found)} of the last question, got {step}.")


def go_back(agent: CompiledStateGraph[Any, Any, Any, Any], thread: RunnableConfig, step: int) -> None:
    """Make that checkpoint the thread's newest: a run of the thread goes on before the step's crop.

    Raises:
        UsageError: the last question has no such step.
    """
    settle(agent, thread)
    back = step_config(agent, thread, step)
    head = agent.get_state(thread)
    left = _left(agent, thread) if head.next else _id(head.config)
    agent.update_state(back | {"metadata": {_LEFT: left}}, {"turns": []}, as_node="reason")


def take_up_left_answer(agent: CompiledStateGraph[Any, Any, Any, Any], thread: RunnableConfig) -> bool:
    """Where the last question was gone back into and is not answered anew: have the answer that was left stand again.

    Returns:
        Whether there was one.
    """
    left = _left(agent, thread)
    for state in agent.get_state_history(thread) if left else ():
        if _id(state.config) == left:
            agent.update_state(state.config, {"turns": []}, as_node="answer")
            return True
    return False


def paused_step(state: StateSnapshot) -> int | None:
    """The step before whose crop a run waits for a person; None where none waits."""
    for interrupt in state.interrupts:
        if isinstance(interrupt.value, dict) and isinstance(interrupt.value.get("step"), int):
            return int(interrupt.value["step"])
    return None


def _left(agent: CompiledStateGraph[Any, Any, Any, Any], thread: RunnableConfig) -> str | None:
    """The checkpoint with the answer that the last question was gone back from."""
    marks = ((state.metadata or {}).get(_LEFT) for state in _last_question(agent, thread))
    return next((mark for mark in marks if isinstance(mark, str)), None)


def _last_question(agent: CompiledStateGraph[Any, Any, Any, Any], thread: RunnableConfig) -> Iterator[StateSnapshot]:
    """The states of a thread since its last question was asked, the newest first, from parent to parent."""
    history = list(agent.get_state_history(thread))
    by_id = {_id(state.config): state for state in history}
    state: StateSnapshot | None = history[0] if history else None
    asked = 0 if state is None else _questions(state)
    while state is not None and _questions(state) == asked:
        yield state
        state = by_id.get(_id(state.parent_config))


def _questions(state: StateSnapshot) -> int:
    return sum(isinstance(message, HumanMessage) for message in state.values.get("messages") or ())


def _id(config: RunnableConfig | None) -> str | None:
    return None if config is None else (config.get("configurable") or {}).get("checkpoint_id")
