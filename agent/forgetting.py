"""Taking questions out of a conversation that the agent remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from langchain_core.messages import AnyMessage, HumanMessage, RemoveMessage

from sifthinker.agent.focus_agent import FocusAgent
from sifthinker.agent.settling import settle
from sifthinker.nodes.state import ResultRecord


def forget_question(agent: FocusAgent, thread_id: str) -> bool:
    """Take the last question, and what followed it, out of a conversation; False where there is none.

    The result is then that of the question before, as far as the history has it.
    """
    config: Any = {"configurable": {"thread_id": thread_id}}
    settle(agent, config, unfinished=True)
    messages = agent.get_state(config).values.get("messages", [])
    last = max((index for index, message in enumerate(messages) if isinstance(message, HumanMessage)), default=None)
    if last is None:
        return False
    gone = [RemoveMessage(id=message.id or "") for message in messages[last:]]
    result = _result_after(agent, config, messages[:last])
    agent.update_state(config, {"messages": gone, "look": None, "turns": None, "result": result}, as_node="answer")
    return True


def forget_unanswered(agent: FocusAgent, thread_id: str) -> bool:
    """`forget_question` where the last one was not answered, so that the next is not asked on top of it."""
    messages = agent.get_state({"configurable": {"thread_id": thread_id}}).values.get("messages", [])
    return bool(messages) and isinstance(messages[-1], HumanMessage) and forget_question(agent, thread_id)


def _result_after(agent: FocusAgent, config: Any, messages: Sequence[AnyMessage]) -> ResultRecord | None:
    """The result that the conversation had when these were its messages."""
    for state in agent.get_state_history(config) if messages else ():
        then = state.values.get("messages")
        if then and then[-1].id == messages[-1].id and (result := state.values.get("result")) is not None:
            return cast("ResultRecord", result)
    return None
