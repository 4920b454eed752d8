"""Taking questions out of a conversation that the agent remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import AnyMessage, HumanMessage, RemoveMessage

from sifthinker.agent.focus_agent import FocusAgent
from sifthinker.agent.forking import take_up_left_answer
from sifthinker.agent.settling import settle
from sifthinker.nodes.questions import image_ids
from sifthinker.nodes.state import ResultRecord

_FORGOTTEN_IMAGE = "forgotten_image"
"""In the metadata of the checkpoint that forgets a question."""


def forget_question(agent: FocusAgent, thread_id: str) -> bool:
    """Take the last question, and what followed it, out of a conversation; False where there is none.

    The result is then that of the question before, as far as the history has it; `forgotten_image` tells its image.
    """
    config: Any = {"configurable": {"thread_id": thread_id}}
    kept = forgotten_image(agent, thread_id)
    settle(agent, config, unfinished=True)
    messages = agent.get_state(config).values.get("messages", [])
    last = max((index for index, message in enumerate(messages) if isinstance(message, HumanMessage)), default=None)
    if last is None:
        return False
    gone = [RemoveMessage(id=message.id or "") for message in messages[last:]]
    result = _result_after(agent, config, messages[:last])
    values = {"messages": gone, "look": None, "turns": None, "result": result}
    images = [image for message in messages for image in image_ids(message)]
    image = kept or (images[-1] if images else None)
    agent.update_state(config | {"metadata": {_FORGOTTEN_IMAGE: image}}, values, as_node="answer")
    return True


def forgotten_image(agent: FocusAgent, thread_id: str) -> str | None:
    """The hash of the image that was at hand when a question was forgotten; None once another was asked.

    The image stays at hand, also when its only question goes.
    """
    metadata: Mapping[str, Any] = agent.get_state({"configurable": {"thread_id": thread_id}}).metadata or {}
    return cast("str | None", metadata.get(_FORGOTTEN_IMAGE))


def forget_unanswered(agent: FocusAgent, thread_id: str) -> bool:
    """Give up the last question where it was not answered, so that the next is not asked on top of it.

    One that was answered and then gone back into (`FocusAgent.fork`) has its answer again; any other is forgotten.

    Returns:
        Whether an answer stands again.
    """
    config: Any = {"configurable": {"thread_id": thread_id}}
    messages = agent.get_state(config).values.get("messages", [])
    if not messages or not isinstance(messages[-1], HumanMessage):
        return False
    if take_up_left_answer(agent, config):
        return True
    forget_question(agent, thread_id)
    return False


def _result_after(agent: FocusAgent, config: Any, messages: Sequence[AnyMessage]) -> ResultRecord | None:
    """The result that the conversation had when these were its messages."""
    for state in agent.get_state_history(config) if messages else ():
        then = state.values.get("messages")
        if then and then[-1].id == messages[-1].id and (result := state.values.get("result")) is not None:
            return cast("ResultRecord", result)
    return None
