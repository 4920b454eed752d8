"""The agent as a LangChain tool: in `create_agent`, by name, by id, by the user's own picture; never by any path."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import MemorySaver
from langgraph.types import Command
from PIL import Image
from scripted import ScriptedPolicy, focus_lines

from sifthinker.agent import create_focus_agent
from sifthinker.agent.events import CropTaken
from sifthinker.agent.sources import ImageSources
from sifthinker.agent.tool import FocusTool, focus_tool
from sifthinker.nodes.images import MemoryImageStore
from sifthinker.policy.chat_model import FocusChatModel
from sifthinker.policy.errors import ImageError, PolicyUnavailable, UsageError

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8))
LEFT = (0.1, 0.2, 0.5, 0.6)


def looking(*lines: Any, **options: Any) -> FocusTool:
    policy = ScriptedPolicy(*(lines or focus_lines(LEFT, answer="red")))
    return focus_tool(policy, depth="none", **{"images": {"door": IMAGE}, **options})


def png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


class Model(GenericFakeChatModel):
    """A chat model that says what it was given to say, and takes tools."""

    def bind_tools(self, tools: Any, **options: Any) -> Model:
        return self


def calls(**arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "look_at_image", "args": arguments, "id": "1"}])


def test_a_model_names_an_image_and_is_told_answer_and_regions():
    tool = looking()
    message = tool.invoke(
        {"type": "tool_call", "name": tool.name, "id": "1", "args": {"question": "What colour?", "image": "door"}}
    )
    assert isinstance(message, ToolMessage)
    assert message.text.startswith("Answer: red\n1. [0.10, 0.20 – 0.50, 0.60] depth 0.50: a thing 1")
    assert message.status == "success"
    result = tool.result(message)
    assert [crop.size for crop in result.crops] == [(80, 40)]
    assert result.steps[0].boxes[0].bbox_2d == LEFT
    assert "door" in tool.description
    assert message.artifact["answer"] == "red"
    assert len(str(message.artifact)) < 3_000


def test_the_id_of_a_stored_image_will_do_and_without_a_name_the_only_one():
    tool = looking()
    stored = tool.agent.context.images.put(IMAGE)
    assert tool.invoke({"question": "What?", "image": stored}).startswith("Answer: red")
    assert looking().invoke({"question": "What?"}).startswith("Answer: red")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"question": "What?", "image": "/etc/passwd"}, "There is no image '/etc/passwd' here: known are door"),
        ({"question": "What?", "image": "https://example.com/a.png"}, "There is no image"),
        ({"question": "  ", "image": "door"}, "The question is empty"),
    ],
)
def test_what_cannot_be_is_told_to_the_model(arguments, said):
    message = looking().invoke({"type": "tool_call", "name": "look_at_image", "id": "1", "args": arguments})
    assert message.status == "error"
    assert said in message.text
    with pytest.raises(UsageError, match="tells of no run"):
        looking().result(message)


def test_a_policy_that_fails_is_told_to_the_model():
    tool = looking(PolicyUnavailable("The server refused."))
    assert tool.invoke({"question": "What?"}) == "The server refused."


def test_options_reach_the_policy():
    tool = looking()
    tool.invoke({"question": "What?", "options": ["red", "blue"]})
    assert "Options: red; blue" in tool.agent.context.policy.heard[0][0].text


def test_it_is_asked_asynchronously():
    import asyncio

    assert asyncio.run(looking().ainvoke({"question": "What?"})).startswith("Answer: red")


def agent_with(tool: FocusTool, *said: AIMessage, **options: Any) -> Any:
    agents = pytest.importorskip("langchain.agents", reason="needs langchain")
    messages: Iterator[AIMessage] = iter(said)
    return agents.create_agent(Model(messages=messages), tools=[tool], **options)


def test_create_agent_looks_at_the_picture_that_the_user_sent():
    tool = looking(images=None)
    agent = agent_with(tool, calls(question="What colour?"), AIMessage("It is red."))
    block = {"type": "image", "base64": png(IMAGE), "mime_type": "image/png"}
    asked = {"messages": [HumanMessage([block, {"type": "text", "text": "Which colour is it?"}])]}

    parts = list(agent.stream(asked, stream_mode=["custom", "values"], subgraphs=True))
    events = [part for _, mode, part in parts if mode == "custom"]
    assert any(isinstance(event, CropTaken) and event.box == LEFT for event in events)
    *_, told, last = [part for _, mode, part in parts if mode == "values" and "messages" in part][-1]["messages"]
    assert last.text == "It is red."
    assert told.text.startswith("Answer: red")
    assert [crop.size for crop in tool.result(told).crops] == [(80, 40)]


def test_without_any_image_the_model_is_told():
    agent = agent_with(looking(images=None), calls(question="What?"), AIMessage("I see none."))
    told = agent.invoke({"messages": "What?"})["messages"][-2]
    assert told.status == "error"
    assert "sent no image" in told.text


def test_two_calls_at_once_do_not_mix():
    def marked(messages: Any) -> str:
        mark = "one" if "one?" in messages[0].text else "two"
        return focus_lines(LEFT, answer=mark)[sum(turn.role == "assistant" for turn in messages)]

    both = AIMessage(
        "",
        tool_calls=[{"name": "look_at_image", "args": {"question": f"{mark}?"}, "id": mark} for mark in ("one", "two")],
    )
    agent = agent_with(looking(marked), both, AIMessage("done"), checkpointer=MemorySaver())
    messages = agent.invoke({"messages": "?"}, {"configurable": {"thread_id": "t"}})["messages"]
    told = {message.tool_call_id: message.text.split("\n")[0] for message in messages if message.type == "tool"}
    assert told == {"one": "Answer: one", "two": "Answer: two"}


def test_a_person_can_step_in_through_the_outer_agent():
    tool = looking(interrupt_on_focus=True)
    agent = agent_with(tool, calls(question="What?"), AIMessage("done"), checkpointer=MemorySaver())
    thread = {"configurable": {"thread_id": "t"}}
    paused = agent.invoke({"messages": "?"}, thread)
    assert paused["__interrupt__"][0].value["boxes"][0]["bbox_2d"] == list(LEFT)
    messages = agent.invoke(Command(resume="approve"), thread)["messages"]
    assert messages[-2].text.startswith("Answer: red")
    assert tool.agent.context.policy.calls == 2


def test_only_files_inside_the_opened_folders_are_found(tmp_path: Path):
    (tmp_path / "open" / "more").mkdir(parents=True)
    (tmp_path / "openly").mkdir()
    for place in ("open/a.png", "open/more/b.png", "secret.png", "openly/c.png"):
        IMAGE.save(tmp_path / place)
    os.symlink(tmp_path / "secret.png", tmp_path / "open" / "link.png")
    os.symlink(tmp_path / "open" / "loop.png", tmp_path / "open" / "loop.png")
    (tmp_path / "open" / "notes.txt").write_text("no picture")
    sources = ImageSources(MemoryImageStore(), folders=[tmp_path / "open"])

    stored = sources.find("a.png")
    assert (
        sources.find("more/b.png") == sources.find(str(tmp_path / "open" / "a.png")) == sources.find(stored) == stored
    )
    assert sources.names() == ["a.png", "more/b.png"]
    refused = [
        "../secret.png",
        "link.png",
        "loop.png",
        "../openly/c.png",
        str(tmp_path / "secret.png"),
        "more",
        "",
        "\0",
    ]
    for name in refused:
        with pytest.raises(ImageError) as error:
            sources.find(name)
        assert error.value.reason == "missing"
    with pytest.raises(ImageError) as error:
        sources.find("notes.txt")
    assert error.value.reason == "not_an_image"
    with pytest.raises(UsageError, match="folder of images"):
        ImageSources(MemoryImageStore(), folders=[tmp_path / "nowhere"])


units = pytest.importorskip("langchain_tests.unit_tests")
suites = pytest.importorskip("langchain_tests.integration_tests")


class _OnTheTool:
    @property
    def tool_constructor(self) -> FocusTool:
        return looking()

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"question": "What colour is it?", "image": "door"}


class TestStandardUnits(_OnTheTool, units.ToolsUnitTests):  # type: ignore[name-defined, misc]
    """LangChain's unit suite for tools."""


