"""What a question came to: the answer, where the policy looked, and what it cost."""

from __future__ import annotations

import html
from contextlib import suppress
from typing import Any, Literal

from PIL import Image
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from sifthinker.nodes.context import Mode, View
from sifthinker.nodes.depth import DepthMap
from sifthinker.nodes.images import ImageStore
from sifthinker.nodes.state import AdaptiveRecord, PartRecord, ResultRecord, StepRecord, ToolRecord
from sifthinker.policy.boxes import Box
from sifthinker.policy.errors import ImageError
from sifthinker.policy.trace import AreaBox, Step, Trace

Pixels = tuple[int, int]


class LookedAtBox(BaseModel):
    """A box of a step."""

    bbox_2d: Box
    """Normalised xyxy."""
    depth: float | None
    """As the policy said it: 0 near, 1 far; None: it said none."""
    measured_depth: float | None
    """The mean of the depth map in the box; None without a depth map."""


class ToolFinding(BaseModel):
    """What a visual tool found on a box of a step."""

    box: int
    """Which of the step's boxes, from 0."""
    call: str
    """The call as `rotate(degrees=90)`."""
    text: str
    picture_id: str | None
    """Hash of its picture in the image store; None: it gave none."""
    _picture: Image.Image | None = PrivateAttr(default=None)

    @property
    def picture(self) -> Image.Image | None:
        """The picture itself; None: it gave none, or the image store has let go of it."""
        return self._picture


class FocusStep(BaseModel):
    """One step: an area, what the policy saw there, and the crops it was shown."""

    boxes: list[LookedAtBox]
    text: str
    crop_size: Pixels | None
    """(width, height) in pixels of the step's crop, the largest if there are several; None: none was taken."""
    shown: list[Box | None] = Field(default_factory=list, exclude=True)
    """For each box what its crop shows (normalised xyxy, at least `min_crop_px` wide and high)."""
    edited: bool = Field(default=False, exclude=True)
    """Whether a person set the boxes."""
    findings: list[ToolFinding] = Field(default_factory=list)
    """What visual tools found; left out of the JSON where there is nothing."""
    _crops: list[Image.Image] = PrivateAttr(default_factory=list)

    @property
    def crops(self) -> list[Image.Image]:
        """The crops that the policy was shown, in the order of the boxes."""
        return list(self._crops)

    @model_serializer(mode="wrap")
    def _without_nothing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        if not written.get("findings"):
            written.pop("findings", None)
        return written


class Tokens(BaseModel):
    """What a run cost."""

    prompt: int
    completion: int
    images: int
    """Images encoded, over all calls."""


class Call(BaseModel):
    """What one call of the policy cost."""

    seconds: float
    prompt: int
    completion: int
    images: int


class PartResult(BaseModel):
    """What one part of a run in mode adaptive came to, and what it cost."""

    answer: str
    valid_trace: bool
    trace_text: str
    """What the policy said in this part, word for word."""
    tokens: Tokens
    seconds: float


class Adaptive(BaseModel):
    """Mode adaptive: whether the run went on to tools, and why."""

    went_on: bool
    why: str
    """In a sentence."""
    reasons: list[Literal["malformed", "confidence", "depth", "always"]]
    """What spoke for going on; a budget may have spoken against it."""
    confidence: float | None
    """Of the first answer, a probability; None: not known."""
    confidence_threshold: float | None
    """Below it the run goes on; None: the confidence played no part."""
    depth_gap: float | None
    """By how much the depths that the policy said depart from the depth map; None: not known."""
    depth_tolerance: float | None
    rule: Literal["given", "learnt", "default"]
    """Where threshold and tolerance are from: the settings, `sifthinker calibrate`, or nowhere."""
    internal: PartResult
    tools: PartResult | None
    """None: the run did not go on."""


