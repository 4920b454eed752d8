"""LangChain's messages as a policy takes them: text and pictures, and calls of tools as text."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from PIL import Image

from sifthinker.policy.chat_tools import call_words
from sifthinker.policy.errors import ImageError, UsageError
from sifthinker.policy.image_files import ImageLimits, check_bytes, open_checked
from sifthinker.policy.image_modes import set_upright, to_rgb
from sifthinker.policy.messages import ImagePart, Message, Part, Role, TextPart, alternating
from sifthinker.policy.prompts import TOOL_CLOSE, TOOL_OPEN

_OWN_TAG = re.compile(r"<(?=\s*/?\s*tool_response)", re.IGNORECASE)
_ROLES: dict[str, Role] = {"system": "system", "human": "user", "ai": "assistant", "tool": "user", "function": "user"}


def policy_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """LangChain messages as a policy takes them. A tool's result becomes a user turn wrapped in `<tool_response>`, and
    neighbouring turns of one speaker one turn.

    Raises:
        UsageError: a kind of message or content that no policy takes, an image by address.
        ImageError: an image that is refused.
    """
    return alternating(_turn(each) for each in messages)


def _turn(said: BaseMessage) -> Message:
    role = _ROLES.get(said.type)
    if said.type == "chat" and getattr(said, "role", "") in ("system", "user", "assistant"):
        role = said.role  # type: ignore[attr-defined]
    if role is None:
        raise UsageError(f"A policy takes system, human, ai and tool messages, not one of type {said.type!r}.")
    parts: list[Part] = []
    for block in said.content_blocks:
        if block["type"] in ("text", "text-plain"):
            parts.append(TextPart(str(block.get("text") or "")))
        elif block["type"] == "image":
            parts.append(ImagePart(_image(dict(block))))
        elif role != "assistant":  # of an assistant's earlier turn only what it said is repeated
            raise UsageError(f"A policy takes text and images, not content of type {block['type']!r}.")
    if isinstance(said, AIMessage) and said.tool_calls:
        parts.append(TextPart(call_words(said)))
    if said.type in ("tool", "function"):
        # What a tool found may have been written by anyone: it cannot close the reply that it stands in.
        enclosed = [TextPart(_OWN_TAG.sub("< ", part.text)) if isinstance(part, TextPart) else part for part in parts]
        parts = [TextPart(TOOL_OPEN), *enclosed, TextPart(TOOL_CLOSE)]
    return Message(role, tuple(parts))


def _image(block: dict[str, Any]) -> Image.Image:
    """The upright RGB image of a content block, checked before it is decoded."""
    data = block.get("base64")
    if not isinstance(data, str):
        raise UsageError("Give images as base64: nothing is fetched from an address, a file or a provider's store.")
    limits = ImageLimits()
    check_bytes(len(data) * 3 // 4 - 2, limits)
    try:
        image, _ = open_checked(base64.b64decode(data, validate=True), limits)
    except (binascii.Error, ValueError) as error:
        raise ImageError("not_an_image", "The image is not valid base64.") from error
    return to_rgb(set_upright(image, []))[0]