@pytest.mark.asyncio
@pytest.mark.filterwarnings("ignore:.*marked with '@pytest.mark.asyncio' but it is not an async function")
class TestStandardIntegration(_OnTheTool, suites.ToolsIntegrationTests):  # type: ignore[name-defined, misc]
    """LangChain's integration suite for tools."""


def test_an_agent_made_already_will_do():
    agent = create_focus_agent(ScriptedPolicy("<answer>red</answer>"), depth="none", mode="direct")
    assert focus_tool(agent=agent, images={"door": IMAGE}).invoke({"question": "What?"}).startswith("Answer: red")


def test_a_policy_thinks_in_create_agent_and_an_agent_looks_for_it():
    agents = pytest.importorskip("langchain.agents", reason="needs langchain")
    call = '{"name": "look_at_image", "arguments": {"question": "What colour?", "image": "door"}}'
    thinker = ScriptedPolicy(f"<tool_call>{call}</tool_call>", "The door is red.", dialect="native")
    agent = agents.create_agent(FocusChatModel(policy=thinker), tools=[looking()])
    messages = agent.invoke({"messages": "What colour is the door?"})["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[2].text.startswith("Answer: red")
    assert messages[3].text == "The door is red."
    assert "Answer: red" in thinker.heard[1][-1].text


def test_create_agent_gives_an_object_where_one_is_asked_for():
    agents = pytest.importorskip("langchain.agents", reason="needs langchain")
    structured = pytest.importorskip("langchain.agents.structured_output")
    schema = {
        "title": "Door",
        "description": "A door.",
        "type": "object",
        "properties": {"colour": {"type": "string"}},
        "required": ["colour"],
    }
    call = '<tool_call>{"name": "Door", "arguments": {"colour": "red"}}</tool_call>'
    agent = agents.create_agent(
        FocusChatModel(policy=ScriptedPolicy(call, dialect="native")),
        tools=[looking()],
        response_format=structured.ToolStrategy(schema),
    )
    assert agent.invoke({"messages": "What colour is the door?"})["structured_response"] == {"colour": "red"}
