"""A run keeps hold of what it looks at, whatever is asked beside it, and of nothing once it has ended."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import HumanMessage
from PIL import Image
from scripted import ScriptedPolicy, focus_lines

from sifthinker.agent import FocusResult, create_focus_agent
from sifthinker.agent.focus_agent import FocusAgent
from sifthinker.nodes.context import HeldViews, Views
from sifthinker.nodes.depth import DepthMap
from sifthinker.nodes.image_store import HeldImages
from sifthinker.nodes.images import MemoryImageStore, load_image
from sifthinker.nodes.questions import question_message

LEFT, RIGHT = (0.0, 0.2, 0.4, 0.8), (0.6, 0.2, 1.0, 0.8)


class CountingDepth:
    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, image: Image.Image) -> DepthMap:
        self.calls += 1
        return DepthMap(np.full((image.height, image.width), 0.5, np.float32), source=self.name)


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (64, 48), (shade, shade, shade))


def crowded() -> tuple[FocusAgent, CountingDepth]:
    """An agent whose store and views have room for one image, and that is asked about others at each of its turns."""
    depth, others = CountingDepth(), iter(range(100, 200))

    def amid_others(line: str) -> Callable[[Any], str]:
        def say(messages: object) -> str:
            agent.context.view(agent.context.images.put(picture(next(others))))
            return line

        return say

    policy = ScriptedPolicy(*map(amid_others, focus_lines(LEFT, RIGHT, answer="red")))
    made = create_focus_agent(policy, depth=depth, images=MemoryImageStore(max_bytes=1))
    agent = made.copy({"context": replace(made.context, views=Views(max_bytes=1))})
    return agent, depth


def forget(agent: FocusAgent) -> None:
    """What others than a run might hold of an image."""
    agent.context.view(agent.context.images.put(picture(8)))
    agent.context.policy.heard.clear()  # type: ignore[attr-defined]
    gc.collect()


def base64_message() -> HumanMessage:
    file = io.BytesIO()
    picture(7).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    image = {"type": "image", "base64": data, "mime_type": "image/png"}
    return HumanMessage(content=[image, {"type": "text", "text": "What?"}])


def streamed(agent: FocusAgent) -> str:
    *_, result = agent.ask_stream("What?", image=picture(7))
    assert isinstance(result, FocusResult)
    return result.answer


async def streamed_asynchronously(agent: FocusAgent) -> str:
    last = [part async for part in agent.astream({"messages": [base64_message()]}, stream_mode="values")][-1]
    return str(last["result"]["answer"])


WAYS: dict[str, Callable[[FocusAgent], str]] = {
    "ask": lambda agent: agent.ask("What?", image=picture(7)).answer,
    "ask_stream": streamed,
    "aask": lambda agent: asyncio.run(agent.aask("What?", image=picture(7))).answer,
    "invoke": lambda agent: agent.invoke({"messages": [base64_message()]})["result"]["answer"],
    "astream": lambda agent: asyncio.run(streamed_asynchronously(agent)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_does_not_lose_its_image_to_others(way: str) -> None:
    agent, depth = crowded()
    assert WAYS[way](agent) == "red"
    assert depth.calls == 1 + 3, "its own depth is told once"


def test_a_question_with_a_context_of_its_own_does_not_either() -> None:
    agent, _ = crowded()
    context, loaded = replace(agent.context, views=Views(max_bytes=1)), load_image(picture(7))
    asked = question_message("What?", image=context.images.put(loaded.image))
    context.images.put(picture(8))  # before the run begins
    assert agent.invoke({"messages": [asked]}, context=context)["result"]["answer"] == "red"


def test_what_a_run_held_is_let_go_of_at_its_end() -> None:
    agent, _ = crowded()
    sha256 = load_image(picture(7)).sha256
    agent.ask("What?", image=picture(7))
    forget(agent)
    assert sha256 not in agent.context.images


def test_a_run_that_nobody_listens_to_any_more_lets_go() -> None:
    agent, _ = crowded()
    sha256 = load_image(picture(7)).sha256
    with closing(agent.stream({"messages": [base64_message()]}, stream_mode="updates")) as parts:  # type: ignore[type-var]
        next(parts)
        forget(agent)
        assert sha256 in agent.context.images
    gc.collect()
    assert sha256 not in agent.context.images


def test_of_many_images_that_a_run_brings_those_not_looked_at_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HeldImages(MemoryImageStore(max_bytes=1))
    monkeypatch.setattr(store._brought, "max_bytes", 2 * 4 * 64 * 48)
    brought = [store.put(picture(shade)) for shade in range(4)]
    assert [sha256 in store for sha256 in brought] == [False, False, True, True]


def test_a_run_inside_a_run_s_context_holds_nothing_of_its_own() -> None:
    agent, _ = crowded()
    with agent.context.for_a_run() as outer, outer.for_a_run() as inner:
        assert inner is outer
        assert isinstance(outer.views, HeldViews)
