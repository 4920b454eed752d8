"""What is right: decided in one place, from what was written down, after the answer came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import overload

from sifthinker.training.compare.data import Judged, Question, QuestionSet, Said
from sifthinker.training.compare.records import Answered


def is_right(question: Question, said: Said, data: QuestionSet) -> bool:
    """The verdict. Where no answer can be read it is wrong whatever the reader says."""
    return bool(said.answer or question.kind == "place") and bool(data.right(question, said))


def said(row: Answered) -> Said:
    """What a row's policy answered, as readers grade it."""
    return Said(
        answer=row.answer, text=row.text, boxes=tuple(row.last_boxes), answer_boxes=tuple(row.answer_boxes)
    )  # fmt: skip


def graded(row: Answered, question: Question, data: QuestionSet) -> Answered:
    """The row with its verdict. What failed or could not be asked is wrong."""
    asked = replace(question, answer=row.truth, options=tuple(row.options))
    right = not (row.error or row.skipped) and is_right(asked, said(row), data)
    return row.model_copy(update={"right": right})


class JudgedRows(Sequence[Judged]):
    """The rows as published metrics take them, none left out; each is read when it is looked at.

    Args:
        rows: answers.
        question_of: the question of an id.
    """

    def __init__(self, rows: Sequence[Answered], question_of: Callable[[str], Question]) -> None:
        self._rows = rows
        self._question_of = question_of

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Judged]:
        return map(self._judged, self._rows)

    @overload
    def __getitem__(self, index: int) -> Judged: ...
    @overload
    def __getitem__(self, index: slice) -> JudgedRows: ...
    def __getitem__(self, index: int | slice) -> Judged | JudgedRows:
        if isinstance(index, slice):
            return JudgedRows(self._rows[index], self._question_of)
        return self._judged(self._rows[index])

    def _judged(self, row: Answered) -> Judged:
        return Judged(self._question_of(row.question), said(row), row.right, row.seed)
