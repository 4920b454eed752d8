"""What a comparison writes for each question it asked: plain data, a line of `answers.jsonl`, a row of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sifthinker.policy.boxes import Box
from sifthinker.training.compare.data import ImageFile, Question

Control = Literal["oracle", "random", "centre", "wrong"]
CONTROLS: tuple[Control, ...] = ("oracle", "random", "centre", "wrong")
"""Boxes in place of the policy's, see `controls.py`."""

EditKind = Literal["mean", "blur", "recolour"]
EDITS: tuple[EditKind, ...] = ("mean", "blur", "recolour")
"""What is done to a region, see `edits.py` and `recolour.py`."""

Place = Literal["cited", "elsewhere"]

TIMING = "timing"
"""Variant of an answer that was asked for alone, with empty caches, to see how long it takes."""


class Key(BaseModel):
    """What tells one asking from another. Each is answered once, however often a run is broken off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    mode: str
    control: str = ""
    """Whose boxes were looked at; empty: the policy's own."""
    seed: int
    question: str
    """Its id."""
    variant: str = ""
    """Empty: as it is. "mean:cited", "recolour:elsewhere", …: with the picture changed. "timing": alone."""


class BoxSaid(BaseModel):
    """A box of a step."""

    bbox_2d: Box
    depth: float | None
    """As the policy said it."""
    measured: float | None
    """The mean of the depth map in it."""


class StepSaid(BaseModel):
    """A step of a trace."""

    boxes: list[BoxSaid]
    text: str
    cropped: bool = False
    """Whether the policy was shown a crop of it."""


class Answered(Key):
    """One question asked once, and everything that came of it. No asking is without such a line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    """Of the question and its picture as they were asked."""
    options: list[str] = Field(default_factory=list)
    """In the order in which they were shown: the shuffle of this seed."""
    truth: str = ""
    """The right answer: after a change of the picture the new one."""
    decides: bool = True
    """After a recolouring: whether what was changed is what the question is about."""
    answer: str = ""
    """What stood in <answer></answer>; empty: nothing that can be read, which is wrong."""
    lenient: str = ""
    """What the agent made of it for a person, which may have been found outside the tags. Not scored."""
    right: bool = False
    valid: bool = False
    text: str = ""
    """What the policy said, word for word."""
    steps: list[StepSaid] = Field(default_factory=list)
    answer_boxes: list[Box] = Field(default_factory=list)
    hiou: float | None = None
    """Of the last area with the boxes that decide the question; None where these are not known, mode is direct, or the
    question failed (which counts as 0)."""
    depth_error: float | None = None
    """Mean |said − measured| of the last area; None: no depth said or measured."""
    tokens_in: int = 0
    """Prompt tokens over all calls, as a server without a prefix cache counts them."""
    tokens_out: int = 0
    images: int = 0
    """Pictures shown, each once: RGB, depth, crops. What a prefix cache encodes, whatever it knew before."""
    calls: int = 0
    """Calls of the policy."""
    seconds: float = 0.0
    """From the question to the answer, others being answered beside it."""
    went_on: bool | None = None
    """Mode adaptive: whether it went on to tools."""
    confidence: float | None = None
    """Mode adaptive: of the first answer; None: not known."""
    out_of_time: bool = False
    """Whether a call, or the whole run, took all the time that it may: what it came to was cut short."""
    warnings: list[str] = Field(default_factory=list)
    error: str = ""
    """Why there is no answer where the policy or the picture failed: wrong as well."""
    skipped: str = ""
    """Why it could not be asked at all (no room for a control region, …): not among the questions asked."""

    @property
    def key(self) -> Key:
        """What it is the answer to."""
        return Key(**{name: getattr(self, name) for name in Key.model_fields})

    @property
    def last_boxes(self) -> list[Box]:
        """Where the trace ends."""
        return [box.bbox_2d for box in self.steps[-1].boxes] if self.steps else []


@dataclass(frozen=True)
class Edit:
    """A change of the picture: what is done, and to the region that was cited or to one of equal size elsewhere."""

    kind: EditKind
    place: Place
    cited: tuple[Box, ...]
    """The last area of the answer to the unchanged picture."""
    before: str
    """That answer."""

    @property
    def variant(self) -> str:
        """As keys name it."""
        return f"{self.kind}:{self.place}"


@dataclass(frozen=True)
class Job:
    """A question to be asked once. Picklable: it goes to other processes and machines."""

    key: Key
    question: Question
    image: ImageFile
    options: tuple[str, ...]
    digest: str
    depth: Path | None = None
    """The exact depth of the picture, where that is what the depth comes from."""
    edit: Edit | None = None


@dataclass(frozen=True)
class Asking:
    """How every question is asked: the same for all modes, policies and workers. Picklable."""

    depth: str | None = None
    """A depth source; "exact": the data's own; None: what suits the policy."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of `load_policy`, the same for each policy."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of `FocusConfig`: one decoding for all modes."""
    rules: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By policy: the rule of mode adaptive, as further such fields. One that is not named has its own."""
    concurrency: int = 16
    """Questions under way at once in a process."""


@dataclass(frozen=True)
class Failed:
    """A question that could not be asked because the policy was not there: it stays open."""

    key: Key
    error: str
    out_of_time: bool = False
