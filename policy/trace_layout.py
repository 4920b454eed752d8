"""How a text is cut at the tags of the grammar, however they stand. Used by the lenient parser."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

from sifthinker.policy.trace_areas import Problems
from sifthinker.policy.trace_model import SURROGATE

LENIENT_TAG = re.compile(r"<\s{0,3}+(/?)\s{0,3}+(think|area|text|answer)\s{0,3}+>", re.IGNORECASE | re.ASCII)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

Kind = Literal["area", "text", "answer", "prose"]


def cleaned(text: str, problems: Problems) -> str:
    """The text without what no terminal or file should meet; offsets stay as they are."""
    if CONTROL.search(text):
        problems.add("Control characters were replaced by spaces.")
        text = CONTROL.sub(" ", text)
    if SURROGATE.search(text):
        problems.add("Broken characters (half surrogate pairs) were replaced.")
        text = SURROGATE.sub("\ufffd", text)
    return text


class Piece(NamedTuple):
    """A stretch of the text and what it is taken for."""

    kind: Kind
    start: int
    end: int


@dataclass
class Layout:
    """The pieces of a text in order, and where the thinking ends."""

    pieces: list[Piece] = field(default_factory=list)
    think_start: int | None = None
    think_end: int | None = None
    order: list[str] = field(default_factory=list)


def lay_out(text: str, problems: Problems) -> Layout:
    """Cut a text at its tags. A tag that opens or closes another part closes the one that stands open."""
    layout = Layout()
    at = 0
    opened: Kind | None = None

    def cut(kind: Kind, end: int) -> None:
        layout.pieces.append(Piece(kind, at, end))
        if kind != "prose":
            layout.order.append(kind)

    for tag in LENIENT_TAG.finditer(text):
        closing, name = bool(tag[1]), tag[2].lower()
        if tag[0] != f"<{tag[1]}{name}>":
            problems.add(f"The tag {tag[0]!r} is not spelt as it should be.")
        if opened and not (closing and name == opened):
            problems.add(f"<{opened}> is not closed by </{opened}>.")
        stray = closing and not opened and name != "think"
        if stray:
            problems.add(f"</{name}> closes nothing.")
        kind: Kind = opened or "prose"
        if stray and text[at : tag.start()].strip():
            kind = _KINDS[name]
        cut(kind, tag.start())
        opened = None
        if name == "think":
            layout.order.append(tag[1] + name)
            if closing:
                layout.think_end = tag.end()
            elif layout.think_start is None:
                layout.think_start = tag.start()
        elif not closing:
            opened = _KINDS[name]
        at = tag.end()
    if opened:
        problems.add(f"<{opened}> is not closed by </{opened}>.")
    cut(opened or "prose", len(text))
    return layout


_KINDS: dict[str, Kind] = {"area": "area", "text": "text", "answer": "answer"}
_ORDER = re.compile(r"think (?:area text )+/think answer ")


def judge_order(layout: Layout, problems: Problems) -> None:
    """Say which tags are missing, repeated or out of order."""
    order = layout.order
    if _ORDER.fullmatch("".join(f"{name} " for name in order)):
        return
    if not order:
        problems.add("The text holds none of the tags of a trace.")
        return
    expected = {"think": "<think>", "/think": "</think>", "area": "<area>", "answer": "<answer>"}
    missing = [tag for name, tag in expected.items() if name not in order]
    if missing:
        problems.add(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.")
    if any(name == "area" and following != "text" for name, following in pairwise([*order, ""])):
        problems.add("An area is not followed by its <text>.")
    elif not missing:
        problems.add("The tags do not stand in the order <think>, <area>, <text>, …, </think>, <answer>.")
