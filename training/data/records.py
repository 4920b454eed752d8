"""A record: one question with its trace, its images by reference, and where all of it came from.

A record's columns are what TRL reads: SFT takes `messages` and `images`, GRPO takes `prompt` and `images` and hands the
rest to the rewards (`answer`, `options`, `boxes`). No column is called image, text or completion: TRL would take these
for something else. File names are relative to the data set's folder and cannot lead out of it.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sifthinker.policy import prompts
from sifthinker.policy.boxes import Box, BoxSpace, Size, is_valid
from sifthinker.policy.messages import ImagePart, Message
from sifthinker.policy.trace import Trace, parse, render

FORMAT = 1
"""Of records and folders. A folder of another format is not gone on with."""


def _relative(name: str) -> str:
    parts = PurePosixPath(name)
    if not name or parts.is_absolute() or ".." in parts.parts or "\\" in name or ":" in name or "\0" in name:
        raise ValueError(f"expected a file name relative to the data set's folder, got {name[:80]!r}")
    return name


def _valid(box: Box) -> Box:
    if not is_valid(box):
        raise ValueError(f"expected normalised (x1, y1, x2, y2) with x2 > x1 and y2 > y1, got {box}")
    return box


FileName = Annotated[str, AfterValidator(_relative)]
"""Relative to the data set's folder, with forward slashes, never upwards."""
ValidBox = Annotated[Box, AfterValidator(_valid)]


class Part(BaseModel):
    """A piece of a turn: a text, or the place of the next image of `images`."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "image"]
    text: str | None = None


class Turn(BaseModel):
    """A turn of a conversation, in the form that chat templates take."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: list[Part]


class Provenance(BaseModel):
    """Where a record came from and what made it."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(description="Kind of source.")
    dataset: str
    split: str = ""
    row_id: str = Field(description="What the source calls the row.")
    position: int = Field(description="Sample of the build, from 0: the same in every run of the same build.")
    box_space: BoxSpace = Field(description="The space that the source declares; the record's boxes are normalised.")
    depth: str = Field(default="", description="What told the depth; empty: none.")
    expansion: str = Field(default="", description="mended, published, or empty where the areas were given.")
    teacher: str
    attempts: int = Field(default=1, description="Traces that the teacher wrote until one was accepted.")
    prompt_tokens: int = 0
    completion_tokens: int = 0
    notes: list[str] = Field(default_factory=list, description="What whoever trains on it should know.")


class Record(BaseModel):
    """A question with its trace. `trace` is the assistant's turn in its canonical spelling."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Unique in its folder.")
    question: str
    options: list[str] = Field(default_factory=list)
    answer: str
    family: str = ""
    rgb: FileName = Field(description="The image, as the source had it.")
    rgb_sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="Of the upright RGB pixels and their size (`nodes.images.image_hash`)."
    )
    rgb_size: Size = Field(description="(width, height) of the upright image.")
    depth_map: FileName | None = Field(default=None, description="16-bit grey PNG, 0 near, 65535 far.")
    images: list[FileName] = Field(description="What the policy is shown: the image, then the depth in colours.")
    boxes: list[ValidBox] = Field(min_length=1, description="What decides the question, normalised xyxy.")
    labels: list[str] = Field(default_factory=list, description="What is in each box, where the source told it.")
    trace: str
    prompt: list[Turn]
    messages: list[Turn]
    provenance: Provenance

    def parsed(self) -> Trace:
        """The trace as data.

        Raises:
            TraceError: it does not keep to the grammar.
        """
        return parse(self.trace, require_depth=self.depth_map is not None)


class Reject(BaseModel):
    """A sample that did not become a record, and why."""

    model_config = ConfigDict(extra="forbid")

    id: str
    source: str
    dataset: str
    row_id: str
    position: int
    reason: str = Field(description="A code: what to count by.")
    message: str = Field(description="A sentence: what was expected, what came.")
    rgb: str = Field(default="", description="The image as the source names it.")
    question: str = ""
    answer: str = ""
    text: str = Field(default="", description="The last trace that the teacher wrote.")
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def conversation(
    question: str, options: list[str], trace: Trace, *, depth_shown: bool, decimals: int = 3
) -> tuple[str, list[Turn], list[Turn]]:
    """The trace as written, the prompt, and the prompt followed by the trace: in the words of `policy.prompts`.

    Raises:
        TraceError: the trace cannot be written.
    """
    pixel = Image.new("RGB", (1, 1))  # only the places of the images matter
    asked = prompts.first_turn(question, rgb=pixel, depth=pixel if depth_shown else None, options=options or None)
    written = render(trace, decimals=decimals)
    prompt = [Turn(role="user", content=_parts(asked))]
    return written, prompt, [*prompt, Turn(role="assistant", content=[Part(type="text", text=written)])]


def _parts(message: Message) -> list[Part]:
    """The parts of a message, neighbouring texts joined."""
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            parts.append(Part(type="image"))
        elif parts and parts[-1].text is not None:
            parts[-1] = Part(type="text", text=parts[-1].text + part.text)
        else:
            parts.append(Part(type="text", text=part.text))
    return parts


def row_of(record: Record | Reject) -> dict[str, Any]:
    """The row of a table that a record or reject is."""
    return record.model_dump(mode="json")
