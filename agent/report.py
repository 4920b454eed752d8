"""The HTML report of a run: one file that holds everything, with the steps drawn over the image."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata, resources
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from sifthinker.agent.pictures import OVERLAY_WIDTH, Corners, Placed, placed, step_colour
from sifthinker.agent.words import box_words, step_title
from sifthinker.nodes.depth import depth_to_rgb
from sifthinker.policy.errors import UsageError

if TYPE_CHECKING:
    from sifthinker.agent.result import FocusResult
    from sifthinker.policy.boxes import Box

_CHIP = 46  # side of a step's number, in the overlay's units
_EMBED_PX = 1600  # a larger image is made smaller before it is put into the page
_PNG_BYTES = 600_000  # a PNG above this is put in as JPEG


@dataclass(frozen=True)
class ReportBox:
    """One box of a step: normalised xyxy, the depth that the policy said, the depth that was measured."""

    box: Box
    depth: float | None = None
    measured: float | None = None


@dataclass(frozen=True)
class ReportFinding:
    """What a visual tool found: the call, its words, its picture."""

    call: str
    text: str = ""
    picture: Image.Image | None = None
    box: int | None = None
    """Which of the step's boxes, from 1; None: it has but one."""


@dataclass(frozen=True)
class ReportStep:
    """One step: its boxes, what the policy said of them, the crops it was shown, and what it cost, in words."""

    boxes: Sequence[ReportBox]
    text: str
    crops: Sequence[Image.Image] = ()
    cost: str = ""
    findings: Sequence[ReportFinding] = ()
    """What visual tools found."""


@dataclass(frozen=True)
class Report:
    """Everything that the page shows. Texts may hold anything: they are escaped."""

    question: str
    answer: str
    image: Image.Image
    steps: Sequence[ReportStep]
    options: Sequence[str] = ()
    depth_picture: Image.Image | None = None
    image_name: str = ""
    warnings: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = field(default_factory=list)
    """Name and value, as shown: mode, policy, tokens, seconds …"""
    command: str = ""
    """The command line that runs it again."""
    trace_text: str = ""


def report_of(result: FocusResult, *, image_name: str = "", command: str = "") -> Report:
    """The report of a run.

    Args:
        result: with its pictures, as `ask` gives it.
        image_name: what the page calls the image.
        command: the command line that runs it again.

    Raises:
        UsageError: the result came without its pictures (it was read back from plain data).
    """
    if result.image is None:
        raise UsageError("This result has no pictures: a report needs the result as `ask` returned it.")
    depth_map = result.depth_map
    costs = step_costs(result)
    return Report(
        question=result.question,
        answer=result.answer,
        image=result.image,
        steps=[
            ReportStep(
                boxes=[ReportBox(box.bbox_2d, box.depth, box.measured_depth) for box in step.boxes],
                text=step.text,
                crops=step.crops,
                cost=" · ".join(filter(None, [cost, "set by a person" if step.edited else ""])),
                findings=[
                    ReportFinding(found.call, found.text, found.picture, found.box + 1 if len(step.boxes) > 1 else None)
                    for found in step.findings
                ],
            )
            for step, cost in zip(result.steps, costs, strict=True)
        ],
        options=result.options,
        depth_picture=None if depth_map is None else depth_map.picture(),
        image_name=image_name,
        warnings=result.warnings,
        facts=_facts(result),
        command=command,
        trace_text=result.trace_text,
    )


def _facts(result: FocusResult) -> list[tuple[str, str]]:
    facts = [
        ("policy", result.policy),
        ("mode", result.mode),
        ("steps", str(len(result.steps))),
        ("images encoded", str(result.tokens.images)),
        ("tokens in", f"{result.tokens.prompt:,}"),
        ("tokens out", f"{result.tokens.completion:,}"),
        ("seconds", f"{result.seconds:.1f}"),
        ("trace", "valid" if result.valid_trace else "not quite the grammar"),
    ]
    if result.depth_map is not None:
        facts.append(("depth from", result.depth_map.source))
    if result.adaptive is not None:
        facts.append(("why it went on" if result.adaptive.went_on else "why it did not go on", result.adaptive.why))
    return facts


