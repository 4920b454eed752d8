"""How the published code reads a completion: it searches for tags and takes what stands between them.

Its leniency is the point: it decides which loopholes there are. What it lets pass, and the rest of this package does
not, is told at each function.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_TAG = re.compile(r"<(/?\w+)>")
_STEP_TAGS = ["area", "/area", "text", "/text"]
_MOST_DECIMALS = 3


@dataclass
class LooseArea:
    """What stands under `bbox_2d` and under `depth` in an area, whatever it is; paired by their order."""

    boxes: list[Any] = field(default_factory=list)
    depths: list[Any] = field(default_factory=list)


def answer_of(text: str) -> str | None:
    """What stands in the first `<answer>`, stripped; None without one. Text around it does not matter."""
    found = next(_between(text, "answer"), None)
    return None if found is None else found.strip()


def areas(text: str) -> list[LooseArea]:
    """What stands in each `<area>`, wherever it is. One that is no JSON counts as an area with an empty box."""
    return [_area(content) for content in _between(text, "area")]


def format_problem(text: str) -> str:
    """Why the published format reward is 0; empty where it is 1.

    Let pass: text around the tags, empty lists, repeated keys, further keys, and between the tags of the last steps
    any text. Not let pass: numbers that Python writes with an exponent.
    """
    thinking, answer = next(_between(text, "think"), None), answer_of(text)
    if thinking is None or answer is None:
        return "no <think>…</think>" if thinking is None else "no <answer>…</answer>"
    if not answer:
        return "the answer is empty"
    thinking = thinking.strip()
    tags = list(_TAG.finditer(thinking))
    if [tag[1] for tag in tags] != _STEP_TAGS * (len(tags) // 4):
        return "the tags are not areas and texts in turn"
    if not thinking.startswith("<area>") or not thinking.endswith("</text>"):
        return "the thinking does not begin with an area and end with a text"
    steps = list(_steps(thinking, tags))
    if not steps:
        return "no text follows its area at once"
    for area, words in steps:
        problem = _area_problem(area) or ("" if words.strip() else "a text is empty")
        if problem:
            return problem
    return ""


def _between(text: str, tag: str) -> Iterator[str]:
    """What stands between each opening tag and the first closing one after it."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    at = 0
    while (opened := text.find(opening, at)) >= 0:
        start = opened + len(opening)
        closed = text.find(closing, start)
        if closed < 0:
            return
        yield text[start:closed]
        at = closed + len(closing)


def _steps(thinking: str, tags: list[re.Match[str]]) -> Iterator[tuple[str, str]]:
    """Area and text of each step. An area that its text does not follow at once runs on into the next step's."""
    start: int | None = None
    for index in range(0, len(tags), 4):
        opened, closed, text_opened, text_closed = tags[index : index + 4]
        start = opened.end() if start is None else start
        if not thinking[closed.end() : text_opened.start()].strip():
            yield thinking[start : closed.start()], thinking[text_opened.end() : text_closed.start()]
            start = None


def _area_problem(area: str) -> str:
    try:
        items = json.loads(area.strip())
    except (ValueError, RecursionError):
        return "an area is no JSON"
    if not isinstance(items, list):
        return "an area is no list"
    for item in items:
        if not isinstance(item, dict) or "bbox_2d" not in item or "depth" not in item:
            return "an entry of an area lacks bbox_2d or depth"
        box = item["bbox_2d"]
        if not isinstance(box, list) or len(box) != 4:
            return "a box is no list of four"
        for number in [*box, item["depth"]]:
            problem = _number_problem(number)
            if problem:
                return problem
        if box[2] <= box[0] or box[3] <= box[1]:
            return f"x2 > x1 and y2 > y1 do not hold for {box}"
    return ""


def _number_problem(number: Any) -> str:
    if not isinstance(number, (int, float)) or not 0 <= number <= 1:
        return f"{str(number)[:40]} is no number in [0, 1]"
    if isinstance(number, float):
        _, point, decimals = str(number).partition(".")
        if not point or len(decimals) > _MOST_DECIMALS:
            return f"{number} has more than three decimals, or an exponent"
    return ""


def _area(content: str) -> LooseArea:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return LooseArea([[]], [[]])
    items = found if isinstance(found, list) else [found]
    return LooseArea(_under("bbox_2d", items), _under("depth", items))


def _under(key: str, items: list[Any]) -> list[Any]:
    """The values of a key. An item that has no keys ends the search, with an empty value."""
    values: list[Any] = []
    for item in items:
        if isinstance(item, dict):
            if key in item:
                values.append(item[key])
        elif not isinstance(item, (str, list)) or key in item:
            return [*values, []]
    return values
