"""`sifthinker mcp`: the focus agent for programs that speak the Model Context Protocol (desktop assistants, editors).

Two tools. `ask` answers a question by focusing; `look` cuts a box out of the full-resolution image and tells its depth,
for a client whose own model does the thinking. An image comes as base64, by the id that an earlier call gave, or by its
path inside the folders that the command line opened; no other file is read, and nothing is fetched.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Annotated, Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ContentBlock, ImageContent, TextContent, ToolAnnotations
from PIL import Image
from pydantic import Field

from sifthinker.agent.focus_agent import FocusAgent
from sifthinker.agent.result import FocusResult
from sifthinker.agent.sources import ImageSources
from sifthinker.agent.words import account_lines, box_words, depth_words
from sifthinker.nodes.images import LoadedImage, fit
from sifthinker.policy.boxes import Box, clip, is_valid
from sifthinker.policy.errors import ImageError, SifthinkerError, UsageError
from sifthinker.policy.files import expanded

SHOWN_PX = 1_024
"""Longest edge of a picture that is sent to the client."""
SHOWN_BYTES = 700_000
"""Of all pictures of an answer: over HTTP, clients of the SDK take no message of more than 1 MiB, base64 and all."""
AT_ONCE = 4
"""Calls that are worked on at the same time; further ones wait."""

INSTRUCTIONS = (
    "Looks closely at images. `ask` answers a question about an image and says where it looked; `look` cuts out one "
    "box in full resolution and tells its depth. Boxes are [left, top, right, bottom] from 0 to 1, depths from 0, "
    "near, to 1, far."
)

_READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
_Answer = TypeVar("_Answer")

ImageName = Annotated[
    str | None, Field(description="The image: the id that an earlier call gave, or a path inside the opened folders.")
]
ImageData = Annotated[
    str | None, Field(description="The image itself as base64 (PNG, JPEG or WebP), where it has no id or path.")
]


class Looking:
    """What the server's tools do. The agent is made at the first call: a client need not wait for it to begin."""

    def __init__(self, make: Callable[[], FocusAgent], folders: Sequence[str | Path]) -> None:
        self._make = make
        self._folders = folders
        self._agent: FocusAgent | None = None
        self._loading = anyio.Lock()
        self._work = anyio.CapacityLimiter(AT_ONCE)

    async def ask(
        self,
        question: Annotated[str, Field(description="One question about the image, in words.")],
        context: Context[Any, Any],
        image: ImageName = None,
        image_base64: ImageData = None,
        options: Annotated[list[str] | None, Field(description="The answers to choose from.")] = None,
        show: Annotated[
            bool, Field(description="Whether the crops, and the pictures that tools made, are sent along.")
        ] = False,
    ) -> CallToolResult:
        """Answer a question about an image by looking closer and closer; say where it looked."""
        agent = await self._loaded()
        stop = Event()
        steps = 0

        def work() -> tuple[str, FocusResult]:
            nonlocal steps
            found = self._image(agent, image, image_base64)
            given = LoadedImage(agent.context.images.get(found), found)
            parts = agent.ask_stream(question, image=given, options=options or ())
            for part in parts:
                if stop.is_set():
                    parts.close()  # type: ignore[attr-defined]
                    raise UsageError("The call was cancelled.")
                if isinstance(part, FocusResult):
                    return found, part
                if part.kind == "area":  # type: ignore[attr-defined]
                    steps += 1
                    anyio.from_thread.run(context.report_progress, float(steps), None, _progress(part))
            raise UsageError("The run waits for a person, and there is none here: leave interrupt_on_focus out.")

        try:
            found, result = await self._in_thread(work)
        finally:
            stop.set()
        made = [found.picture for step in result.steps for found in step.findings if found.picture is not None]
        pictures = _pictures([*result.crops, *made]) if show else []
        told = "\n".join([*account_lines(result), f"Image id: {found}"])
        return _reply(told, pictures, {**result.to_dict(), "image": found})

    async def look(
        self,
        box: Annotated[
            list[float], Field(description="[left, top, right, bottom], from 0 to 1.", min_length=4, max_length=4)
        ],
        image: ImageName = None,
        image_base64: ImageData = None,
    ) -> CallToolResult:
        """Cut a box out of an image in full resolution, and tell how far away it is (0 near, 1 far)."""
        agent = await self._loaded()

        def work() -> tuple[str, Image.Image, Box, float | None]:
            x1, y1, x2, y2 = box
            asked = clip((x1, y1, x2, y2))
            if not is_valid(asked):
                raise UsageError(f"Expected a box [x1, y1, x2, y2] in [0, 1] with x2 > x1 and y2 > y1, got {box}.")
            found = self._image(agent, image, image_base64)
            view = agent.context.view(found)
            crop, shown = view.crop(asked, min_px=agent.context.config.min_crop_px)
            return found, crop, shown, None if view.depth is None else view.depth.mean(asked)

        found, crop, shown, depth = await self._in_thread(work)
        size = f"{crop.width} × {crop.height} pixels"
        told = [box_words(shown), size, depth_words(depth, None), f"image id: {found}"]
        facts = {"image": found, "box": list(shown), "depth": depth, "size": list(crop.size)}
        return _reply(", ".join(filter(None, told)), _pictures([crop]), facts)

    async def _loaded(self) -> FocusAgent:
        async with self._loading:
            if self._agent is None:
                self._agent = await self._in_thread(self._make)
            return self._agent

    async def _in_thread(self, work: Callable[[], _Answer]) -> _Answer:
        """What a call comes to; its error as the client is told it."""
        try:
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._work)
        except SifthinkerError as error:
            raise ToolError(str(error)) from error

    def _image(self, agent: FocusAgent, image: str | None, data: str | None) -> str:
        """The id of the image that a call means."""
        sources = ImageSources(agent.context.images, folders=self._folders, config=agent.context.config)
        if (image is None) == (data is None):
            raise UsageError("Expected one image, as `image` (an id or a path) or as `image_base64`.")
        if image is not None:
            return sources.find(image)
        try:
            return sources.keep(base64.b64decode((data or "").partition(";base64,")[2] or data or "", validate=True))
        except (binascii.Error, ValueError) as error:
            raise ImageError("not_an_image", "The base64 of the image cannot be decoded.") from error


