"""The shortest way: one function, one question, one answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sifthinker.agent.config import DepthSource, focus_config
from sifthinker.agent.focus_agent import FocusAgent
from sifthinker.agent.graph import create_focus_agent
from sifthinker.agent.result import FocusResult
from sifthinker.nodes.context import Mode, RunStopped
from sifthinker.nodes.events import FocusEvent
from sifthinker.nodes.images import ImageSource, LoadedImage, load_image
from sifthinker.nodes.tools import VisualTool, find_tools
from sifthinker.policy.base import Policy
from sifthinker.policy.errors import UsageError


def ask(
    image: ImageSource,
    question: str,
    *,
    options: Sequence[str] | None = None,
    policy: str | Policy = "embedded",
    mode: Mode = "tools",
    depth: DepthSource = None,
    tools: Iterable[VisualTool | str] = (),
    on_event: Callable[[FocusEvent], None] | None = None,
    **settings: Any,
) -> FocusResult:
    """Answer a question about an image, and say where the policy looked.

        >>> ask("scene.png", "Which is closer, the red cube or the blue sphere?").answer  # doctest: +SKIP
        'the red cube'

    Args:
        image: a path, the bytes of a file, or a Pillow image (PNG, JPEG, WebP).
        question: in words.
        options: the answers to choose from; the answer is then one of them word for word, or a warning says it is not.
        policy: "embedded", a hub id, a folder, "openai:MODEL@URL", or a policy.
        mode: "direct" (answer only), "internal" (the whole trace in one completion), "tools" (crops at each step),
            "adaptive" (internal first, and tools only where that is not enough; the result's `adaptive` says why).
        depth: where depth comes from (`load_depth`); None: what suits the policy, "none": boxes go without.
        tools: visual tools beside the crop (`sifthinker.nodes.tools`), or their names.
        on_event: called with each event as it comes.
        settings: further fields of `FocusConfig`: max_steps, max_new_tokens, temperature, allow_urls, limits, …

    Raises:
        UsageError: wrong use (exit code 2). ImageError, DepthError, PolicyError: it could not be answered (1).
    """
    given: dict[str, Any] = {"policy": policy, "mode": mode, "depth": depth, "tools": tools}
    if on_event is None:
        agent, loaded = _prepared(image, question, **given, **settings)
        return agent.ask(question, image=loaded, options=options or ())
    for part in ask_stream(image, question, options=options, **given, **settings):
        if isinstance(part, FocusResult):
            return part
        on_event(part)
    raise RuntimeError("expected the run to end in a result: no person is asked here")


def ask_stream(
    image: ImageSource,
    question: str,
    *,
    options: Sequence[str] | None = None,
    policy: str | Policy = "embedded",
    mode: Mode = "tools",
    depth: DepthSource = None,
    tools: Iterable[VisualTool | str] = (),
    **settings: Any,
) -> Iterator[FocusEvent | FocusResult]:
    """`ask`, step by step: the events as they come, then the result. What is cheap to check is checked first."""
    agent, loaded = _prepared(image, question, policy=policy, mode=mode, depth=depth, tools=tools, **settings)
    yield from agent.ask_stream(question, image=loaded, options=options or ())


async def aask(
    image: ImageSource,
    question: str,
    *,
    options: Sequence[str] | None = None,
    policy: str | Policy = "embedded",
    mode: Mode = "tools",
    depth: DepthSource = None,
    tools: Iterable[VisualTool | str] = (),
    on_event: Callable[[FocusEvent], None] | None = None,
    **settings: Any,
) -> FocusResult:
    """`ask` for asynchronous programs: loading and answering happen in threads.

    Where the task is cancelled the run ends before its next turn. `on_event` is called in one of those threads.
    """
    given: dict[str, Any] = {"policy": policy, "mode": mode, "depth": depth, "tools": tools, **settings}
    if on_event is None:
        agent, loaded = await asyncio.to_thread(_prepared, image, question, **given)
        return await agent.aask(question, image=loaded, options=options or ())
    cancelled = threading.Event()

    def hear(event: FocusEvent) -> None:
        if cancelled.is_set():
            raise RunStopped("The run was stopped.")
        on_event(event)

    try:
        return await asyncio.to_thread(ask, image, question, options=options, on_event=hear, **given)
    except asyncio.CancelledError:
        cancelled.set()
        raise


def _prepared(
    image: ImageSource,
    question: str,
    *,
    policy: str | Policy,
    mode: Mode,
    depth: DepthSource,
    tools: Iterable[VisualTool | str],
    **settings: Any,
) -> tuple[FocusAgent, LoadedImage]:
    """Everything that can be wrong is found before the policy is loaded."""
    if not question.strip():
        raise UsageError("The question is empty: say what you want to know about the image.")
    config = focus_config(mode=mode, **settings)
    if config.interrupt_on_focus:
        raise UsageError("interrupt_on_focus needs a memory to pause in: use create_focus_agent with a checkpointer.")
    loaded = load_image(image, limits=config.limits, allow_urls=config.allow_urls)
    return create_focus_agent(policy, depth=depth, mode=mode, tools=find_tools(tools), **settings), loaded
