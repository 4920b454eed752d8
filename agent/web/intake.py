"""What comes in: a picture, byte by byte within its limits, or a small JSON object."""

from __future__ import annotations

import re
from typing import TypeVar

import anyio
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request

from sifthinker.agent.web.errors import Refused
from sifthinker.agent.words import plain

_SEPARATOR = re.compile(r"[\\/]")
_MAX_NAME = 120

Body = TypeVar("Body", bound=BaseModel)


class QuestionBody(BaseModel):
    """A question as the page sends it."""

    model_config = ConfigDict(extra="forbid")

    question: str
    mode: str | None = None
    options: list[str] = Field(default_factory=list)
    confirm: bool = False
    """Whether a person decides on the boxes before each crop."""


class DecisionBody(BaseModel):
    """A person's decision on the boxes of a step."""

    model_config = ConfigDict(extra="forbid")

    action: str
    boxes: list[tuple[float, float, float, float]] = Field(default_factory=list, max_length=64)
    reason: str = Field(default="", max_length=1000)
    confirm: bool = True
    """Whether the next boxes are asked about as well."""


class ForkBody(BaseModel):
    """A step of an answered question to go back to."""

    model_config = ConfigDict(extra="forbid")

    step: int = Field(ge=1, le=64)


class ExampleBody(BaseModel):
    """Which of the example pictures."""

    model_config = ConfigDict(extra="forbid")

    name: str


async def read_body(request: Request, *, max_bytes: int, seconds: float, too_large: str) -> bytes:
    """The body of a request; it is cut off as soon as it is too large or takes too long.

    Raises:
        Refused: 413 with the sentence `too_large`, 408, or 400 where the length makes no sense.
    """
    told = request.headers.get("content-length", "0")
    if not told.isdecimal():
        raise Refused(400, "Expected a content length that is a number.")
    if int(told) > max_bytes:
        raise Refused(413, too_large)
    data = bytearray()
    try:
        with anyio.fail_after(seconds):
            async for piece in request.stream():
                data += piece
                if len(data) > max_bytes:
                    raise Refused(413, too_large)
    except TimeoutError as error:
        raise Refused(408, f"It did not arrive within {seconds:g} s: try again.") from error
    except ClientDisconnect as error:
        raise Refused(400, "The connection broke off: try again.") from error
    return bytes(data)


async def read_json(request: Request, kind: type[Body], *, max_bytes: int) -> Body:
    """A JSON object of a known kind.

    Raises:
        Refused: it is something else.
    """
    data = await read_body(request, max_bytes=max_bytes, seconds=10.0, too_large="That is too long: shorten it.")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the request"
        raise Refused(400, f"This cannot be used: {where}: {first['msg']}.") from error


def picture_name(given: str) -> str:
    """The name of a picture for people: the last part of what the browser said, without control characters."""
    name = " ".join(plain(_SEPARATOR.split(given)[-1]).split())
    return name[:_MAX_NAME] or "picture"
