"""The trace that a question deserves, by reverse expansion (paper section 3.1).

From the boxes that decide the question back to the whole image: answer boxes ← each expanded ← their hull, when there
are several ← sometimes a distractor ← whole image. Read forwards, the trace narrows down and corrects itself. Depths
are the depth map's means in the boxes; texts are plain and true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sifthinker.policy.boxes import WHOLE, Box, hull, iou
from sifthinker.policy.trace import AreaBox, Step, Trace
from sifthinker.training.world.questions import SPATIAL_FAMILIES, Question, SceneView


@dataclass(frozen=True)
class ExpansionConfig:
    """Constants of the reverse expansion.

    Attributes:
        grow: each side of an answer box moves out by this share of the box's size, and by `grow_min` at least.
        distractor: probability of a wrong area that the next one corrects.
        distractor_iou: a distractor overlaps the answer boxes by less than this.
    """

    grow: float = 0.18
    grow_min: float = 0.02
    distractor: float = 0.12
    distractor_iou: float = 0.05


def expand_box(box: Box, config: ExpansionConfig) -> Box:
    """The box grown on each side, clipped to the image."""
    dx = max((box[2] - box[0]) * config.grow, config.grow_min)
    dy = max((box[3] - box[1]) * config.grow, config.grow_min)
    return (max(box[0] - dx, 0.0), max(box[1] - dy, 0.0), min(box[2] + dx, 1.0), min(box[3] + dy, 1.0))


def mean_depth(depth: np.ndarray, box: Box) -> float:
    """Mean of a depth map (H, W) in a box; at least one pixel counts."""
    height, width = depth.shape
    x0, x1 = min(int(box[0] * width), width - 1), int(np.ceil(box[2] * width))
    y0, y1 = min(int(box[1] * height), height - 1), int(np.ceil(box[3] * height))
    return float(depth[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)].mean())


def make_trace(
    view: SceneView, question: Question, rng: np.random.Generator, config: ExpansionConfig | None = None
) -> Trace:
    """The trace from the whole image to the answer boxes, and the answer."""
    config = config or ExpansionConfig()
    depth = view.render.depth

    def areas(boxes: list[Box]) -> list[AreaBox]:
        return [AreaBox(bbox_2d=box, depth=mean_depth(depth, box)) for box in boxes]

    boxes = [target.box for target in question.targets]
    names = [f"the {target.label}" for target in question.targets]
    steps = [Step(boxes=areas([WHOLE]), text=f"I look for {wanted(question)}.")]
    wrong = _distractor(view, question, rng, config) if rng.random() < config.distractor else None
    if wrong is not None:
        box, label = wrong
        steps.append(Step(boxes=areas([box]), text=f"This is the {label}, not {wanted(question)}."))
    expanded = [expand_box(box, config) for box in boxes]
    if question.family == "sign":  # a sign grows to the object that carries it
        carrier = next(t for t in view.targets if t.index == question.targets[0].index)
        expanded = [expand_box(carrier.box, config)]
    if len(boxes) > 1:
        steps.append(Step(boxes=areas([hull(expanded)]), text=f"In here: {wanted(question)}."))
    steps.append(Step(boxes=areas(expanded), text="I look closer."))
    steps.append(Step(boxes=areas(boxes), text=verdict(view, question, names)))
    return Trace(steps=steps, answer=question.answer)


def wanted(question: Question) -> str:
    """What the question asks to find, in its own words."""
    text = question.text
    if question.family in ("color", "shape"):
        return text[text.index("the ") : -1]
    if question.family == "count":
        return "all " + text[len("How many ") : -len(" are there?")]
    if question.family == "sign":
        return f"the {question.targets[0].label}"
    return " and ".join(f"the {target.label}" for target in question.targets)


def places_of(view: SceneView, question: Question, boxes: Sequence[Box]) -> list[float]:
    """What a relation compares of each box: how far to the right its middle is, or its mean depth."""
    if question.family in ("left", "right"):
        return [(box[0] + box[2]) / 2 for box in boxes]
    return [mean_depth(view.render.depth, box) for box in boxes]


def verdict(view: SceneView, question: Question, names: list[str], boxes: Sequence[Box] | None = None) -> str:
    """What the answer boxes (by default those of the question's targets) show, and what follows."""
    family, answer = question.family, question.answer
    if family in SPATIAL_FAMILIES:
        sideways = family in ("left", "right")
        a, b = places_of(view, question, [t.box for t in question.targets] if boxes is None else boxes)
        places = [(a, names[0]), (b, names[1])]
        chooses = "yes" not in question.options
        if chooses:  # in order, so that each word needs one look: at the lesser number, then at the first or the last
            places.sort()
        where = "x" if sideways else "depth"
        seen = "At " + ", at ".join(f"{where} {at:.2f} {name}" for at, name in places) + ": "
        if chooses:
            most = {"left": "further left", "right": "further right"}.get(family, family)
            return seen + f"{places[family in ('right', 'farther')][1]} is {most}."
        # how the first stands to the second: to be matched with what is asked
        words = ("to the left of", "to the right of") if sideways else ("in front of", "behind")
        return seen + f"{names[0]} is {words[a > b]} {names[1]}."
    if family == "count":
        return "There: " + ", ".join(f"{place} {name}" for place, name in enumerate(names, 1)) + "."
    if family == "sign":
        return f"The sign says {answer}."
    return f"This is {names[0]}."


def _distractor(
    view: SceneView, question: Question, rng: np.random.Generator, config: ExpansionConfig
) -> tuple[Box, str] | None:
    """Another object, looked at by mistake."""
    wanted = {target.index for target in question.targets}
    others = [
        target
        for target in view.targets
        if target.index not in wanted
        and all(iou(target.box, right.box) < config.distractor_iou for right in question.targets)
    ]
    if not others:
        return None
    target = others[int(rng.integers(len(others)))]
    return expand_box(target.box, config), target.label
