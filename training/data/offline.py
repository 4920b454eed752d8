"""A teacher that needs no server: plain, true texts from boxes, depths and relations.

It says only what follows from what it is given: how many places there are, where they lie in the picture, which of two
is nearer, further left or higher, what they are called where the source names them. It does not pretend to see.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sifthinker.policy.boxes import Box, area
from sifthinker.policy.trace import AreaBox, Step, Trace, render
from sifthinker.training.data.expansion import Area
from sifthinker.training.data.teacher import Reply, Task, TeacherCounts

SAME_DEPTH = 0.02
"""Depths closer than this are told as about equal."""
SAME_PLACE = 0.03
"""Centres closer than this are not told as left or right, above or below."""
_MOST_NAMED = 6
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
_ARTICLE = re.compile(r"(?:the|an?) ", re.IGNORECASE)


@dataclass
class OfflineTeacher:
    """See `Teacher`. The same task always gets the same texts."""

    counts: TeacherCounts = field(default_factory=TeacherCounts)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def name(self) -> str:
        """Its name in configurations and records."""
        return "offline"

    def write(self, task: Task) -> Reply:
        """The trace of a task."""
        with self._lock:
            self.counts.calls += 1
        texts = [_text(task, index) for index in range(len(task.areas))]
        steps = [Step(boxes=list(one.boxes), text=text) for one, text in zip(task.areas, texts, strict=True)]
        return Reply(render(Trace(steps=steps, answer=task.answer), decimals=task.decimals))

    def close(self) -> None:
        """There is nothing to let go of."""


def _text(task: Task, index: int) -> str:
    """What is said of an area."""
    this = task.areas[index]
    if index == len(task.areas) - 1:
        return " ".join([*_found(task, this), f"That answers the question: {_sentence(task.answer)}"])
    match this.kind:
        case "whole":
            return f"I begin with the whole image and look for {_wanted(task)}."
        case "distractor":
            return f"Nothing in this area decides the question. I look for {_wanted(task)} elsewhere."
        case "hull":
            return f"Further in: {_wanted(task)} lie {_where(this.xyxy[0])}, all in this area."
        case _:
            places = "this part" if len(this.boxes) == 1 else f"these {len(this.boxes)} parts"
            return f"I look closer at {places} of the image, {_list([_where(box) for box in this.xyxy])}."


def _wanted(task: Task) -> str:
    """What is to be found, by name where the question itself names it: a name may be the answer."""
    count = len(task.areas[-1].boxes)
    different = {_bare(label) for label in task.labels}
    named = all(re.search(rf"\b{re.escape(label)}\b", task.question, re.IGNORECASE) for label in different)
    if len(task.labels) == count == len(different) <= _MOST_NAMED and named:
        return _list([_the(label) for label in task.labels])
    return "the place that decides the question" if count == 1 else f"the {count} places that decide the question"


def _found(task: Task, last: Area) -> list[str]:
    """What the boxes of the last area show, as sentences."""
    names = _names(task, len(last.boxes))
    if len(last.boxes) == 1:
        return [_sentence(f"here is {names[0]}, {_where(last.xyxy[0])}{_at_depth(last.boxes[0])}")]
    if len(last.boxes) > _MOST_NAMED:
        return [f"I count {len(last.boxes)} places here."]
    told = [f"{name} {_where(box.bbox_2d)}{_at_depth(box)}" for name, box in zip(names, last.boxes, strict=True)]
    found = [_sentence(f"here are {_list(told)}")]
    if len(last.boxes) == 2:
        found += [_sentence(relation) for relation in _relations(names, last.boxes)]
    return found


def _names(task: Task, count: int) -> list[str]:
    if len(task.labels) == count:
        return _told_apart(task.labels)
    if count == 1:
        return ["what decides the question"]
    return [f"place {number}" for number in range(1, count + 1)]


def _told_apart(labels: Sequence[str]) -> list[str]:
    """Labels as names; of several things of one label each gets its number."""
    same = Counter(map(_bare, labels))
    met: Counter[str] = Counter()
    names = []
    for label in labels:
        name = _bare(label)
        met[name] += 1
        alone = same[name] == 1 or len(labels) > _MOST_NAMED
        names.append(_the(label) if alone else f"the {_ORDINALS[met[name] - 1]} {name}")
    return names


def _relations(names: Sequence[str], boxes: Sequence[AreaBox]) -> list[str]:
    """How the second of two boxes lies to the first: in depth, across, and in height, as far as it is plain."""
    told: list[str] = []
    near, far = (boxes[0].depth, boxes[1].depth)
    if near is not None and far is not None:
        if abs(near - far) < SAME_DEPTH:
            told.append("measured by depth, both are about equally far away")
        else:
            nearer, further = (names[0], names[1]) if near < far else (names[1], names[0])
            told.append(f"measured by depth, {nearer} is nearer than {further}")
    (x0, y0), (x1, y1) = (_centre(box.bbox_2d) for box in boxes)
    if abs(x0 - x1) >= SAME_PLACE:
        left, right = (names[0], names[1]) if x0 < x1 else (names[1], names[0])
        told.append(f"{left} is further left than {right}")
    elif abs(y0 - y1) >= SAME_PLACE:
        upper, lower = (names[0], names[1]) if y0 < y1 else (names[1], names[0])
        told.append(f"{upper} is higher in the image than {lower}")
    return told


def _where(box: Box) -> str:
    """Where a box lies in the image, by the ninth that its centre is in."""
    if area(box) >= 0.9:
        return "across the whole image"
    x, y = _centre(box)
    row = ("at the top", "in the middle", "at the bottom")[min(int(y * 3), 2)]
    column = (" left", "", " right")[min(int(x * 3), 2)]
    return f"in the middle on the{column}" if column and row == "in the middle" else f"{row}{column}"


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _at_depth(box: AreaBox) -> str:
    return "" if box.depth is None else f" at depth {box.depth:.2f}"


def _the(label: str) -> str:
    return label if _ARTICLE.match(label) else f"the {label}"


def _bare(label: str) -> str:
    return _ARTICLE.sub("", label).casefold()


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _sentence(words: str) -> str:
    """With a capital and a full stop."""
    words = words.strip()
    return words[:1].upper() + words[1:] + ("" if words[-1:] in ".!?" else ".")
