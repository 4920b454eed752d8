"""The result of a comparison, from its rows: means over the questions asked, intervals, paired tests.

Every mean is over all questions that were asked; a question that failed is in it, as wrong. Costs are over those that
did not fail: what a failed one cost is not known. What could not be asked at all (a control without known boxes) is
counted apart, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from sifthinker.training.compare.data import Question, QuestionSet
from sifthinker.training.compare.faithfulness import Faithfulness, faithfulness
from sifthinker.training.compare.grading import JudgedRows
from sifthinker.training.compare.journal import Rows
from sifthinker.training.compare.plan import CONTROL_MODE, Plan
from sifthinker.training.compare.records import TIMING
from sifthinker.training.compare.statistics import Interval, PairedTest, bootstrap, compare_paired
from sifthinker.training.compare.tally import BASELINE, Table, Tally


class FamilyScore(BaseModel):
    """One family of questions."""

    n: int
    accuracy: Interval


class Against(BaseModel):
    """A mode against another one, on the same questions."""

    difference: Interval = Field(description="Of accuracy; positive: this one is better.")
    test: PairedTest


class Alone(BaseModel):
    """Seconds of a question that is asked alone, nothing of it encoded before, its depth at hand."""

    n: int
    mean: float
    median: float


class ModeScore(BaseModel):
    """A mode, or a control of mode tools: means over the `n` answers. None: over no answer at all."""

    n: int = Field(description="Questions asked, times seeds: the denominator.")
    accuracy: Interval | None
    against_direct: Against | None = None
    against_tools: Against | None = Field(default=None, description="For controls.")
    hiou: float | None = Field(description="None where no boxes are known, or none are said (direct). Failed ones: 0.")
    depth_error: float | None = Field(description="Over the answers that say a depth which was measured too.")
    valid: float | None = Field(description="Share of answers whose whole text keeps strictly to the grammar.")
    no_answer: int = Field(description="Answers that could not be read: wrong.")
    errors: int = Field(description="Of these, questions on which the policy or the picture failed.")
    out_of_time: int = Field(default=0, description="Runs that a time budget cut short (call_timeout_s, deadline_s).")
    lenient_accuracy: float | None = Field(
        description="If answers found outside their tags counted too. Not the score."
    )
    tokens_in: float | None = Field(description="Over the n − errors that did not fail; so the other costs.")
    tokens_out: float | None
    images: float | None
    calls: float | None
    seconds: float | None = Field(description="With others being answered beside it.")
    seconds_alone: Alone | None = None
    went_on: float | None = Field(default=None, description="Mode adaptive: share of answers that went on to tools.")
    families: dict[str, FamilyScore]
    published: dict[str, float] = Field(default_factory=dict, description="The metrics of the data's own paper.")
    skipped: dict[str, int] = Field(default_factory=dict, description="Questions that could not be asked, by reason.")


class PolicyScores(BaseModel):
    """One policy."""

    policy: str
    modes: dict[str, ModeScore]
    controls: dict[str, ModeScore] = Field(default_factory=dict)
    faithfulness: dict[str, dict[str, Faithfulness]] = Field(default_factory=dict, description="By mode and change.")
    against_first: dict[str, Against] = Field(default_factory=dict, description="By mode, against the first policy.")


def summarise(plan: Plan, data: QuestionSet, questions: Sequence[Question], rows: Rows) -> list[PolicyScores]:
    """The scores of each policy, in the plan's order.

    Args:
        plan: what was compared.
        data: grades by the published metrics.
        questions: those that were asked.
        rows: the journal's; rows that are not of the plan are left out.
    """
    summary = _Summary(plan, data, Tally(plan, data, questions, rows))
    return [summary.policy(name) for name in plan.policies]


class _Summary:
    def __init__(self, plan: Plan, data: QuestionSet, tally: Tally) -> None:
        self.plan, self.data, self.tally = plan, data, tally
        self.families = sorted({question.family for question in tally.questions})
        numbers = {family: number for number, family in enumerate(self.families)}
        self._family = np.array([numbers[question.family] for question in tally.questions], dtype=np.int32)
        groups: dict[str, int] = {}  # what the statistics draw together: a question with all its seeds, or a group
        self._group = np.array(
            [groups.setdefault(one.group or f"id:{one.id}", len(groups)) for one in tally.questions], dtype=np.int32
        )

    def policy(self, name: str) -> PolicyScores:
        modes = {mode: self._score(name, mode) for mode in self.plan.modes}
        controls = {control: self._score(name, CONTROL_MODE, control) for control in self.plan.controls}
        first = self.plan.policies[0]
        place, questions = self.tally.place, self.tally.questions
        return PolicyScores(
            policy=name,
            modes=modes,
            controls=controls,
            faithfulness={
                mode: faithfulness(
                    self.tally.outcomes(name, mode),
                    lambda outcomes: self._group[[place[one.question] for one in outcomes]].tolist(),
                    lambda one: questions[place[one.question]].family,
                )
                for mode in (self.plan.edited_modes if self.plan.edits else ())
            },
            against_first={}
            if name == first
            else {mode: found for mode in self.plan.modes if (found := self._against_first(name, first, mode))},
        )

    def _score(self, policy: str, mode: str, control: str = "") -> ModeScore:
        every = self.tally.of(policy, mode, control)
        rows = every[every["skipped"] == 0]
        cost = rows[~rows["failed"]]
        baseline = self.tally.of(policy, BASELINE) if (mode, control) != (BASELINE, "") else every[:0]
        tools = self.tally.of(policy, CONTROL_MODE) if control else every[:0]
        family = self._family[rows["place"]]
        went_on = rows["went_on"]
        return ModeScore(
            n=len(rows),
            accuracy=self._accuracy(rows) if len(rows) else None,
            against_direct=self._against(rows, baseline),
            against_tools=self._against(rows, tools),
            hiou=_mean(rows["hiou"][~np.isnan(rows["hiou"])]),
            depth_error=_mean(rows["depth_error"][~np.isnan(rows["depth_error"])]),
            valid=_mean(rows["valid"]),
            no_answer=int((~rows["answered"]).sum()),
            errors=int(rows["failed"].sum()),
            out_of_time=int(rows["out_of_time"].sum()),
            lenient_accuracy=_mean(rows["lenient"]),
            tokens_in=_mean(cost["tokens_in"]),
            tokens_out=_mean(cost["tokens_out"]),
            images=_mean(cost["images"]),
            calls=_mean(cost["calls"]),
            seconds=_mean(cost["seconds"]),
            seconds_alone=None if control else _alone(self.tally.of(policy, mode, variant=TIMING)),
            went_on=_mean(went_on[went_on >= 0]),
            families={
                self.families[number]: self._family_score(rows[family == number]) for number in np.unique(family)
            },
            published=self._published(rows) if len(rows) else {},
            skipped=self.tally.reasons(every),
        )

    def _published(self, rows: Table) -> dict[str, float]:
        questions, place = self.tally.questions, self.tally.place
        return self.data.published(JudgedRows(self.tally.answers(rows), lambda name: questions[place[name]]))

    def _family_score(self, rows: Table) -> FamilyScore:
        return FamilyScore(n=len(rows), accuracy=self._accuracy(rows))

    def _accuracy(self, rows: Table) -> Interval:
        return bootstrap(rows["right"][:, None], self._groups(rows))[0]

    def _against_first(self, name: str, first: str, mode: str) -> Against | None:
        rows = self.tally.of(name, mode)
        return self._against(rows[rows["skipped"] == 0], self.tally.of(first, mode))

    def _against(self, rows: Table, others: Table) -> Against | None:
        """Of rows that were asked, over the questions that were asked in both; None where there are none."""
        others = others[others["skipped"] == 0]
        _, mine, theirs = np.intersect1d(
            _question(rows), _question(others), assume_unique=True, return_indices=True
        )  # in order
        if not len(mine):
            return None
        both = rows[mine]
        paired = compare_paired(both["right"].tolist(), others["right"][theirs].tolist(), self._groups(both))
        return Against(difference=paired.difference, test=paired.test)

    def _groups(self, rows: Table) -> list[int]:
        """What the statistics draw together."""
        return self._group[rows["place"]].tolist()


def _question(rows: Table) -> npt.NDArray[np.int64]:
    """A number for each question and seed, in their order."""
    return rows["place"].astype(np.int64) << 32 | rows["seed"]


def _mean(values: npt.NDArray[Any]) -> float | None:
    numbers = values.astype(np.float64)
    return float(np.mean(numbers)) if len(numbers) else None


def _alone(rows: Table) -> Alone | None:
    seconds = rows["seconds"][~rows["failed"]].astype(np.float64)
    if not len(seconds):
        return None
    return Alone(n=len(seconds), mean=float(np.mean(seconds)), median=float(np.median(seconds)))
