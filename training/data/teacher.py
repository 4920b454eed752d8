"""Forward inference: who writes what is seen in each area (paper, section 3.1).

A teacher is given the areas with their boxes and depths, the picture, and the right answer, and writes the whole trace.
`verify.py` decides whether it is taken. Two come with the package: `OfflineTeacher` (see `offline.py`), which needs no
server, and `RemoteTeacher`, any vision model behind an OpenAI-compatible server.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from PIL import Image, ImageDraw
from pydantic import BaseModel

from sifthinker.nodes.images import fit
from sifthinker.policy import prompts
from sifthinker.policy.base import Completion, Policy, PolicyProfile
from sifthinker.policy.errors import PolicyError, PolicyLoadError, UsageError
from sifthinker.policy.messages import ImagePart, Message, Part, message
from sifthinker.policy.trace import render_boxes
from sifthinker.training.data.config import TeacherConfig
from sifthinker.training.data.expansion import Area, AreaKind


@dataclass(frozen=True)
class Task:
    """What a teacher is given."""

    question: str
    answer: str
    areas: Sequence[Area]
    """In the order of the trace, with depths where there is a depth map."""
    image: Image.Image
    options: Sequence[str] = ()
    labels: Sequence[str] = ()
    """What is in each box of the last area; empty where the source does not tell."""
    decimals: int = 3
    refused: str = ""
    """Why the last trace was not taken; empty at the first attempt."""
    attempt: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """A trace as text, and what it cost."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class TeacherCounts(BaseModel):
    """What a teacher did so far in this run."""

    calls: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    images: int = 0
    seconds: float = 0.0

    def cost(self, config: TeacherConfig) -> float:
        """In the currency of the configured prices."""
        return (self.prompt_tokens * config.price_in + self.completion_tokens * config.price_out) / 1e6


@runtime_checkable
class Teacher(Protocol):
    """Writes traces. Called from several threads."""

    @property
    def name(self) -> str:
        """What records and the folder's fingerprint call it."""
        ...

    @property
    def counts(self) -> TeacherCounts:
        """What it did so far."""
        ...

    def write(self, task: Task) -> Reply:
        """The trace of a task, right or wrong: whoever asked verifies it.

        Raises:
            PolicyError: a server refused, failed or did not answer in time.
        """
        ...

    def close(self) -> None:
        """Let go of connections; calls under way end."""
        ...


INSTRUCTION = (
    "You write down the thoughts of someone who answers a question about a picture by looking at one area after "
    "another. You are told the question, its right answer, and the areas in the order in which they are looked at. Of "
    "each area you are told its boxes (x and y from 0 at the top left to 1 at the bottom right) with their measured "
    "depth (0 is near, 1 is far), and you see the picture with the boxes drawn in green.\n"
    "Write for each area, in one to three sentences, what can be seen there and what it means for the question, as if "
    "the answer were found only at the end. Depth may be used where it helps. Say nothing that the picture does not "
    "show. Of an area that is a wrong turn, say so, and why the look moves on.\n"
    "Reply in exactly this form, with one <area> and one <text> for each area in the given order, and nothing else:\n"
    "<think><area>BOXES</area><text>…</text> … </think><answer>…</answer>\n"
    "Each BOXES is copied character by character from what you are told. The answer is the right answer, word for word."
)
_MEANING: dict[AreaKind, str] = {
    "whole": "the whole picture",
    "distractor": "a wrong turn: nothing in it decides the question",
    "hull": "everything that matters lies in here",
    "grown": "closer to what decides the question",
    "answer": "what decides the question",
}
_GREEN = (0, 230, 60)


