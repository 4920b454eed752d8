"""How the graph speaks with a policy, whichever way the policy speaks.

Two dialects, declared in the profile (DESIGN section 6): `sif` for a policy trained on the trace grammar, `native` for
an instruct model as it comes. A node builds its turns and reads its answers through this one interface and need not
know which it is:

    dialect = dialect_for(policy.profile)
    messages = dialect.build_first(question, rgb=rgb, depth=depth_picture, options=options, mode="tools")
    completion = policy.generate(messages, stop=dialect.stop_strings("tools"))
    span = dialect.read_span(completion.text, image_size=rgb.size)
    messages += [message("assistant", completion.text), dialect.build_tool_reply(looked_at, crops, image_size=rgb.size)]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.messages import Message
from sifthinker.policy.trace import AreaBox, Step, Trace

TurnMode = Literal["direct", "internal", "tools"]


@dataclass(frozen=True)
class ReadSpan:
    """What one assistant turn said, in reading order: `text`, then `steps`, then `boxes` or `answer`.

    Boxes are normalised xyxy of the upright image whatever space the policy speaks.
    """

    text: str = ""
    """What the area looked at last shows: closes the step that an earlier turn opened. Empty when not said."""
    steps: tuple[Step, ...] = ()
    """Areas that this turn opened and closed by itself, without waiting for a crop."""
    boxes: tuple[AreaBox, ...] = ()
    """The area to look at next. Empty when the turn proposed none."""
    answer: str | None = None
    """The answer, when the turn gave one."""
    warnings: tuple[str, ...] = ()
    """How the text departed from the grammar, for the result: each a sentence. Empty when it kept to it."""
    problems: tuple[str, ...] = ()
    """Why nothing could be used (no box and no answer): what `build_retry` is to say."""

    @property
    def needs_retry(self) -> bool:
        """Whether the policy should be asked once more: neither a usable area nor an answer was found."""
        return bool(self.problems)


@dataclass(frozen=True)
class ReadCompletion:
    """What one whole completion said (modes direct and internal)."""

    trace: Trace
    """The steps and the answer; in mode direct there are no steps. `trace.answer` is "" when none was found."""
    valid: bool
    """Whether the text kept strictly to what was asked of this policy."""
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def needs_retry(self) -> bool:
        """Whether the policy should be asked once more: no answer was found."""
        return bool(self.problems)


class Dialect(Protocol):
    """Builds what is said to a policy and reads what it says. Pure: no state, safe to share."""

    @property
    def profile(self) -> PolicyProfile: ...

    def stop_strings(self, mode: TurnMode) -> tuple[str, ...]:
        """Where a turn of that mode ends: after an area in mode tools, after the answer in all."""
        ...

    def build_first(
        self,
        question: str,
        *,
        rgb: Image.Image,
        depth: Image.Image | None,
        options: Sequence[str] | None = None,
        mode: TurnMode = "tools",
    ) -> list[Message]:
        """The messages that open a conversation. `depth` is the depth picture, or None when there is none."""
        ...

    def build_next(
        self, question: str, *, image_size: tuple[int, int], options: Sequence[str] | None = None, mode: TurnMode
    ) -> Message:
        """A later question about the same image."""
        ...

    def build_tool_reply(
        self, looked_at: Sequence[AreaBox], crops: Sequence[Image.Image | None], *, image_size: tuple[int, int]
    ) -> Message:
        """The focus node's reply: each box (normalised) with its measured depth, and its crop or None."""
        ...

    def build_retry(self, problems: Sequence[str]) -> Message:
        """Asked once when nothing usable came (`needs_retry`)."""
        ...

    def build_answer_now(self) -> Message:
        """Asked once when a budget is used up."""
        ...

    def read_span(self, text: str, *, image_size: tuple[int, int]) -> ReadSpan:
        """Read one turn of mode tools. `image_size` is the upright image's. Never raises on any text."""
        ...

    def read_completion(self, text: str, *, image_size: tuple[int, int], mode: TurnMode = "internal") -> ReadCompletion:
        """Read a completion of mode direct or internal. Never raises on any text."""
        ...


def dialect_for(profile: PolicyProfile) -> Dialect:
    """The dialect that a profile declares."""
    from sifthinker.policy.native import NativeDialect
    from sifthinker.policy.sif import SifDialect

    return SifDialect(profile) if profile.dialect == "sif" else NativeDialect(profile)
