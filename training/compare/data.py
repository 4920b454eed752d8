"""What a comparison asks: questions, and the readers that bring them from a data set in its published form.

A reader is small: a name, the questions in a fixed order, and the image of each. What it does not say otherwise is done
here, one way for all: whether an answer is right, and how a limit picks questions. A benchmark adds its own published
metric beside that, and never instead of it.

    class Paintings(QuestionSet):
        name, licence, obtain = "paintings", "CC0-1.0", "pip install paintings"

        def __init__(self, folder: Path) -> None:
            self.folder = folder

        def questions(self) -> Sequence[Question]:
            return [Question(id="1", text="Who is older?", answer="left", options=("left", "right"))]

        def image(self, question: Question) -> Path | bytes:
            return self.folder / f"{question.id}.png"
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal

from sifthinker.policy.boxes import Box, hiou
from sifthinker.policy.errors import UsageError
from sifthinker.policy.files import expanded
from sifthinker.training.rewards.matching import match

ImageFile = Path | bytes
"""A picture's file, or the bytes of one (PNG, JPEG, WebP)."""

SAME_PLACE = 0.5
"""HIoU from which an answer that is a place is right (RefCOCO's threshold, for one box the same as its IoU)."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its right answer. Plain data: no pixels, picklable, equal where all fields are.

    Options are texts without labels ("red", not "(A) red"), in the data set's own order; the answer is then one of
    them, word for word. The comparison shuffles them by seed.
    """

    id: str
    """Its own in the data set, and the same in every run."""
    text: str
    answer: str
    """The right answer. Empty where the answer is a place."""
    options: tuple[str, ...] = ()
    """The answers to choose from; empty: a free answer."""
    family: str = "all"
    """What is reported apart: a category, a kind of question."""
    boxes: tuple[Box, ...] = ()
    """The boxes that decide the question, normalised xyxy of the upright image; empty: not known."""
    kind: Literal["text", "place"] = "text"
    """place: the right answer is `boxes` (RefCOCO). Where a trace ends is then the answer; in mode direct the box that
    the answer itself holds."""
    group: str = ""
    """Questions that are not independent (the four cycles of HR-Bench, the two orders of a pair) share a group: the
    statistics draw whole groups. Empty: a group of its own."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """What the published metric needs besides: source, type, cycle."""


@dataclass(frozen=True)
class Said:
    """What a policy answered, as far as grading needs it."""

    answer: str
    """What stood in <answer></answer>; an option word for word where it names one. Empty: it gave none that can be
    read, which is wrong by every metric."""
    text: str = ""
    """Everything it said, word for word."""
    boxes: tuple[Box, ...] = ()
    """The boxes of the trace's last area, normalised xyxy; empty in mode direct."""
    answer_boxes: tuple[Box, ...] = ()
    """Boxes that the answer itself holds, read in the policy's declared space, normalised xyxy."""

    @property
    def place(self) -> tuple[Box, ...]:
        """The answer to a question about a place: the answer's own boxes, else the trace's last area."""
        return self.answer_boxes or self.boxes


@dataclass(frozen=True)
class Judged:
    """A question that was asked, what was said, and whether that is right by this project's rule."""

    question: Question
    said: Said
    right: bool
    seed: int = 0
    """Of the options' order: with several a question is judged once for each."""


