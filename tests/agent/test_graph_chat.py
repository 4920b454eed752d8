"""Several questions on one thread: earlier turns are seen, a new image begins a new look."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import MemorySaver
from PIL import Image
from scripted import ScriptedPolicy, area, focus_lines

from sifthinker.agent import create_focus_agent
from sifthinker.policy.errors import UsageError

RED, BLUE = Image.new("RGB", (200, 100), (200, 10, 10)), Image.new("RGB", (200, 100), (10, 10, 200))
LEFT, RIGHT = (0.1, 0.2, 0.5, 0.6), (0.5, 0.2, 0.9, 0.6)


def chat(*lines, **options):
    policy = ScriptedPolicy(*lines)
    return policy, create_focus_agent(policy, depth="none", checkpointer=MemorySaver(), **options)


def test_a_later_question_sees_the_earlier_turns_and_their_regions():
    first, second = focus_lines(LEFT, answer="red"), focus_lines(RIGHT, answer="blue")
    policy, agent = chat(*first, *second)
    agent.ask("What colour?", image=RED, options=["red", "blue"], thread_id="t")
    result = agent.ask("And the one behind it?", thread_id="t")

    assert result.answer == "blue"
    assert [step.boxes[0].bbox_2d for step in result.steps] == [RIGHT]
    told = policy.heard[2]
    assert [turn.role for turn in told] == ["user", "assistant", "user"]
    assert "Options: red; blue" in told[0].text
    assert told[1].text == "".join(first)
    assert told[2].text.startswith("And the one behind it?")
    assert [len(turn.images) for turn in told] == [1, 0, 0]
    assert [len(turn.images) for turn in policy.heard[3]] == [1, 0, 0, 0, 1]


def test_a_new_image_begins_a_new_look_and_the_old_one_is_not_forgotten():
    policy, agent = chat(*[f"<think>{area(LEFT)}", "<text>it</text></think><answer>x</answer>"] * 3)
    agent.ask("One?", image=RED, thread_id="t")
    agent.ask("Two?", image=BLUE, thread_id="t")
    agent.ask("Three?", image=RED, thread_id="t")

    assert len(policy.heard[2]) == 1
    assert policy.heard[2][0].images[0].getpixel((0, 0)) == (10, 10, 200)
    back = policy.heard[4]
    assert [turn.text.split("\n")[-2 if turn.images else 0] for turn in back if turn.role == "user"][-1] == "Three?"
    assert "One?" in back[0].text
    assert "Two?" not in "".join(turn.text for turn in back)


def test_only_the_last_questions_are_shown_again():
    policy, agent = chat("<answer>x</answer>", mode="direct", history=2)
    for number in range(5):
        agent.ask(f"Question {number}?", image=RED if number == 0 else None, thread_id="t")
    told = "".join(turn.text for turn in policy.heard[-1])
    assert [f"Question {number}?" in told for number in range(5)] == [False, False, True, True, True]
    assert len(policy.heard[-1][0].images) == 1


def test_the_result_speaks_of_the_last_question_only():
    _, agent = chat(f"<think>{area(LEFT)}", "<answer>x</answer>", "<answer>y</answer>")
    agent.ask("One?", image=RED, thread_id="t", options=["y"])
    result = agent.ask("Two?", thread_id="t")
    assert (result.question, result.options, result.answer) == ("Two?", [], "y")
    assert not any("options" in warning for warning in result.warnings)
    assert len(result.calls) == 1


def test_threads_do_not_see_each_other():
    policy, agent = chat("<answer>x</answer>", mode="direct")
    agent.ask("One?", image=RED, thread_id="a")
    agent.ask("Two?", image=RED, thread_id="b")
    assert len(policy.heard[1]) == 1
    with pytest.raises(UsageError, match="no image"):
        agent.ask("Three?", thread_id="c")


def test_a_question_after_one_that_failed_is_answered():
    _, agent = chat(RuntimeError("lost"), "<answer>y</answer>", mode="direct")
    with pytest.raises(RuntimeError, match="lost"):
        agent.ask("One?", image=RED, thread_id="t")
    assert agent.ask("Two?", thread_id="t").answer == "y"


def test_other_agents_messages_are_passed_over():
    policy, agent = chat("<answer>x</answer>", mode="direct")
    image = agent.context.images.put(RED)
    block = {"type": "image", "file_id": image}
    agent.invoke(
        {
            "messages": [
                {"role": "system", "content": "You supervise."},
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hello!"},
                {"role": "user", "content": [block, {"type": "text", "text": "What colour?"}]},
            ]
        },
        {"configurable": {"thread_id": "t"}},
    )
    assert len(policy.heard[0]) == 1
    assert "What colour?" in policy.heard[0][0].text
    assert "Hello" not in policy.heard[0][0].text


def test_a_thread_must_be_named_where_there_is_a_memory_and_only_there():
    _, agent = chat("<answer>x</answer>")
    with pytest.raises(UsageError, match="thread_id"):
        agent.ask("One?", image=RED)
    with pytest.raises(UsageError, match="checkpointer"):
        create_focus_agent(ScriptedPolicy("x"), depth="none").ask("One?", image=RED, thread_id="t")


def test_messages_in_the_state_are_langchain_s_and_name_the_image_by_its_hash():
    _, agent = chat("<answer>x</answer>", mode="direct")
    agent.ask("One?", image=RED, thread_id="t")
    asked, answered = agent.get_state({"configurable": {"thread_id": "t"}}).values["messages"]
    assert isinstance(asked, HumanMessage)
    assert asked.content[0] == {"type": "image", "file_id": agent.context.images.put(RED)}
    assert answered.content == "x"
    assert answered.usage_metadata["output_tokens"] > 0
    assert answered.response_metadata["model_name"] == "scripted"


def test_a_policy_that_follows_no_conversation_is_asked_each_question_alone():
    policy = ScriptedPolicy("<answer>x</answer>", follows_conversations=False)
    agent = create_focus_agent(policy, depth="none", mode="direct", checkpointer=MemorySaver())
    agent.ask("One?", image=RED, thread_id="t")
    agent.ask("Two?", thread_id="t")
    assert len(policy.heard[1]) == 1
    assert "One?" not in policy.heard[1][0].text