class FocusResult(BaseModel):
    """The result of a question. `to_dict()` is the JSON of the command line."""

    model_config = ConfigDict(extra="forbid")

    answer: str
    """Empty when the policy gave none."""
    mode: Mode
    policy: str
    valid_trace: bool
    """Whether everything the policy said keeps strictly to the grammar (in mode direct: is an answer and no more)."""
    steps: list[FocusStep]
    warnings: list[str]
    tokens: Tokens
    seconds: float
    """Of work: checking, depth, every call of the policy, crops. Waiting for a person does not count."""
    adaptive: Adaptive | None = None
    """In mode adaptive: whether it went on to tools, and why; tokens and seconds above are those of both parts."""
    question: str = Field(default="", exclude=True)
    options: list[str] = Field(default_factory=list, exclude=True)
    trace_text: str = Field(default="", exclude=True)
    """What the policy said, word for word, its turns joined."""
    calls: list[Call] = Field(default_factory=list, exclude=True)
    """Each call of the policy, in order."""
    _view: View | None = PrivateAttr(default=None)

    @classmethod
    def from_record(
        cls, record: ResultRecord, view: View | None = None, images: ImageStore | None = None
    ) -> FocusResult:
        """Read the `result` of the graph's state.

        Args:
            record: the plain data.
            view: the image that was looked at; without it there are no pictures of it.
            images: where the pictures are that visual tools made; without it there are none of them.
        """
        result = cls(
            answer=record["answer"],
            mode=record["mode"],
            policy=record["policy"],
            valid_trace=record["valid_trace"],
            steps=[_step(step, view, images) for step in record["steps"]],
            warnings=record["warnings"],
            tokens=_tokens(record["tokens"]),
            seconds=record["seconds"],
            adaptive=_adaptive(record["adaptive"]) if "adaptive" in record else None,
            question=record["question"],
            options=record["options"],
            trace_text=record["trace"],
            calls=[
                Call(seconds=seconds, prompt=int(prompt), completion=int(completion), images=int(images))
                for seconds, prompt, completion, images in record["calls"]
            ],
        )
        result._view = view
        return result

    @property
    def trace(self) -> Trace:
        """The steps and the answer as a trace; the depths are the policy's own."""
        return Trace(
            steps=[
                Step(boxes=[AreaBox(bbox_2d=box.bbox_2d, depth=box.depth) for box in step.boxes], text=step.text)
                for step in self.steps
            ],
            answer=self.answer,
        )

    @property
    def image(self) -> Image.Image | None:
        """The image that was looked at, upright and in full resolution."""
        return None if self._view is None else self._view.image

    @property
    def depth_map(self) -> DepthMap | None:
        """Its depth, if it was known."""
        return None if self._view is None else self._view.depth

    @property
    def crops(self) -> list[Image.Image]:
        """All crops that the policy was shown, in order."""
        return [crop for step in self.steps for crop in step.crops]

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, as `sifthinker ask --json` prints it; `adaptive` in mode adaptive alone."""
        return self.model_dump(mode="json", exclude={"adaptive"} if self.adaptive is None else None)

    def _repr_html_(self) -> str:
        """The report, for a notebook."""
        from sifthinker.agent.report import render_report, report_of

        page = html.escape(render_report(report_of(self)), quote=True)
        frame = 'width="100%" height="720" style="border:0" title="where the policy looked"'
        return f'<iframe srcdoc="{page}" {frame}></iframe>'


def _step(record: StepRecord, view: View | None, images: ImageStore | None) -> FocusStep:
    sizes = [(size[0], size[1]) for size in record["crop_sizes"] if size is not None]
    step = FocusStep(
        boxes=[LookedAtBox.model_validate(box) for box in record["boxes"]],
        text=record["text"],
        crop_size=max(sizes, key=lambda size: size[0] * size[1], default=None),
        shown=[None if shown is None else (shown[0], shown[1], shown[2], shown[3]) for shown in record["crops"]],
        edited=record["edited"],
        findings=[_finding(found, images) for found in record.get("tools", ())],
    )
    if view is not None:
        step._crops = [view.crop(shown, min_px=1)[0] for shown in step.shown if shown is not None]
    return step


def _finding(record: ToolRecord, images: ImageStore | None) -> ToolFinding:
    kept = record["picture"]
    found = ToolFinding(box=record["box"], call=record["call"], text=record["text"], picture_id=kept)
    if kept is not None and images is not None:
        with suppress(ImageError):  # the store has let go of it: a report without it is better than none
            found._picture = images.get(kept)
    return found


def _adaptive(record: AdaptiveRecord) -> Adaptive:
    told = {key: value for key, value in record["weighed"].items() if key not in ("kind", "warnings")}
    tools = record["tools"]
    return Adaptive.model_validate(
        {**told, "internal": _part(record["internal"]), "tools": None if tools is None else _part(tools)}
    )


def _part(record: PartRecord) -> PartResult:
    return PartResult(
        answer=record["answer"],
        valid_trace=record["valid_trace"],
        trace_text=record["trace"],
        tokens=_tokens(record["tokens"]),
        seconds=record["seconds"],
    )


def _tokens(counts: list[int]) -> Tokens:
    prompt, completion, images = counts
    return Tokens(prompt=prompt, completion=completion, images=images)