def focus_server(make: Callable[[], FocusAgent], *, folders: Sequence[str | Path] = ()) -> MCPServer[Any]:
    """The focus agent as an MCP server; `.run()` serves it on standard input and output, `mcp_http.http_app` over HTTP.

    Args:
        make: makes the agent, at the first call of a tool.
        folders: folders whose images clients may name.

    Raises:
        UsageError: a folder that is not there.
    """
    for folder in folders:
        if not expanded(folder).is_dir():
            raise UsageError(f"Expected a folder of images, but {str(folder)!r} is none.")
    looking = Looking(make, folders)
    server: MCPServer[Any] = MCPServer(
        "sifthinker", instructions=INSTRUCTIONS, version=version("sifthinker"), log_level="WARNING"
    )
    server.tool(annotations=_READ_ONLY)(looking.ask)
    server.tool(annotations=_READ_ONLY)(looking.look)
    return server


def _reply(text: str, pictures: Sequence[ImageContent], facts: dict[str, Any]) -> CallToolResult:
    content: list[ContentBlock] = [TextContent(type="text", text=text), *pictures]
    return CallToolResult(content=content, structured_content=facts)


def _progress(part: Any) -> str:
    return f"step {part.step}: {', '.join(box_words(box.bbox_2d) for box in part.boxes)}"


def _pictures(pictures: Sequence[Image.Image]) -> list[ImageContent]:
    """Pictures for the client, together within `SHOWN_BYTES`."""
    most = SHOWN_BYTES // max(1, len(pictures))
    return [_picture(picture, most) for picture in pictures]


def _picture(picture: Image.Image, most: int) -> ImageContent:
    """A picture as a PNG of at most so many bytes, else as a JPEG, smaller and smaller until it fits."""
    shown = fit(picture, SHOWN_PX)
    kind, data = "png", _encoded(shown, "PNG")
    while len(data) > most and max(shown.size) > 64:
        if kind == "jpeg":
            shown = fit(shown, max(shown.size) * 3 // 4)
        kind, data = "jpeg", _encoded(shown, "JPEG")
    return ImageContent(type="image", data=base64.b64encode(data).decode(), mime_type=f"image/{kind}")


def _encoded(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, quality=88)
    return file.getvalue()
