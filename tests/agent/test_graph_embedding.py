"""The agent inside other applications: as a subgraph, from many threads, described to a server."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypedDict

import pytest
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command
from PIL import Image
from scripted import ScriptedPolicy, focus_lines

from sifthinker.agent import create_focus_agent, question_message
from sifthinker.agent.config import focus_config
from sifthinker.agent.events import AnswerGiven, CropTaken
from sifthinker.policy.errors import UsageError
from sifthinker.policy.messages import Message

IMAGE = Image.new("RGB", (200, 100), (200, 10, 10))
LEFT = (0.1, 0.2, 0.5, 0.6)
THREAD = {"configurable": {"thread_id": "t"}}


@dataclass
class Elsewhere:
    """The context of an application that knows nothing of this package."""

    user: str = "someone"


def supervisor(agent, **compiled):
    graph = StateGraph(MessagesState, context_schema=Elsewhere)
    graph.add_node("look", agent)
    graph.add_edge(START, "look")
    graph.add_edge("look", END)
    return graph.compile(**compiled)


def asked(agent, question: str = "What colour?"):
    return {"messages": [question_message(question, image=agent.context.images.put(IMAGE))]}


def test_it_is_a_node_of_a_graph_with_another_context():
    agent = create_focus_agent(ScriptedPolicy(*focus_lines(LEFT, answer="red")), depth="none")
    output = supervisor(agent).invoke(asked(agent), context=Elsewhere())
    assert [message.text for message in output["messages"]] == ["What colour?", "red"]


def test_its_events_stream_through_the_parent():
    agent = create_focus_agent(ScriptedPolicy(*focus_lines(LEFT, answer="red")), depth="none")
    parts = list(supervisor(agent).stream(asked(agent), stream_mode="custom", subgraphs=True))
    events = [event for _, event in parts]
    assert any(isinstance(event, CropTaken) for event in events)
    assert isinstance(events[-1], AnswerGiven)


def test_a_parent_s_checkpointer_carries_a_pause_for_a_person():
    policy = ScriptedPolicy(*focus_lines(LEFT, answer="red"))
    agent = create_focus_agent(policy, depth="none", interrupt_on_focus=True)
    parent = supervisor(agent, checkpointer=MemorySaver())
    paused = parent.invoke(asked(agent), THREAD)
    assert paused["__interrupt__"][0].value["step"] == 1
    assert parent.invoke(Command(resume="approve"), THREAD)["messages"][-1].text == "red"
    assert policy.calls == 2


def test_it_serves_a_state_of_another_shape_through_a_function():
    class Ticket(TypedDict):
        picture: str
        colour: str

    agent = create_focus_agent(ScriptedPolicy(*focus_lines(LEFT, answer="red")), depth="none")

    def look(ticket: Ticket) -> dict[str, str]:
        output = agent.invoke({"messages": [question_message("What colour?", image=ticket["picture"])]})
        return {"colour": output["result"]["answer"]}

    graph = StateGraph(Ticket)
    graph.add_node("look", look)
    graph.add_edge(START, "look")
    output = graph.compile().invoke({"picture": agent.context.images.put(IMAGE)})
    assert output["colour"] == "red"


def marked(messages: list[Message]) -> str:
    """A policy's turn that repeats the mark of its question."""
    mark = messages[0].text.split("mark-")[1].split("?")[0]
    spans = focus_lines(LEFT, answer=mark)
    return spans[sum(turn.role == "assistant" for turn in messages)]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_many_threads_do_not_get_each_other_s_answers(checkpointed):
    memory = MemorySaver() if checkpointed else None
    agent = create_focus_agent(ScriptedPolicy(marked), depth="none", checkpointer=memory)

    def one(number: int) -> bool:
        thread = str(number) if checkpointed else None
        return agent.ask(f"mark-{number}?", image=IMAGE, thread_id=thread).answer == str(number)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(64)))


def test_many_tasks_do_not_get_each_other_s_answers():
    agent = create_focus_agent(ScriptedPolicy(marked), depth="none")

    async def everyone() -> list[str]:
        results = await asyncio.gather(*(agent.aask(f"mark-{number}?", image=IMAGE) for number in range(64)))
        return [result.answer for result in results]

    assert asyncio.run(everyone()) == [str(number) for number in range(64)]


def test_its_input_and_output_can_be_described():
    agent = create_focus_agent(ScriptedPolicy(""), depth="none")
    assert "messages" in agent.get_input_jsonschema()["properties"]
    assert set(agent.get_output_jsonschema()["properties"]) == {"messages", "result"}
    assert "max_steps" in agent.get_context_jsonschema()["properties"]
    assert agent.with_config(tags=["a"]).context is agent.context


def test_a_run_may_bring_just_the_settings_that_differ():
    agent = create_focus_agent(ScriptedPolicy("<answer>red</answer>"), depth="none")
    output = agent.invoke(asked(agent), context={"mode": "direct"})
    assert output["result"]["mode"] == "direct"
    with pytest.raises(UsageError, match="no setting 'mood'"):
        agent.invoke(asked(agent), context={"mood": "direct"})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"allow_urls": True}, "allow_urls is not taken with a run"),
        ({"limits": {"max_pixels": 10**9}}, "limits is not taken with a run"),
        ({"max_steps": 5}, "can lower max_steps and not raise it, from 4 to 5"),
        ({"deadline_s": 1e9}, "can lower deadline_s"),
        ({"call_timeout_s": 61}, "can lower call_timeout_s"),
        ({"max_new_tokens": 10**6}, "can lower max_new_tokens"),
        ({"max_images": 17}, "can lower max_images"),
    ],
)
def test_the_settings_of_a_run_which_a_server_s_client_may_send_lift_no_limit(settings, said):
    agent = create_focus_agent(ScriptedPolicy("<answer>red</answer>"), depth="none", mode="direct", max_steps=4)
    with pytest.raises(UsageError, match=said):
        agent.invoke(asked(agent), context=settings)
    lower = {"max_steps": 2, "max_new_tokens": 100, "deadline_s": 9, "max_images": 16}
    assert agent.invoke(asked(agent), context=lower)["result"]["answer"] == "red"
    assert not {"allow_urls", "limits"} & set(agent.get_context_jsonschema()["properties"])
    trusted = replace(agent.context, config=focus_config(mode="direct", **settings))
    assert agent.invoke(asked(agent), context=trusted)["result"]["answer"] == "red"
