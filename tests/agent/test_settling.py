"""A run that broke off between what a step wrote and its checkpoint: nothing that was shown is forgotten."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from PIL import Image
from scripted import ScriptedPolicy

from sifthinker.agent import create_focus_agent
from sifthinker.agent.forgetting import forget_question

IMAGE = Image.new("RGB", (200, 100), (200, 10, 10))
THREAD = {"configurable": {"thread_id": "t"}}


class Breaking(SqliteSaver):
    """Fails at the n-th checkpoint, as a process that is killed between what a step wrote and the checkpoint."""

    left: float = float("inf")

    def put(self, *args, **kwargs):
        self.left -= 1
        if self.left < 0:
            raise OSError("no space left")
        return super().put(*args, **kwargs)


def memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", check_same_thread=False)


def broken_after(checkpoints: int, *lines: str):
    """An agent whose first question broke off there; the policy says `lines`."""
    kept = Breaking(memory())
    policy = ScriptedPolicy(*lines)
    agent = create_focus_agent(policy, depth="none", mode="direct", checkpointer=kept)
    kept.left = checkpoints
    with pytest.raises(OSError, match="no space"):
        agent.ask("One?", image=IMAGE, thread_id="t")
    kept.left = float("inf")
    return policy, agent


@pytest.mark.parametrize("asked", ["ask", "aask"])
def test_an_answer_that_no_checkpoint_holds_yet_is_remembered_at_the_next_question(asked):
    whole = create_focus_agent(
        ScriptedPolicy("<answer>x</answer>"), depth="none", mode="direct", checkpointer=Breaking(memory())
    )
    whole.ask("One?", image=IMAGE, thread_id="t")
    last = len(list(whole.get_state_history(THREAD))) - 1
    policy, agent = broken_after(last, "<answer>first</answer>", "<answer>second</answer>")
    assert agent.get_state(THREAD).values["messages"][-1].text == "first", "it was shown"

    if asked == "ask":
        agent.ask("Two?", thread_id="t")
    else:
        agent.checkpointer.__class__ = Asynchronous
        asyncio.run(agent.aask("Two?", thread_id="t"))
    assert [turn.text for turn in policy.heard[1]][1] == "<answer>first</answer>"
    assert [message.text for message in agent.get_state(THREAD).values["messages"]][1::2] == ["first", "second"]


class Asynchronous(Breaking):
    """Its asynchronous methods, on the thread of the loop."""

    async def aget_tuple(self, *args, **kwargs):
        return self.get_tuple(*args, **kwargs)

    async def aput(self, *args, **kwargs):
        return self.put(*args, **kwargs)

    async def aput_writes(self, *args, **kwargs):
        return self.put_writes(*args, **kwargs)


@pytest.mark.parametrize("checkpoints", range(5))
def test_a_question_that_broke_off_anywhere_can_be_forgotten(checkpoints):
    policy, agent = broken_after(checkpoints, "<answer>first</answer>", "<answer>second</answer>")
    forget_question(agent, "t")
    assert agent.get_state(THREAD).values.get("messages", []) == []
    assert agent.ask("Two?", image=IMAGE, thread_id="t").answer
    assert len(policy.heard[-1]) == 1
