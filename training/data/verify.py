"""Whether a teacher's trace becomes a record.

It must keep to the grammar, keep the given boxes and depths as they were given, say something about each area, and end
in the right answer. What is kept is the teacher's texts between the given numbers and before the given answer, in the
one canonical spelling: a trace that was accepted and one that was made from the record are the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from sifthinker.policy.errors import TraceError
from sifthinker.policy.trace import Step, Trace, parse, render_boxes
from sifthinker.training.data.expansion import Area
from sifthinker.training.data.samples import CONTROL
from sifthinker.training.rewards.completions import says_something
from sifthinker.training.rewards.matching import match

MAX_STEP_TEXT = 2_000
"""Characters that a teacher may write about one area."""


@dataclass(frozen=True)
class Verdict:
    """The trace that was accepted, or why there is none."""

    trace: Trace | None
    reason: str = ""
    """"grammar:CODE" with a code of `TraceError`, or "areas", "boxes", "depths", "empty_text", "long_text", "control",
    "answer"."""
    message: str = ""


def verify(text: str, areas: Sequence[Area], answer: str, *, options: Sequence[str] = (), decimals: int = 3) -> Verdict:
    """Judge what a teacher wrote.

    Args:
        text: the whole trace.
        areas: what it was given, in its order.
        answer: the right answer.
        options: the answers to choose from, where there are any.
        decimals: of the given numbers.
    """
    with_depth = all(box.depth is not None for area in areas for box in area.boxes)
    try:
        trace = parse(text, require_depth=with_depth)
    except TraceError as error:
        return Verdict(None, f"grammar:{error.reason}", f"The trace breaks the grammar: {error}.")
    if len(trace.steps) != len(areas):
        return Verdict(None, "areas", f"Expected {len(areas)} areas, got {len(trace.steps)}.")
    for number, (step, area) in enumerate(zip(trace.steps, areas, strict=True), 1):
        if refused := _judged(step, area, number, decimals):
            return refused
    if match(trace.answer, answer, options or None).score < 1 and _plain(trace.answer) != _plain(answer):
        return Verdict(None, "answer", f"Expected the answer {answer!r}, got {trace.answer[:200]!r}.")
    steps = [
        Step(boxes=list(area.boxes), text=" ".join(step.text.split()))
        for step, area in zip(trace.steps, areas, strict=True)
    ]
    return Verdict(Trace(steps=steps, answer=answer))


def _judged(step: Step, area: Area, number: int, decimals: int) -> Verdict | None:
    """What is wrong with one step, None if nothing is."""
    bare = [[box.model_copy(update={"depth": None}) for box in boxes] for boxes in (step.boxes, area.boxes)]
    said, given = (render_boxes(boxes, decimals=decimals) for boxes in bare)
    if said != given:
        return Verdict(None, "boxes", f"Expected area {number} to be {given}, got {said}.")
    said, given = (render_boxes(boxes, decimals=decimals) for boxes in (step.boxes, area.boxes))
    if said != given:
        return Verdict(None, "depths", f"Expected area {number} to be {given}, got {said}.")
    if problem := text_problem(step.text, number):
        return Verdict(None, *problem)
    return None


def text_problem(text: str, number: int) -> tuple[str, str] | None:
    """Why nothing can be learnt from a text about an area, as a reason ("empty_text", "long_text", "control") and a
    sentence; None where it can. It holds for whoever wrote it: a teacher, a source, a policy."""
    if not says_something(text):
        return "empty_text", f"Expected a text about area {number}, got none."
    if len(text) > MAX_STEP_TEXT:
        return "long_text", f"Expected at most {MAX_STEP_TEXT} characters about area {number}, got {len(text)}."
    if found := CONTROL.search(text):
        return "control", f"Expected plain text about area {number}, got {found[0]!r} in it."
    return None


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip().casefold()
