"""The last node: a true account of what was looked at and what was answered."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from langgraph.runtime import Runtime

from sifthinker.nodes.context import FocusContext, Mode, View
from sifthinker.nodes.conversation import policy_turns, said_so_far, the_look
from sifthinker.nodes.events import AnswerGiven, Warned
from sifthinker.nodes.questions import answer_message
from sifthinker.nodes.reading import read_turn
from sifthinker.nodes.state import BoxRecord, FocusState, FocusTurn, Look, ResultRecord, StepRecord, Turn
from sifthinker.policy.trace import AreaBox

_QUOTES = "\"'`“”‘’«»()[]*"


def answer(state: FocusState, runtime: Runtime[FocusContext]) -> dict[str, Any]:
    """Give the answer and the account of the run: steps, measured depths, crops, warnings, costs."""
    context, look, turns = runtime.context, the_look(state), state["turns"]
    view = context.view(look["image"])
    steps, said = account(look, turns, context)
    warnings = [*look["warnings"], *(warning for turn in turns for warning in turn.get("warnings", ()))]
    given, problem = match_option(said, look["options"])
    if problem is not None:
        warnings.append(problem)
        runtime.stream_writer(Warned(message=problem))
    calls, trace = policy_turns(turns), said_so_far(turns)
    valid, departures = _validity(trace, look, turns, view, context)
    if not valid and not warnings:
        warnings += departures
    tokens = [sum(turn["tokens"][index] for turn in calls) for index in range(3)]
    runtime.stream_writer(AnswerGiven(answer=given))
    result = ResultRecord(
        answer=given,
        question=look["question"],
        options=look["options"],
        image=look["image"],
        mode=look["mode"],
        policy=context.policy.profile.name,
        trace=trace,
        valid_trace=valid,
        steps=steps,
        warnings=list(dict.fromkeys(warnings)),
        tokens=tokens,
        calls=[[turn["seconds"], *turn["tokens"]] for turn in calls],
        seconds=look["seconds"] + sum(turn["seconds"] for turn in turns if turn["kind"] != "ask"),
    )
    reply = answer_message(given, image=look["image"], trace=trace, policy=context.policy.profile.name, tokens=tokens)
    return {"messages": [reply], "look": None, "turns": None, "result": result}


def account(look: Look, turns: Sequence[Turn], context: FocusContext) -> tuple[list[StepRecord], str]:
    """The steps of a question and its answer ("" when none was given), from the turns.

    In mode tools each turn's text closes the step that the turn before it opened. In mode internal the last completion
    that has steps counts, since a policy that is asked once more begins anew.
    """
    view = context.view(look["image"])
    steps: list[StepRecord] = []
    answered, final = "", False
    for turn in turns:
        if turn["kind"] == "ask":
            final = final or turn["what"] == "answer_now"
        elif turn["kind"] == "focus":
            if steps:
                _looked_at(steps[-1], turn, view, context.config.min_crop_px)
        else:
            reading = read_turn(
                context.dialect,
                turn["said"],
                image_size=view.image.size,
                mode=look["mode"],
                final=final,
                cut=turn.get("cut", False),
            )
            if look["mode"] != "tools" and reading.steps:
                steps = []
            if reading.text and steps:
                steps[-1]["text"] = reading.text
            steps += [_step(step.boxes, step.text, view) for step in reading.steps]
            if reading.boxes:
                steps.append(_step(reading.boxes, "", view))
            answered = reading.answer or answered
    return steps, answered


def match_option(answer: str, options: Sequence[str]) -> tuple[str, str | None]:
    """The option that an answer names, word for word; else the answer as it is, and what to say about it.

    Only letter case, white space, enclosing quotes and a closing full stop are looked past: an option is never guessed.
    """
    if not options or not answer or answer in options:
        return answer, None
    meant = [option for option in options if _plain(option) == _plain(answer)]
    if len(meant) == 1:
        return meant[0], None
    return answer, f"The answer {answer[:80]!r} is none of the options ({', '.join(map(repr, options))})."


def _plain(text: str) -> str:
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip()
    return text.strip(_QUOTES).rstrip(".").strip(_QUOTES + " ").casefold()


def _validity(
    trace: str, look: Look, turns: Sequence[Turn], view: View, context: FocusContext
) -> tuple[bool, tuple[str, ...]]:
    """Whether everything that the policy said, joined, keeps strictly to what was asked of it; else why not."""
    if any(turn["kind"] == "ask" for turn in turns):
        return False, ()  # what it had to be asked besides is told already
    mode: Mode = "direct" if look["mode"] == "direct" else "internal"
    read = context.dialect.read_completion(trace, image_size=view.image.size, mode=mode)
    return read.valid, () if read.valid else read.warnings


def _step(boxes: Sequence[AreaBox], text: str, view: View) -> StepRecord:
    records = [
        BoxRecord(
            bbox_2d=list(box.bbox_2d),
            depth=box.depth,
            measured_depth=None if view.depth is None else view.depth.mean(box.bbox_2d),
        )
        for box in boxes
    ]
    return StepRecord(
        boxes=records, text=text, crops=[None] * len(records), crop_sizes=[None] * len(records), edited=False
    )


def _looked_at(step: StepRecord, turn: FocusTurn, view: View, min_px: int) -> None:
    """Put what the focus node did into its step."""
    if turn.get("person") == "edit":
        step["boxes"], step["edited"] = turn["boxes"], True
    places = {tuple(box["bbox_2d"]): shown for box, shown in zip(turn["boxes"], turn["crops"], strict=True)}
    step["crops"] = [places.get(tuple(box["bbox_2d"])) for box in step["boxes"]]
    width, height = view.image.size
    step["crop_sizes"] = [
        None if shown is None else [round((shown[2] - shown[0]) * width), round((shown[3] - shown[1]) * height)]
        for shown in step["crops"]
    ]
