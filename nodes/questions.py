"""Questions as LangChain messages: written with image blocks that carry hashes, read from what other applications send.

An image block may come as base64 (LangChain's, OpenAI's or Anthropic's form), as a file id (the hash of a stored image)
or, where the settings allow it, as an address. `intern_images` brings all of them to file ids, so that pixels never
reach a checkpoint. A path is never taken from a message: only the user's own process names files.
"""

from __future__ import annotations

import base64
import binascii
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from sifthinker.nodes.context import FocusConfig
from sifthinker.nodes.images import ImageStore, load_image
from sifthinker.policy.errors import ImageError, UsageError

logger = logging.getLogger(__name__)
EXTRA = "sifthinker"
"""Key of this package's data in a message's `additional_kwargs`."""


@dataclass(frozen=True)
class Question:
    """What a message asks."""

    text: str
    image: str
    """Hash of the image in the store."""
    options: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What was said when the image was loaded."""


@dataclass(frozen=True)
class Earlier:
    """A question that was answered before, about the same image."""

    question: str
    options: tuple[str, ...] = field(default=())
    trace: str = ""
    """What the policy said then, its turns joined."""


def question_message(
    question: str, *, image: str | None = None, options: Sequence[str] = (), warnings: Sequence[str] = ()
) -> HumanMessage:
    """A question as the graph takes it.

    Args:
        question: the words.
        image: hash of an image in the store; None: the image of the question before.
        options: the answers to choose from.
        warnings: what was said when the image was loaded; the result repeats it.

    Raises:
        UsageError: the options are one text.
    """
    if isinstance(options, str):
        raise UsageError(f"Expected the options as a list of answers, got the text {options!r}.")
    content: list[str | dict[str, Any]] = [{"type": "text", "text": question}]
    if image is not None:
        content.insert(0, {"type": "image", "file_id": image})
    extra: dict[str, Any] = {}
    if options:
        extra["options"] = list(options)
    if warnings:
        extra["warnings"] = list(warnings)
    return HumanMessage(content=content, id=_new_id(), additional_kwargs={EXTRA: extra} if extra else {})


def answer_message(answer: str, *, image: str, trace: str, policy: str, tokens: Sequence[int]) -> AIMessage:
    """An answer as the graph gives it; the trace goes along, so that a later question can refer to it."""
    return AIMessage(
        content=answer,
        id=_new_id(),
        additional_kwargs={EXTRA: {"image": image, "trace": trace}},
        response_metadata={"model_name": policy},
        usage_metadata={"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": tokens[0] + tokens[1]},
    )


def with_id(message: BaseMessage) -> BaseMessage:
    """The message with an id: the same one when a checkpoint is read again."""
    return message if message.id is not None else message.model_copy(update={"id": _new_id()})


def intern_images(message: BaseMessage, images: ImageStore, config: FocusConfig) -> BaseMessage:
    """The message with every image in the store and named by its hash; itself when nothing is to be done.

    Raises:
        ImageError: an image that is refused, or an address where addresses are not allowed.
    """
    if not isinstance(message, HumanMessage) or isinstance(message.content, str):
        return message
    blocks = cast("list[dict[str, Any]]", message.content_blocks)
    if not any(block["type"] in ("image", "non_standard") and "file_id" not in block for block in blocks):
        return message
    content: list[str | dict[str, Any]] = []
    warnings: list[str] = []
    for block in blocks:
        source = _source(block)
        if source is None:
            content.append(block)
            continue
        loaded = load_image(source, limits=config.limits, allow_urls=config.allow_urls)
        content.append({"type": "image", "file_id": images.put(loaded.image)})
        warnings += loaded.warnings
    extra = dict(message.additional_kwargs.get(EXTRA, {}))
    if warnings:
        extra["warnings"] = [*extra.get("warnings", []), *warnings]
    kwargs = {**message.additional_kwargs, EXTRA: extra} if extra else message.additional_kwargs
    return HumanMessage(content=content, id=message.id, name=message.name, additional_kwargs=kwargs)


def intern_all(messages: Sequence[BaseMessage], images: ImageStore, config: FocusConfig) -> list[BaseMessage]:
    """`intern_images` of each message of a conversation.

    An image that cannot be loaded and is not the one that is asked about becomes a sentence in its place: one bad
    picture does not end a conversation.

    Raises:
        ImageError: the last image is refused.
    """
    shown = [index for index, message in enumerate(messages) if _shows_an_image(message)]
    taken: list[BaseMessage] = []
    for index, message in enumerate(messages):
        try:
            taken.append(intern_images(message, images, config))
        except ImageError as error:
            if index == shown[-1]:
                raise
            logger.warning("An earlier image of the conversation is left out: %s", error)
            taken.append(_without_images(message))
    return taken


def _shows_an_image(message: BaseMessage) -> bool:
    return isinstance(message, HumanMessage) and any(_is_image(block) for block in message.content_blocks)


def _is_image(block: Any) -> bool:
    if block["type"] == "non_standard":
        return isinstance(block["value"], dict) and "image_url" in block["value"]
    return bool(block["type"] == "image")


def _without_images(message: BaseMessage) -> BaseMessage:
    """The message with a sentence for each image that is not in the store."""
    said = {"type": "text", "text": "(an image that could not be loaded)"}
    content = [said if _is_image(block) and "file_id" not in block else block for block in message.content_blocks]
    return message.model_copy(update={"content": content})


def _new_id() -> str:
    return str(uuid.uuid4())


def _source(block: dict[str, Any]) -> bytes | str | None:
    """The bytes or the address of an image block that is not in the store yet; None for any other block."""
    if block["type"] == "non_standard":  # {"type": "image_url", "image_url": "https://…"}, not in LangChain's own form
        value = block["value"].get("image_url") if isinstance(block["value"], dict) else None
        url = value.get("url") if isinstance(value, dict) else value
        return _address(url) if isinstance(url, str) else None
    if block["type"] != "image" or "file_id" in block:
        return None
    if "base64" in block:
        return _decoded(block["base64"])
    return _address(block["url"]) if "url" in block else None


def _address(url: str) -> bytes | str:
    if url.startswith("data:"):
        return _decoded(url.partition(";base64,")[2])
    if not url.lower().startswith(("http://", "https://")):
        raise ImageError("url", "Expected an image as base64, file id or http(s) address in a message, not a path.")
    return url


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("not_an_image", "The base64 of the message's image block cannot be decoded.") from error


def read_question(messages: Sequence[BaseMessage]) -> Question:
    """The question of the last human message, about its image or else the last one before it.

    Raises:
        UsageError: no question, an empty one, no image, or several images in one message.
    """
    asked = [message for message in messages if isinstance(message, HumanMessage)]
    if not asked:
        raise UsageError("Expected a human message with a question, got none.")
    text = asked[-1].text.strip()
    if not text:
        raise UsageError("The question is empty: say what you want to know about the image.")
    images = next((found for message in reversed(asked) if (found := image_ids(message))), [])
    if not images:
        raise UsageError("There is no image to look at: put one into the message with the question.")
    if len(images) > 1:
        raise UsageError(f"Expected one image in a question, got {len(images)}: ask about them one after another.")
    extra = asked[-1].additional_kwargs.get(EXTRA, {})
    return Question(
        text=text,
        image=images[0],
        options=tuple(str(option) for option in extra.get("options", ())),
        warnings=tuple(extra.get("warnings", ())),
    )


def image_ids(message: BaseMessage) -> list[str]:
    """The hashes of a message's images."""
    if isinstance(message.content, str):
        return []
    return [
        block["file_id"]
        for block in message.content
        if isinstance(block, dict) and block.get("type") == "image" and "file_id" in block
    ]


def earlier_questions(messages: Sequence[BaseMessage], image: str, *, limit: int) -> list[Earlier]:
    """The last `limit` questions about an image that this graph answered, oldest first.

    Messages of other agents, and questions about other images, are passed over.
    """
    earlier: list[Earlier] = []
    asked: HumanMessage | None = None
    for message in messages:
        if isinstance(message, HumanMessage):
            asked = message
        elif isinstance(message, AIMessage) and asked is not None:
            look = message.additional_kwargs.get(EXTRA, {})
            if look.get("image") == image and look.get("trace"):
                options = tuple(asked.additional_kwargs.get(EXTRA, {}).get("options", ()))
                earlier.append(Earlier(asked.text.strip(), options, look["trace"]))
            asked = None if look else asked
    return earlier[-limit:] if limit else []
