"""The focus agent as a LangChain tool: what a chat model calls when it needs to know what an image shows.

from langchain.agents import create_agent

look = focus_tool("Qwen/Qwen3-VL-4B-Instruct", images={"front door": "door.jpg"})
agent = create_agent("openai:gpt-5", tools=[look])
agent.invoke({"messages": "Is the parcel at the front door closer than the bicycle?"})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, ToolException
from langgraph.prebuilt import InjectedState
from pydantic import BaseModel, Field

from sifthinker.agent.config import DepthSource
from sifthinker.agent.focus_agent import FocusAgent
from sifthinker.agent.graph import create_focus_agent
from sifthinker.agent.result import FocusResult
from sifthinker.agent.sources import ImageSources
from sifthinker.agent.words import account_lines
from sifthinker.nodes.context import Mode
from sifthinker.nodes.images import ImageSource
from sifthinker.nodes.questions import image_ids, intern_images, question_message
from sifthinker.nodes.state import FocusInput, ResultRecord
from sifthinker.policy.base import Policy
from sifthinker.policy.errors import SifthinkerError, UsageError

NAME = "look_at_image"
DESCRIPTION = (
    "Answers one question about an image by looking at it closely: which thing is nearer, what stands where, what a "
    "small sign says. Returns the answer and the regions that were looked at, as normalised boxes (left, top, right, "
    "bottom) with their relative depth (0 near, 1 far)."
)


class LookArguments(BaseModel):
    """What a model may set."""

    question: str = Field(description="One question about the image, in words, complete in itself.")
    image: str | None = Field(
        default=None,
        description="The image's name or id. Leave it out for the last image that the user sent.",
    )
    options: list[str] | None = Field(default=None, description="The answers to choose from, if there are such.")
    messages: Annotated[list[Any], InjectedState("messages")] = []


class FocusTool(BaseTool):
    """See `focus_tool`, which makes one.

    The artifact of its message is the run as plain data (`ResultRecord`): answer, steps with boxes, measured depths and
    what each crop shows, costs. It holds no pixels; `result` reads it back, crops and all.
    """

    name: str = NAME
    description: str = DESCRIPTION
    args_schema: type[BaseModel] = LookArguments
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: bool = True  # the model is told the sentence, and may do better
    agent: Any = Field(exclude=True, repr=False)
    """The `FocusAgent` that looks."""
    sources: Any = Field(exclude=True, repr=False)
    """The images that can be named (`ImageSources`)."""

    def result(self, message: ToolMessage | ResultRecord) -> FocusResult:
        """The run that a message of this tool tells of, with image, crops, depth map and what visual tools gave.

        Raises:
            UsageError: the message tells of none (the tool failed). ImageError: its image is not stored any more.
        """
        record = message.artifact if isinstance(message, ToolMessage) else message
        if record is None:
            raise UsageError("This message tells of no run: the tool could not answer.")
        context = self.agent.context
        return FocusResult.from_record(record, context.view(record["image"]), context.images)

    def _run(
        self,
        question: str,
        image: str | None = None,
        options: Sequence[str] | None = None,
        messages: Sequence[Any] = (),
    ) -> tuple[str, ResultRecord]:
        try:
            record = self.agent.invoke(self._asked(question, image, options, messages))["result"]
        except SifthinkerError as error:
            raise ToolException(str(error)) from error
        return told(record), record

    async def _arun(
        self,
        question: str,
        image: str | None = None,
        options: Sequence[str] | None = None,
        messages: Sequence[Any] = (),
    ) -> tuple[str, ResultRecord]:
        try:
            asked = self._asked(question, image, options, messages)
            record = (await self.agent.ainvoke(asked))["result"]
        except SifthinkerError as error:
            raise ToolException(str(error)) from error
        return told(record), record

    def _asked(
        self, question: str, image: str | None, options: Sequence[str] | None, messages: Sequence[Any]
    ) -> FocusInput:
        if not question.strip():
            raise UsageError("The question is empty: say what is to be known about the image.")
        found = self._last_image(messages) if image is None else self.sources.find(image)
        return FocusInput(messages=[question_message(question, image=found, options=options or ())])

    def _last_image(self, messages: Sequence[Any]) -> str:
        """The image that the user sent last, put into the store; else the only one that has a name."""
        context = self.agent.context
        for message in reversed(messages):
            if isinstance(message, HumanMessage):
                images = image_ids(intern_images(message, context.images, context.config))
                if images:
                    return images[-1]
        if len(self.sources.images) == 1:
            found: str = self.sources.find(next(iter(self.sources.images)))
            return found
        names = ", ".join(self.sources.names())
        raise UsageError(f"The user sent no image: name one{f' ({names})' if names else ''}.")


def focus_tool(
    policy: str | Policy = "embedded",
    *,
    agent: FocusAgent | None = None,
    images: Mapping[str, ImageSource] | None = None,
    folders: Sequence[str | Path] = (),
    depth: DepthSource = None,
    mode: Mode = "tools",
    name: str = NAME,
    description: str = DESCRIPTION,
    **settings: Any,
) -> FocusTool:
    """The focus agent as a tool for `create_agent`, or any other graph with LangGraph's `ToolNode`.

    A model names an image that this process named (`images`, `folders`), gives the id of a stored one, or leaves it out
    for the last image in the conversation's messages. It never reaches any other file.

    Args:
        policy: as `create_focus_agent`'s.
        agent: an agent made already, instead of policy, depth, mode and settings.
        images: names, and the path, bytes or Pillow image each stands for.
        folders: folders whose images can be named by their path inside.
        depth: as `create_focus_agent`'s.
        mode: as `create_focus_agent`'s.
        name: what the model calls the tool.
        description: what the model is told it is for; the names of `images` are added.
        settings: further arguments of `create_focus_agent`: `tools`, `images` store excepted, and fields of
            `FocusConfig`.

    Raises:
        UsageError: a setting or folder that does not exist. PolicyLoadError, DepthError: a model that cannot be had.
    """
    if agent is None:
        agent = create_focus_agent(policy, depth=depth, mode=mode, **settings)
    sources = ImageSources(agent.context.images, images=images, folders=folders, config=agent.context.config)
    if images:
        description = f"{description} Images known by name: {', '.join(images)}."
    return FocusTool(name=name, description=description, agent=agent, sources=sources)


def told(record: ResultRecord) -> str:
    """A run in a few lines, for a chat model: the answer first."""
    return "\n".join([*account_lines(FocusResult.from_record(record)), f"Image id: {record['image']}"])