@dataclass
class RemoteTeacher:
    """A vision model that is asked for whole traces.

    Retries, timeouts and the bound on concurrent calls are the policy's (`RemotePolicy`); another attempt after a trace
    that was refused is asked for by the build, which then tells why.
    """

    policy: Policy
    config: TeacherConfig = field(default_factory=TeacherConfig)
    counts: TeacherCounts = field(default_factory=TeacherCounts)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def name(self) -> str:
        """The configured name without the server's address, which belongs to no data set."""
        return self.config.name.partition("@")[0]

    def write(self, task: Task) -> Reply:
        """Ask once; see `Teacher`."""
        first = task.attempt == 1
        try:
            completion = self.policy.generate(
                self.messages(task),
                max_new_tokens=self.config.max_new_tokens,
                temperature=self.config.temperature if first else self.config.retry_temperature,
                seed=task.seed + task.attempt - 1,
                timeout=self.config.call_timeout,
            )
        except PolicyError:
            self._count(Completion(""), failed=1)
            raise
        self._count(completion)
        return Reply(trace_in(completion.text), completion.prompt_tokens, completion.completion_tokens)

    def messages(self, task: Task) -> list[Message]:
        """What the model is told and shown."""
        parts: list[Part | str] = [
            f"Question: {prompts.question_text(task.question, task.options)}\nRight answer: {task.answer}\n"
        ]
        for number, area in enumerate(task.areas, 1):
            boxes = render_boxes(area.boxes, decimals=task.decimals)
            parts.append(f"\nArea {number} of {len(task.areas)}, {_MEANING[area.kind]}. BOXES: {boxes}\n")
            parts.append(ImagePart(drawn(fit(task.image, self.config.longest_px), area)))
        if task.refused:
            parts.append(f"\nAn earlier reply was refused: {task.refused} Keep to the form.")
        return [message("system", INSTRUCTION), message("user", *parts)]

    def close(self) -> None:
        """Close the policy's connections, where it has any."""
        close = getattr(self.policy, "close", None)
        if close is not None:
            close()

    def _count(self, completion: Completion, *, failed: int = 0) -> None:
        with self._lock:
            self.counts.calls += 1
            self.counts.failed += failed
            self.counts.prompt_tokens += completion.prompt_tokens
            self.counts.completion_tokens += completion.completion_tokens
            self.counts.images += completion.images
            self.counts.seconds += completion.seconds


def drawn(image: Image.Image, area: Area) -> Image.Image:
    """The picture with an area's boxes drawn on it."""
    picture = image.copy()
    draw = ImageDraw.Draw(picture)
    width_px = max(2, round(max(picture.size) / 300))
    for x1, y1, x2, y2 in area.xyxy:
        left, top = x1 * (picture.width - 1), y1 * (picture.height - 1)
        right, bottom = x2 * (picture.width - 1), y2 * (picture.height - 1)
        draw.rectangle((left, top, max(right, left), max(bottom, top)), outline=_GREEN, width=width_px)
    return picture


def trace_in(text: str) -> str:
    """The trace in a reply, without a code fence or words around it; the reply itself where there is none.

    What a model thinks before it replies may stand in tags of the same name: the trace begins with the last one.
    """
    end = text.rfind("</answer>")
    start = text.rfind("<think>", 0, max(end, 0))
    return text[start : end + len("</answer>")] if start >= 0 else text.strip()


def load_teacher(config: TeacherConfig, *, concurrency: int) -> Teacher:
    """The teacher of a configuration.

    Args:
        config: its name is "offline" or "openai:MODEL@URL".
        concurrency: calls under way at once.

    Raises:
        UsageError: the name is neither. PolicyLoadError: it needs what is not installed.
    """
    from sifthinker.training.data.offline import OfflineTeacher

    if config.name == "offline":
        return OfflineTeacher()
    kind, _, rest = config.name.partition(":")
    model, _, url = rest.partition("@")
    if kind != "openai" or not model or not url:
        raise UsageError(f"Expected a teacher as offline or openai:MODEL@URL, got {config.name!r}.")
    try:
        from sifthinker.policy.remote import RemotePolicy
    except ImportError as error:
        raise PolicyLoadError("Asking a server needs httpx and tenacity: pip install 'sifthinker[remote]'.") from error
    # Not by `load_policy`: that would share its connections with others, and here they are closed at the end.
    policy = RemotePolicy(
        model,
        url,
        profile=PolicyProfile(name=model, max_images=64),
        attempts=config.retries,
        call_timeout=config.call_timeout,
        read_timeout=config.call_timeout,
        max_concurrent=concurrency,
    )
    return RemoteTeacher(policy, config)
