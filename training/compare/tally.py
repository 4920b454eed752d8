"""The figures of all answers, in columns: what the sums need, a hundred bytes an answer, however long it was.

The answers themselves are read once, one after another, and stay on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sifthinker.training.compare.data import Question, QuestionSet
from sifthinker.training.compare.faithfulness import Outcome
from sifthinker.training.compare.grading import graded
from sifthinker.training.compare.journal import Rows
from sifthinker.training.compare.plan import CONTROL_MODE, Plan
from sifthinker.training.compare.records import TIMING, Answered
from sifthinker.training.rewards.matching import normalise

Table = npt.NDArray[np.void]
"""Rows of figures, in the order of the questions, then of the seeds."""

_ROW = np.dtype(
    [
        ("number", np.int64),  # of the answer in the journal
        ("way", np.int32),  # of policy, mode, control and variant
        ("place", np.int32),  # of the question
        ("seed", np.int32),  # its place among the seeds in order
        ("right", np.bool_),
        ("lenient", np.bool_),  # right, or it would be if answers outside their tags counted
        ("valid", np.bool_),
        ("answered", np.bool_),  # something could be read
        ("failed", np.bool_),  # the policy or the picture did: its costs are not known
        ("out_of_time", np.bool_),
        ("went_on", np.int8),  # -1: not a mode that could
        ("skipped", np.int32),  # the reason, from 1; 0: it was asked
        ("hiou", np.float64),  # nan: not known
        ("depth_error", np.float64),
        ("tokens_in", np.int64),
        ("tokens_out", np.int64),
        ("images", np.int64),
        ("calls", np.int64),
        ("seconds", np.float64),
    ]
)
_Way = tuple[str, str, str, str]

BASELINE = "direct"
"""The mode that the others are held against; it looks nowhere."""


class Tally:
    """The figures of the answers to some questions.

    Args:
        plan: what was compared.
        data: grades.
        questions: those that were asked, in order.
        rows: the journal's; those that are not of the plan are left out.
    """

    def __init__(self, plan: Plan, data: QuestionSet, questions: Sequence[Question], rows: Rows) -> None:
        self.questions = questions
        self.place = {question.id: place for place, question in enumerate(questions)}
        self.rows = rows
        self._plan, self._data = plan, data
        self._seeds = {seed: place for place, seed in enumerate(sorted(plan.seeds))}
        self._scored = {(mode, "") for mode in plan.modes} | {(CONTROL_MODE, control) for control in plan.controls}
        self._ways: dict[_Way, int] = {}
        self._reasons: dict[str, int] = {}
        self._outcomes: dict[tuple[str, str], list[Outcome]] = {}
        numbered = enumerate(rows)
        table = np.fromiter((self._row(number, row) for number, row in numbered if self._asked(row)), dtype=_ROW)
        self._table = table[np.lexsort((table["seed"], table["place"]))]  # whatever order they came in
        for outcomes in self._outcomes.values():
            outcomes.sort(key=lambda one: (self.place[one.question], one.seed))

    def of(self, policy: str, mode: str, control: str = "", variant: str = "") -> Table:
        """The figures of one way of asking."""
        return self._table[self._table["way"] == self._ways.get((policy, mode, control, variant), -1)]

    def outcomes(self, policy: str, mode: str) -> list[Outcome]:
        """The answers to the pictures as they are and changed, where changes were planned."""
        return self._outcomes.get((policy, mode), [])

    def reasons(self, table: Table) -> dict[str, int]:
        """Why questions could not be asked, and how many."""
        counts = np.bincount(table["skipped"], minlength=len(self._reasons) + 1)
        return {reason: int(counts[number]) for reason, number in sorted(self._reasons.items()) if counts[number]}

    def answers(self, table: Table) -> Rows:
        """The answers themselves, read when they are looked at."""
        return self.rows.picked(table["number"].tolist())

    def _asked(self, row: Answered) -> bool:
        """Whether it is an answer to what was asked; an outcome is noted besides."""
        known = row.question in self.place and row.seed in self._seeds and row.policy in self._plan.policies
        edited = bool(self._plan.edits) and row.mode in self._plan.edited_modes and not row.control
        if known and edited and row.variant != TIMING:
            self._outcomes.setdefault((row.policy, row.mode), []).append(_outcome(row))
        return known and row.variant in ("", TIMING)

    def _row(self, number: int, row: Answered) -> tuple[Any, ...]:
        way = (row.policy, row.mode, row.control, row.variant)
        return (
            number,
            self._ways.setdefault(way, len(self._ways)),
            self.place[row.question],
            self._seeds[row.seed],
            row.right,
            row.right or self._leniently(row),
            row.valid,
            bool(row.answer),
            bool(row.error),
            row.out_of_time,
            -1 if row.went_on is None else row.went_on,
            self._reasons.setdefault(row.skipped, len(self._reasons) + 1) if row.skipped else 0,
            self._hiou(row),
            np.nan if row.depth_error is None else row.depth_error,
            row.tokens_in,
            row.tokens_out,
            row.images,
            row.calls,
            row.seconds,
        )

    def _hiou(self, row: Answered) -> float:
        """Of a question that failed it is 0 where it would be known: it was looked at nowhere."""
        if row.error and row.mode != BASELINE and self.questions[self.place[row.question]].boxes:
            return 0.0
        return np.nan if row.hiou is None else row.hiou

    def _leniently(self, row: Answered) -> bool:
        if not row.lenient or row.skipped or row.variant or (row.mode, row.control) not in self._scored:
            return False
        question = self.questions[self.place[row.question]]
        return graded(row.model_copy(update={"answer": row.lenient}), question, self._data).right


def _outcome(row: Answered) -> Outcome:
    """What faithfulness needs of a row. Where the policy failed, nothing is known of what it would have said."""
    skipped = row.skipped or ("the policy failed" if row.error else "")
    return Outcome(
        row.question, row.seed, row.variant, _same(row.answer), _same(row.truth), row.right, row.decides, skipped
    )  # fmt: skip


def _same(answer: str) -> bytes:
    """What two answers share that are the same up to case, white space and the like, in few bytes."""
    return hashlib.blake2b(normalise(answer).encode("utf-8", "surrogatepass"), digest_size=12).digest()
