"""The lenient parser: what can be recovered from a text that is nearly a trace, and what was wrong with it.

For people, and for models that were only told the grammar; never used for scoring. Import the names from
`sifthinker.policy.trace`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sifthinker.policy.boxes import BoxSpace, Size
from sifthinker.policy.errors import TraceError
from sifthinker.policy.trace_areas import Found, Place, Problems, find_groups, read_area, read_quads
from sifthinker.policy.trace_layout import LENIENT_TAG, Layout, cleaned, judge_order, lay_out
from sifthinker.policy.trace_model import AreaBox, Step, Trace
from sifthinker.policy.trace_strict import WHITE, parse

MARKUP = re.compile(r"`{3}[a-zA-Z]{0,20}+|</?tool_call>|<\|[a-zA-Z_]{1,40}+\|>")
"""What a model wraps boxes in, and what is left of its chat template: no part of the prose."""
MOST_AREAS = 1000
"""Areas that are recovered from one text: a flood of them is of no use to anyone."""
ANSWER_PREFIX = re.compile(
    r"[\s*_#]{0,9}+(?:the\s{1,3})?(?:final\s{1,3})?answer\b[\s*_]{0,9}+(?::|is\b)[\s*_:]{0,9}+", re.I
)


@dataclass(frozen=True)
class Span:
    """What one turn of tool mode said, in reading order: `text`, then `steps`, then `boxes` or `answer`."""

    text: str = ""
    """What stands before the first area: it belongs to the area of the turn before."""
    steps: tuple[Step, ...] = ()
    """Areas with their texts, finished within the span."""
    boxes: tuple[AreaBox, ...] = ()
    """The area with which the span ends, its text still to come."""
    answer: str | None = None
    problems: tuple[str, ...] = ()
    """How the span departed from the grammar, each a plain sentence."""


def parse_lenient(
    text: str,
    *,
    space: BoxSpace = BoxSpace.UNIT,
    image_size: Size | None = None,
    resized_size: Size | None = None,
) -> tuple[Trace, list[str]]:
    """The trace that can be recovered from a text, and every problem met as a plain sentence; no problems, then [].

    Recovered are: missing, repeated, misplaced or misspelt tags, prose around the tags, areas in code fences, in tool
    calls or bare in the prose, objects with other keys, lists of four numbers, swapped corners, boxes that reach a
    little over the edge, an answer without tags (what follows the last `</think>`, else the last line). Depths may be
    missing without this being a problem.

    Every step of the trace has at least one box; the answer is "" where none was found. Control characters come as
    spaces, half surrogate pairs as U+FFFD, so the texts can be written anywhere.

    Args:
        text: what the policy wrote.
        space: the space in which it writes boxes, as its profile declares. Never guessed.
        image_size: (width, height) of the upright image, where the space needs it.
        resized_size: (width, height) after the processor's resize, where the space needs it.

    Raises:
        UsageError: a size that the space needs is missing. No text raises anything.
    """
    place = Place(space, image_size, resized_size)
    place.check()
    problems = Problems()
    text = cleaned(text, problems)
    fault: TraceError | None = None
    if place.space == BoxSpace.UNIT:
        try:
            return parse(text, require_depth=False), problems.sentences()
        except TraceError as error:
            fault = error  # the reading below says what is wrong, and not only the first fault
    reading = _read(text, place, problems, whole=True)
    steps = reading.closed()
    if reading.lead:
        if steps:
            problems.add("There is text before the first area.")
            steps[0].text = " ".join([*reading.lead, steps[0].text]).strip()
        else:
            problems.add("The reasoning names no area with a box, so it was left out.")
    if not steps:
        problems.add("No area with a box was found.")
    if not reading.answer:
        problems.add("No answer was found.")
    if fault and not problems:
        problems.add(f"The text is not a trace: {fault}.")
    return Trace(steps=steps, answer=reading.answer), problems.sentences()


def parse_span(
    text: str,
    *,
    space: BoxSpace = BoxSpace.UNIT,
    image_size: Size | None = None,
    resized_size: Size | None = None,
) -> Span:
    """What one turn of tool mode says, recovered as by `parse_lenient`, with the same arguments and errors.

    A turn goes on with the text of the area before (`text`), and ends in an area to look at (`boxes`), or in the
    answer. That it is not a whole trace is no problem. An answer without tags is taken only after `</think>`.
    """
    place = Place(space, image_size, resized_size)
    place.check()
    problems = Problems()
    reading = _read(cleaned(text, problems), place, problems, whole=False)
    steps = reading.closed()
    boxes: list[AreaBox] = []
    if steps and not reading.answer and reading.pending:
        boxes = steps.pop().boxes
    return Span(" ".join(reading.lead), tuple(steps), tuple(boxes), reading.answer or None, tuple(problems.sentences()))


def last_area(
    text: str,
    *,
    space: BoxSpace = BoxSpace.UNIT,
    image_size: Size | None = None,
    resized_size: Size | None = None,
) -> tuple[list[AreaBox], list[str]]:
    """The boxes of the last area in an unfinished span of tool mode, and the problems met in reading it.

    Where there is no `<area>` tag, the last boxes in the prose are taken. Without any box the list is empty and a
    problem says why. Arguments and errors as in `parse_lenient`; the strict variant is `last_area_strict`.
    """
    place = Place(space, image_size, resized_size)
    place.check()
    problems = Problems()
    text = cleaned(text, problems)
    opened = closed = None
    for tag in LENIENT_TAG.finditer(text):
        if tag[2].lower() == "area" and not tag[1]:
            opened, closed = tag, None
        elif opened and closed is None:
            closed = tag
    if opened:
        end = closed.start() if closed else len(text)
        return read_area(text, opened.end(), end, place, problems, "The area").boxes, problems.sentences()
    groups = find_groups(text, 0, len(text))
    if not groups:
        problems.add("No area was found.")
        return [], problems.sentences()
    problems.add("The area does not stand in <area> tags.")
    start, end, quads = groups[-1]
    return read_quads(text, quads, start, end, place, problems, "The area").boxes, problems.sentences()


@dataclass
class _Reading:
    """What was recovered so far."""

    lead: list[str] = field(default_factory=list)
    """Text before the first area."""
    steps: list[tuple[Found, list[str]]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """The list to which the last words went."""
    answer: str = ""
    pending: bool = False
    """Whether the last thing read was an area."""

    def say(self, words: str) -> None:
        """Give words to the area read last."""
        if words := words.strip():
            self.said = self.steps[-1][1] if self.steps else self.lead
            self.said.append(words)

    def closed(self) -> list[Step]:
        """The steps; one without words of its own takes the labels of its boxes."""
        return [
            Step(boxes=found.boxes, text=" ".join(words) or "; ".join(dict.fromkeys(found.labels)))
            for found, words in self.steps
        ]


def _read(text: str, place: Place, problems: Problems, *, whole: bool) -> _Reading:
    layout = lay_out(text, problems)
    if whole:
        judge_order(layout, problems)
    reading = _Reading()
    answers = [text[piece.start : piece.end].strip() for piece in layout.pieces if piece.kind == "answer"]
    given = [answer for answer in answers if answer]
    if len(answers) > 1:
        problems.add("There is more than one answer; the last one was taken.")
    if answers and not given:
        problems.add("The answer is empty.")
    reading.answer = given[-1] if given else ""
    areas = _read_areas(text, layout, place, problems)
    mine = not any(found.boxes for found in areas.values())
    think_end = _think_end(text, layout, whole=whole)
    thought = layout.think_end is not None
    after: list[str] = []
    for piece in layout.pieces:
        content = text[piece.start : piece.end]
        if piece.kind == "area":
            found = areas.get(piece.start)
            if found and found.boxes:
                reading.steps.append((found, []))
                reading.pending = True
        elif piece.kind == "text":
            reading.say(content)
            reading.pending = False
        elif piece.kind == "prose" and content.strip(WHITE):
            if layout.think_start is not None and piece.end <= layout.think_start:
                problems.add("There is text before <think>; it was left out.")
                continue
            problems.add("There is text outside the tags.")
            outside = piece.start >= think_end
            room = MOST_AREAS - len(reading.steps)
            groups = find_groups(text, piece.start, piece.end, most=room) if mine else []
            if len(groups) > room:
                problems.add(f"There are more than {MOST_AREAS} areas; the rest was left out.")
            at = piece.start
            for start, end, quads in groups[:room]:
                _prose(reading, after, text[at:start], outside=outside, thought=thought)
                found = read_quads(text, quads, start, end, place, problems, f"Area {len(reading.steps) + 1}")
                if found.boxes:
                    problems.add("Boxes stand outside <area> tags.")
                    reading.steps.append((found, []))
                    reading.pending = True
                at = end
            _prose(reading, after, text[at : piece.end], outside=outside, thought=thought)
    if not reading.answer and after:
        _answer_from(after, reading, problems, thought=thought)
    return reading


def _prose(reading: _Reading, after: list[str], words: str, *, outside: bool, thought: bool) -> None:
    """Words without tags: told by the area before them, and, after the thinking, perhaps the answer."""
    words = MARKUP.sub(" ", words).strip()
    if not any(map(str.isalnum, words)):
        return
    if outside:
        after.append(words)
    if not (outside and (thought or reading.answer)):
        reading.say(words)


def _answer_from(after: list[str], reading: _Reading, problems: Problems, *, thought: bool) -> None:
    """Take the answer from prose after the thinking: all of it after `</think>`, else its last line."""
    if thought:
        answer = " ".join(after)
    else:
        *rest, answer = [line for line in after[-1].splitlines() if any(map(str.isalnum, line))]
        reading.said[-1:] = ["\n".join(rest)] if rest else []  # it was told by the last area as well
    problems.add("The answer does not stand in <answer> tags.")
    bare = answer[prefix.end() :] if (prefix := ANSWER_PREFIX.match(answer)) else answer
    reading.answer = bare.strip().strip("*_`").strip() or answer.strip()


def _read_areas(text: str, layout: Layout, place: Place, problems: Problems) -> dict[int, Found]:
    """The boxes of each area piece, by where it starts."""
    areas = [piece for piece in layout.pieces if piece.kind == "area"]
    if len(areas) > MOST_AREAS:
        problems.add(f"There are more than {MOST_AREAS} areas; the rest was left out.")
        areas = areas[:MOST_AREAS]
    return {
        piece.start: read_area(text, piece.start, piece.end, place, problems, f"Area {index}")
        for index, piece in enumerate(areas, 1)
    }


def _think_end(text: str, layout: Layout, *, whole: bool) -> int:
    """Where the thinking ends: at the last `</think>`, else where the answer or, without `<think>`, the areas do."""
    if layout.think_end is not None:
        return layout.think_end
    starts = [piece.start for piece in layout.pieces if piece.kind == "answer"]
    if starts:
        return starts[0]
    if layout.think_start is not None or not whole:
        return len(text) + 1
    return max((piece.end for piece in layout.pieces if piece.kind in ("area", "text")), default=0)