class QuestionSet(ABC):
    """The protocol of a reader, with everything that most readers need not say.

    Opening one checks what is cheap to check and raises UsageError (with how to get the data) or DataError (what is
    wrong with it, and where). The same folder gives the same questions in the same order.
    """

    name: str = "questions"
    """What reports call the data."""
    licence: str = ""
    """Of the data, as its publisher states it."""
    obtain: str = ""
    """How to get it, in a sentence."""

    @abstractmethod
    def questions(self) -> Sequence[Question]:
        """All questions, in a fixed order. Cheap the second time."""

    @abstractmethod
    def image(self, question: Question) -> ImageFile:
        """The picture that a question is about, as its file; not decoded.

        Raises:
            DataError: it is not there.
        """

    def depth(self, question: Question) -> Path | None:
        """The exact depth of the picture (16-bit grey PNG, 0 near), where the data has one."""
        return None

    def right(self, question: Question, said: Said) -> bool:
        """Whether an answer is right, by this project's one strict rule for all data.

        With options it must name the right one and nothing besides; without, it must be the right yes or no, number or
        text (after folding case and white space). A place must reach HIoU 0.5. No answer is wrong.
        """
        if question.kind == "place":
            return hiou(said.place, question.boxes) >= SAME_PLACE
        return bool(said.answer) and match(said.answer, question.answer, question.options).score == 1.0

    def published(self, judged: Sequence[Judged]) -> dict[str, float]:
        """The metrics of the data set's own paper over the questions asked, by name, each in [0, 1].

        Shown beside this project's accuracy. Every question asked is in `judged`, failed ones with an empty answer.
        """
        return {}


def limited(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """The first so many questions, the families in turn, so that a part of a sorted data set is no single family."""
    if limit is None or limit >= len(questions):
        return list(questions)
    by_family: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_family[question.family].append(question)
    in_turn = (one for one in chain.from_iterable(zip_longest(*by_family.values())) if one is not None)
    chosen = {one.id for one, _ in zip(in_turn, range(limit), strict=False)}
    return [one for one in questions if one.id in chosen]


def checked(questions: Sequence[Question], name: str) -> Sequence[Question]:
    """The questions, if they can be compared on.

    Raises:
        UsageError: none at all, an id that comes twice, or an answer that is none of the options.
    """
    if not questions:
        raise UsageError(f"{name} holds no question.")
    seen: set[str] = set()
    for one in questions:
        if one.id in seen:
            raise UsageError(f"{name} holds two questions with the id {one.id!r}: each needs its own.")
        seen.add(one.id)
        if one.options and one.answer not in one.options and one.kind == "text":
            raise UsageError(
                f"{name}, question {one.id!r}: expected the answer word for word among the options "
                f"{', '.join(map(repr, one.options))}, got {one.answer!r}."
            )
        if one.kind == "place" and not one.boxes:
            raise UsageError(f"{name}, question {one.id!r} asks for a place, but no boxes are given.")
    return questions


def digest(question: Question, image: ImageFile) -> str:
    """SHA-256 of a question with its picture's bytes: another one means that answers to it do not count any more."""
    said = json.dumps(asdict(question), ensure_ascii=False, sort_keys=True, default=dict)
    content = image if isinstance(image, bytes) else image.read_bytes()
    return hashlib.sha256(said.encode() + b"\0" + hashlib.sha256(content).digest()).hexdigest()


def open_data(source: str) -> QuestionSet:
    """The questions of a name on the command line.

    Args:
        source: a folder made by `sifthinker world make`, a JSONL file (see `JsonlQuestions`), or a benchmark: `NAME`
            or `NAME:SOURCE`, where SOURCE is a local path or a hub id.

    Raises:
        UsageError: nothing of that kind is there; the message lists the forms. DataError: it cannot be read.
    """
    from sifthinker.training.compare.readers import JsonlQuestions, WorldQuestions

    path = expanded(source)
    if path.is_dir() and (path / "questions.jsonl").is_file():
        return WorldQuestions(path)
    if path.suffix in (".jsonl", ".ndjson"):
        return JsonlQuestions(path)
    from sifthinker.training import benchmarks

    name, _, where = source.partition(":")
    known = benchmarks.names()
    if name.casefold() in known:
        return benchmarks.open_benchmark(name.casefold(), where or None)
    raise UsageError(
        f"{source!r} is no data to compare on. Expected a folder made by `sifthinker world make`, a .jsonl file, or a "
        f"benchmark, NAME or NAME:PATH, with NAME one of {', '.join(known)}."
    )
