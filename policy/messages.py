"""What is said to a policy: messages of text and images, in the order in which they are seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

Role = Literal["system", "user", "assistant"]
ImageKind = Literal["rgb", "depth", "crop"]


@dataclass(frozen=True)
class TextPart:
    """A piece of text."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """An image, upright RGB. `kind` lets a policy bring it to the size that its profile declares for that kind."""

    image: Image.Image
    kind: ImageKind = "rgb"


Part = TextPart | ImagePart


@dataclass(frozen=True)
class Message:
    """One turn. Tool results are user turns wrapped in `<tool_response>`, so that every chat template takes them."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts joined; images leave no mark."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> list[Image.Image]:
        """The images in order."""
        return [part.image for part in self.parts if isinstance(part, ImagePart)]


def message(role: Role, *parts: Part | str) -> Message:
    """A message from parts, where a plain string stands for a text part."""
    return Message(role, tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def alternating(messages: Iterable[Message]) -> list[Message]:
    """Neighbouring turns of one speaker as one, with a line break between: many chat templates take nothing else."""
    turns: list[Message] = []
    for turn in messages:
        if not turns or turns[-1].role != turn.role:
            turns.append(turn)
            continue
        before = turns.pop().parts
        apart = before and turn.parts and not isinstance(before[-1], ImagePart)
        turns.append(Message(turn.role, (*before, *([TextPart("\n")] if apart else []), *turn.parts)))
    return turns


def images_of(messages: Iterable[Message]) -> list[ImagePart]:
    """All image parts of a conversation, in order."""
    return [part for turn in messages for part in turn.parts if isinstance(part, ImagePart)]


def count_images(messages: Sequence[Message]) -> int:
    """How many images a conversation carries."""
    return len(images_of(messages))
