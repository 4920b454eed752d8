"""Where modes disagree: which questions to show, and their pictures with the boxes of each trace."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from PIL import Image

from sifthinker.agent.pictures import OVERLAY_WIDTH, Corners, Placed, placed, step_colour
from sifthinker.nodes.images import load_image
from sifthinker.policy.boxes import Box, Size
from sifthinker.policy.errors import ImageError
from sifthinker.training.compare.data import Question, QuestionSet
from sifthinker.training.compare.records import Answered

MOST_SHOWN = 12
_EDGE_PX = 560
_CHIP = 58  # side of a step's number, in the overlay's units


@dataclass(frozen=True)
class Frame(Placed):
    """A box of a trace over the picture, in the overlay's units."""

    number: int
    colour: str


@dataclass(frozen=True)
class Shown:
    """One mode's answer to a question."""

    mode: str
    row: Answered
    frames: list[Frame]


@dataclass(frozen=True)
class Disagreement:
    """A question on which modes disagree."""

    question: Question
    url: str
    """The picture as a `data:` address; empty where it cannot be read."""
    width: int
    height: int
    """Of the overlay, in its units."""
    truth: list[Frame]
    answers: list[Shown]


Verdicts = dict[tuple[str, int], tuple[bool | None, ...]]
"""By question and seed: whether each mode is right; None: it was not asked. In the order in which answers came."""


def disagreements(
    rows: Iterable[Answered],
    verdicts: Verdicts,
    seed: int,
    modes: Sequence[str],
    questions: Mapping[str, Question],
    data: QuestionSet,
    most: int = MOST_SHOWN,
) -> list[Disagreement]:
    """Questions that some modes answer rightly and others do not: every pattern in turn, families mixed.

    Args:
        rows: of one policy, without controls and changes of the picture. Only those shown are held.
        verdicts: theirs.
        seed: that whose answers are shown.
        modes: those compared, as in `verdicts`.
        questions: by id.
        data: has the pictures.
        most: so many.
    """
    patterns: dict[tuple[bool | None, ...], list[str]] = defaultdict(list)
    for (name, asked_with), pattern in verdicts.items():
        if asked_with == seed and None not in pattern and len(set(pattern)) > 1:
            patterns[pattern].append(name)
    frequent = sorted(patterns.values(), key=len, reverse=True)
    in_turn = [name for turn in zip_longest(*(_mixed(names, questions) for names in frequent)) for name in turn if name]
    shown: dict[str, dict[str, Answered]] = {name: {} for name in in_turn[:most]}
    for row in rows if shown else ():
        if row.seed == seed and row.question in shown:
            shown[row.question][row.mode] = row
    return [_shown(questions[name], [found[mode] for mode in modes], data) for name, found in shown.items()]


def _mixed(names: Sequence[str], questions: Mapping[str, Question]) -> list[str]:
    """Families in turn."""
    families: dict[str, list[str]] = defaultdict(list)
    for name in names:
        families[questions[name].family].append(name)
    return [name for turn in zip_longest(*families.values()) for name in turn if name]


def _shown(question: Question, rows: Sequence[Answered], data: QuestionSet) -> Disagreement:
    try:
        picture: Image.Image | None = load_image(data.image(question)).image
    except ImageError:
        picture = None
    size = picture.size if picture is not None else (4, 3)
    return Disagreement(
        question=question,
        url=_url(picture) if picture is not None else "",
        width=OVERLAY_WIDTH,
        height=round(OVERLAY_WIDTH * size[1] / size[0]),
        truth=[_frame(box, 0, size, []) for box in question.boxes],
        answers=[Shown(row.mode, row, _frames(row, size)) for row in rows],
    )


def _frames(row: Answered, size: Size) -> list[Frame]:
    chips: list[Corners] = []
    return [
        _frame(box.bbox_2d, number, size, chips) for number, step in enumerate(row.steps, 1) for box in step.boxes
    ]  # fmt: skip


def _frame(box: Box, number: int, size: Size, chips: list[Corners]) -> Frame:
    """A box of step `number` (from 1), or one of the right ones (0)."""
    at = placed(box, number, size, _CHIP, chips)
    return Frame(**vars(at), number=number, colour=step_colour(max(number - 1, 0)))


def _url(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((_EDGE_PX, _EDGE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=86, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
