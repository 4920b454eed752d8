"""Keeping what a run had finished when its process was killed, or its disk was full, before the next question."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.graph import END
from langgraph.graph.state import CompiledStateGraph

Agent = CompiledStateGraph[Any, Any, Any, Any]


def settle(agent: Agent, thread: RunnableConfig, *, unfinished: bool = False) -> None:
    """Put what finished steps wrote, and no checkpoint holds yet, into a thread's newest checkpoint.

    LangGraph writes down what a step came to, then the checkpoint. Between the two, `get_state` shows the step as
    done, but a new question would begin from the checkpoint alone: an answer that had been shown would be forgotten.

    Args:
        agent: the graph, with its checkpointer.
        thread: the thread.
        unfinished: also where steps are still to come; those are given up.
    """
    checkpointer = agent.checkpointer
    if not isinstance(checkpointer, BaseCheckpointSaver) or not _has_loose_writes(checkpointer.get_tuple(thread)):
        return
    if unfinished or not agent.get_state(thread).next:
        agent.update_state(thread, None, as_node=END)


async def asettle(agent: Agent, thread: RunnableConfig) -> None:
    """`settle` for a checkpointer that is asynchronous."""
    checkpointer = agent.checkpointer
    if not isinstance(checkpointer, BaseCheckpointSaver) or not _has_loose_writes(
        await checkpointer.aget_tuple(thread)
    ):
        return
    if not (await agent.aget_state(thread)).next:
        await agent.aupdate_state(thread, None, as_node=END)


def _has_loose_writes(saved: CheckpointTuple | None) -> bool:
    """Whether a step wrote something that is in no checkpoint: more than LangGraph's own marks (errors, interrupts)."""
    return saved is not None and any(not channel.startswith("__") for _, channel, _ in saved.pending_writes or ())
