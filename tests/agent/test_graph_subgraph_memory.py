"""An agent that remembers, called from a node of a graph that does not."""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from PIL import Image
from scripted import ScriptedPolicy, focus_lines

from sifthinker.agent import create_focus_agent
from sifthinker.nodes.questions import question_message


class Around(TypedDict, total=False):
    said: str


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_an_agent_with_a_memory_answers_inside_a_graph_without_one(way: str) -> None:
    policy = ScriptedPolicy(*focus_lines((0.1, 0.2, 0.5, 0.6), answer="red"))
    agent = create_focus_agent(policy, depth="none", checkpointer=InMemorySaver())
    image = agent.context.images.put(Image.new("RGB", (64, 48)))

    def look(state: Around) -> Around:
        found: dict[str, Any] = agent.invoke({"messages": [question_message("What colour?", image=image)]})
        return {"said": found["messages"][-1].text}

    async def alook(state: Around) -> Around:
        found: dict[str, Any] = await agent.ainvoke({"messages": [question_message("What colour?", image=image)]})
        return {"said": found["messages"][-1].text}

    graph = StateGraph(Around)
    graph.add_node("look", look if way == "invoke" else alook)
    graph.add_edge(START, "look")
    graph.add_edge("look", END)
    parent = graph.compile()
    said = parent.invoke({}) if way == "invoke" else asyncio.run(parent.ainvoke({}))
    assert said["said"] == "red"
