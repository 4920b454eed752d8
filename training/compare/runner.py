"""Runs a plan: what is answered is left alone, what comes is written down at once, what fails is tried once more.

What fails twice is wrong, if the policy is there: it has answered another question since, or answers one now that it
answered before. Else nobody is there, and the run ends with these questions open.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from sifthinker.policy.errors import PolicyUnavailable
from sifthinker.training.compare.answering import unanswered
from sifthinker.training.compare.engines import Engine
from sifthinker.training.compare.grading import graded
from sifthinker.training.compare.journal import Journal
from sifthinker.training.compare.plan import Asked
from sifthinker.training.compare.records import Answered, Failed, Job

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 16
"""After so many questions that find no policy it is seen whether one is there."""


@dataclass
class Runner:
    """Asks the questions of a plan.

    Args:
        asked: the plan on its data.
        journal: of a folder that this process has locked.
        engine: where the questions are asked.
        alone: where those are asked that are timed: one at a time, in this process.
        on_answer: told of each answer, those of earlier runs first.
    """

    asked: Asked
    journal: Journal
    engine: Engine
    alone: Engine
    on_answer: Callable[[Answered], None] = lambda row: None
    asked_now: int = 0
    """Answers of this run; the others were there."""
    _in_a_row: int = field(default=0, init=False)

    def run(self) -> None:
        """Ask everything.

        Raises:
            PolicyUnavailable: the policy does not answer; what is answered is kept.
            DataError: the folder cannot be written; likewise.
        """
        self.asked.check(self.journal.rows())
        for row in self.journal.rows():
            self.on_answer(row)
        self._pass(self.asked.first(), self.engine)
        if self.asked.plan.edits:
            self._pass(self.asked.edits(self.journal), self.engine)
        if self.asked.plan.timed:
            self._pass(self.asked.timings(), self.alone)

    def _pass(self, jobs: Iterable[Job], engine: Engine) -> None:
        """Go over some jobs, and over those that failed once more after all others."""
        again: list[Job] = []
        for job, answer in engine(self._open(jobs)):
            if isinstance(answer, Failed):
                again.append(job)
                self._count_failure(job, answer, engine)
            else:
                self._keep(job, answer)
        twice: list[tuple[Job, Failed]] = []  # their policies have answered nothing since
        for job, answer in engine(again):
            if isinstance(answer, Failed):
                twice.append((job, answer))
                self._count_failure(job, answer, engine)
            else:
                self._keep(job, answer)
            if not self._in_a_row:  # somebody is there
                twice = self._given_up(twice, job.key.policy)
        while twice:
            job, failure = twice[-1]
            self._expect_answer(job, failure, engine)
            twice = self._given_up(twice, job.key.policy)

    def _given_up(self, twice: Iterable[tuple[Job, Failed]], policy: str) -> list[tuple[Job, Failed]]:
        """Keep what failed twice with a policy that is there as wrong; what is left failed with others."""
        left = []
        for job, failure in twice:
            if job.key.policy == policy:
                self._keep(job, unanswered(job, error=failure.error, out_of_time=failure.out_of_time))
            else:
                left.append((job, failure))
        return left

    def _open(self, jobs: Iterable[Job]) -> Iterator[Job]:
        return (job for job in jobs if job.key not in self.journal)

    def _keep(self, job: Job, answer: Answered) -> None:
        row = graded(answer, job.question, self.asked.data)
        self.journal.add(row)
        self.asked_now += 1
        if not answer.error:
            self._in_a_row = 0
        self.on_answer(row)

    def _count_failure(self, job: Job, failure: Failed, engine: Engine) -> None:
        logger.info("Question %s is left for later: %s", failure.key.question, failure.error)
        self._in_a_row += 1
        if self._in_a_row >= FAILURES_IN_A_ROW:
            self._expect_answer(job, failure, engine)

    def _expect_answer(self, job: Job, failure: Failed, engine: Engine) -> None:
        """See that a policy is there: it answers a question that it answered before.

        Raises:
            PolicyUnavailable: it does not, or it has answered none.
        """
        answered = (row for row in self.journal.rows() if row.policy == job.key.policy and _tells(row))
        known = next((one for row in answered if (one := self.asked.again(row.key)) is not None), None)
        if known is None or any(isinstance(answer, Failed) for _, answer in engine([known])):
            raise PolicyUnavailable(self._left(failure))
        self._in_a_row = 0

    def _left(self, failure: Failed) -> str:
        return (
            f"The policy failed {max(self._in_a_row, 1)} times in a row, last: {failure.error} {len(self.journal)} "
            "answers are kept. Run the same command again when it answers."
        )


def _tells(row: Answered) -> bool:
    """Whether it shows that the policy can answer this question as it is."""
    return not (row.variant or row.error or row.skipped or row.out_of_time)
