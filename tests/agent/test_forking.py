"""Going back to an earlier step from Python: by a decision, or pausing there."""

from __future__ import annotations

import sqlite3

import pytest
from langgraph.checkpoint.memory import MemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from PIL import Image
from scripted import ScriptedPolicy, focus_lines

from sifthinker.agent import FocusResult, create_focus_agent
from sifthinker.agent.events import FocusPaused
from sifthinker.agent.forgetting import forget_unanswered
from sifthinker.policy.errors import UsageError

IMAGE = Image.new("RGB", (200, 100), (9, 9, 9))
LEFT, RIGHT, SMALL = (0.1, 0.2, 0.5, 0.6), (0.5, 0.2, 0.9, 0.6), (0.2, 0.2, 0.4, 0.4)
EDIT = {"action": "edit", "boxes": [list(SMALL)]}


def answered(*more: str, memory=None, **options):
    policy = ScriptedPolicy(*focus_lines(LEFT, RIGHT, answer="first"), *more)
    agent = create_focus_agent(policy, depth="none", checkpointer=memory or MemorySaver(), **options)
    agent.ask("What colour?", image=IMAGE, thread_id="t")
    return policy, agent


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_decision_at_an_earlier_step_makes_another_run_of_it(kind):
    memory = None if kind == "memory" else SqliteSaver(sqlite3.connect(":memory:", check_same_thread=False))
    policy, agent = answered("<text>x</text></think><answer>second</answer>", memory=memory)
    *events, result = agent.fork("t", 2, EDIT)
    assert isinstance(result, FocusResult)
    assert result.answer == "second"
    assert [step.boxes[0].bbox_2d for step in result.steps] == [LEFT, SMALL]
    assert policy.calls == 4
    assert not any(isinstance(event, FocusPaused) for event in events)
    texts = [message.text for message in agent.get_state({"configurable": {"thread_id": "t"}}).values["messages"]]
    assert texts == ["What colour?", "second"]


def test_without_a_decision_it_pauses_there_and_only_there():
    policy, agent = answered(*focus_lines(LEFT, RIGHT, answer="second")[1:])
    *_, paused = agent.fork("t", 1)
    assert isinstance(paused, FocusPaused)
    assert (paused.step, policy.calls) == (1, 3)
    *_, result = agent.resume("t", EDIT)
    assert isinstance(result, FocusResult), "a later step pauses only where every step does"
    assert [step.boxes[0].bbox_2d for step in result.steps] == [SMALL, RIGHT]


def test_a_paused_run_that_is_resumed_without_a_decision_pauses_again():
    policy, agent = answered("<text>x</text></think><answer>second</answer>")
    list(agent.fork("t", 2))
    *_, paused = agent.resume("t")
    assert isinstance(paused, FocusPaused)
    assert policy.calls == 3


def test_only_the_last_question_s_steps_can_be_gone_back_to():
    _, agent = answered("<answer>later</answer>")
    with pytest.raises(UsageError, match="from 1 to 2"):
        list(agent.fork("t", 3))
    agent.ask("And now?", thread_id="t", mode="direct")
    with pytest.raises(UsageError, match="no step to go back to"):
        list(agent.fork("t", 1))
    with pytest.raises(UsageError, match="no step to go back to"):
        list(agent.fork("nowhere", 1))
    with pytest.raises(UsageError, match="Expected"):
        list(agent.fork("t", 1, {"action": "edit"}))


def test_after_a_fork_the_conversation_goes_on():
    policy, agent = answered("<text>x</text></think><answer>second</answer>", "<answer>third</answer>")
    list(agent.fork("t", 2, "approve"))
    assert agent.ask("And now?", thread_id="t").answer == "third"
    told = "".join(turn.text for turn in policy.heard[-1])
    assert "second" in told
    assert "first" not in told


def answer_of(agent):
    state = agent.get_state({"configurable": {"thread_id": "t"}})
    assert state.next == ()
    return state.values["result"]["answer"], [message.text for message in state.values["messages"]]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_fork_that_is_given_up_has_the_answer_before_it_stand_again(kind):
    memory = None if kind == "memory" else SqliteSaver(sqlite3.connect(":memory:", check_same_thread=False))
    policy, agent = answered(*focus_lines(SMALL, answer="second")[1:], "<answer>third</answer>", memory=memory)
    list(agent.fork("t", 2))
    list(agent.fork("t", 1))
    assert forget_unanswered(agent, "t")
    assert answer_of(agent) == ("first", ["What colour?", "first"])
    list(agent.fork("t", 2, EDIT))
    assert answer_of(agent)[0] == "second", "it can be forked again"
    list(agent.fork("t", 1))
    assert forget_unanswered(agent, "t")
    assert answer_of(agent)[0] == "second", "the newest answer, not the first"
    assert not forget_unanswered(agent, "t")
    assert agent.ask("And now?", thread_id="t", mode="direct").answer == "third"
    assert "second" in "".join(turn.text for turn in policy.heard[-1])


def test_a_fork_that_fails_has_the_answer_before_it_stand_again():
    _, agent = answered(TimeoutError("the server is silent"), TimeoutError("the server is silent"))
    with pytest.raises(Exception, match="silent"):
        list(agent.fork("t", 2, EDIT))
    assert forget_unanswered(agent, "t")
    assert answer_of(agent)[0] == "first"
    with pytest.raises(Exception, match="silent"):
        agent.ask("And now?", thread_id="t", mode="direct")
    assert not forget_unanswered(agent, "t"), "a new question is forgotten, and nothing of the one before"
    assert answer_of(agent) == ("first", ["What colour?", "first"])
