"""The first node: what is asked, about which image, and how deep is it."""

from __future__ import annotations

import time
from typing import Any

from langgraph.runtime import Runtime

from sifthinker.nodes.context import FocusContext
from sifthinker.nodes.domain import looks_like_block_world
from sifthinker.nodes.events import Perceived, Warned
from sifthinker.nodes.questions import intern_all, read_question
from sifthinker.nodes.state import FocusState, Look

BLOCK_WORLD = "block world"
"""The only domain a profile can declare so far (`PolicyProfile.domain`)."""


def perceive(state: FocusState, runtime: Runtime[FocusContext]) -> dict[str, Any]:
    """Begin a question: read it from the messages, check its image, estimate the depth.

    Raises:
        UsageError: no question, an empty one, or no image. ImageError: the image is refused or not in the store.
        DepthError: its depth cannot be told.
    """
    started = time.perf_counter()
    context = runtime.context
    messages = intern_all(state["messages"], context.images, context.config)
    question = read_question(messages)
    view = context.view(question.image)
    profile = context.policy.profile
    warnings = [*question.warnings, *profile.notes]
    if profile.domain == BLOCK_WORLD and not looks_like_block_world(view.image):
        warnings.append(
            f"The policy {profile.name!r} knows the block world only, and this image is not of it: its answer means "
            "nothing here. Name a real policy: a hub id such as Qwen/Qwen3-VL-4B-Instruct, a folder, or "
            "openai:MODEL@URL for a server."
        )
    asked_for = [tool.name for tool in context.tools if not tool.always]
    if asked_for and not context.offered:
        why = "was trained on crops alone" if profile.dialect == "sif" else "is told of none (visual_tools)"
        warnings.append(f"The policy {profile.name!r} {why}: the tools {', '.join(asked_for)} are not offered to it.")
    runtime.stream_writer(
        Perceived(image=question.image, size=view.image.size, depth=view.depth.source if view.depth else None)
    )
    for warning in warnings:
        runtime.stream_writer(Warned(message=warning))
    look = Look(
        question=question.text,
        options=list(question.options),
        image=question.image,
        mode=context.config.mode,
        warnings=warnings,
        seconds=time.perf_counter() - started,
    )
    interned = [new for new, old in zip(messages, state["messages"], strict=True) if new is not old]
    return {"messages": interned, "look": look, "turns": None, "result": None}