def step_costs(result: FocusResult) -> list[str]:
    """For each step what reading its crops took, in words: known where every step was answered by one call."""
    if result.mode == "tools" and len(result.calls) == len(result.steps) + 1:
        return [f"{call.seconds:.1f} s" for call in result.calls[1:]]
    return [""] * len(result.steps)


def render_report(report: Report) -> str:
    """The whole page as HTML; it loads nothing from elsewhere, and runs no script but its own."""
    environment = Environment(
        loader=PackageLoader("sifthinker.agent"), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    width, height = report.image.size
    return environment.get_template("report.html").render(
        report=report,
        steps=_step_views(report.steps, report.image.size),
        height=round(OVERLAY_WIDTH * height / width),
        aspect=f"{width / height:.4f}",
        image_url=_picture_url(report.image),
        depth_url=_picture_url(report.depth_picture) if report.depth_picture else "",
        gradient=_depth_gradient(),
        style=Markup(_asset("report.css")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        version=metadata.version("sifthinker"),
    )


@dataclass(frozen=True)
class _BoxView(Placed):
    words: str
    depth: float | None
    measured: float | None


@dataclass(frozen=True)
class _CropView:
    url: str
    caption: str


@dataclass(frozen=True)
class _FindingView:
    call: str
    text: str
    place: str
    url: str
    """Of its picture; empty where it gave none."""
    caption: str


@dataclass(frozen=True)
class _StepView:
    number: int
    colour: str
    title: str
    text: str
    cost: str
    boxes: list[_BoxView]
    crops: list[_CropView]
    findings: list[_FindingView]
    has_depth: bool


def _step_views(steps: Sequence[ReportStep], size: tuple[int, int]) -> list[_StepView]:
    chips: list[Corners] = []
    return [_step_view(number, step, size, chips) for number, step in enumerate(steps, 1)]


def _step_view(number: int, step: ReportStep, size: tuple[int, int], chips: list[Corners]) -> _StepView:
    return _StepView(
        number=number,
        colour=step_colour(number - 1),
        title=step_title([entry.box for entry in step.boxes]),
        text=step.text,
        cost=step.cost,
        boxes=[_box_view(entry, number, size, chips) for entry in step.boxes],
        crops=[_CropView(_picture_url(crop), f"{crop.width} × {crop.height} px") for crop in step.crops],
        findings=[_finding_view(found) for found in step.findings],
        has_depth=any(entry.depth is not None or entry.measured is not None for entry in step.boxes),
    )


def _finding_view(found: ReportFinding) -> _FindingView:
    picture = found.picture
    return _FindingView(
        call=found.call,
        text=found.text,
        place="" if found.box is None else f"box {found.box}",
        url="" if picture is None else _picture_url(picture),
        caption="" if picture is None else f"{picture.width} × {picture.height} px",
    )


def _box_view(entry: ReportBox, number: int, size: tuple[int, int], chips: list[Corners]) -> _BoxView:
    return _BoxView(
        **vars(placed(entry.box, number, size, _CHIP, chips)),
        words=box_words(entry.box),
        depth=entry.depth,
        measured=entry.measured,
    )


def _picture_url(image: Image.Image) -> str:
    """The picture as a `data:` address: PNG where that is small, JPEG otherwise; never larger than `_EMBED_PX`."""
    image = image.convert("RGB")
    image.thumbnail((_EMBED_PX, _EMBED_PX), Image.Resampling.LANCZOS)
    kind, data = "png", _encoded(image, "PNG")
    if len(data) > _PNG_BYTES:
        kind, data = "jpeg", _encoded(image, "JPEG")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=88, optimize=True)
    return buffer.getvalue()


def _depth_gradient() -> str:
    """The colours of every depth picture, near to far, as a CSS background."""
    colours = depth_to_rgb(np.linspace(0, 1, 9)[None])[0]  # (9, 3)
    return f"linear-gradient(90deg, {', '.join('#' + bytes(colour).hex() for colour in colours)})"


def _asset(name: str) -> str:
    return resources.files("sifthinker.agent").joinpath("templates", name).read_text(encoding="utf-8")
