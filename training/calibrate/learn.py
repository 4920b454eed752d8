"""From outcomes to a rule: which answers are enough, and how sure one can be that the rule holds on new questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from sifthinker.policy.calibration import PartScores
from sifthinker.training.compare.statistics import bootstrap

WITHIN = 0.01
"""A rule's accuracy may be so much below the best rule's, for the sake of its cost."""
FOLDS = 5
LEAST_FOR_FOLDS = 50
_THRESHOLDS, _TOLERANCES = 100, 12


class Outcome(BaseModel):
    """What a validation question came to: in one completion, and after going on to tools."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    group: str
    """Questions of one group are never split between learning and testing, and drawn together."""
    family: str
    internal_right: bool
    tools_right: bool
    malformed: bool
    """Such a completion is never enough."""
    confidence: float | None
    depth_gap: float | None
    internal_tokens: int
    """In and out, of the completion."""
    tools_tokens: int
    """Of going on, besides."""
    internal_seconds: float
    tools_seconds: float
    internal_images: int
    tools_images: int
    error: str = ""


class Rule(BaseModel):
    """When to go on: below a confidence, beyond a departure of depths. None: plays no part."""

    model_config = ConfigDict(frozen=True)

    confidence_threshold: float | None
    depth_tolerance: float | None


class RiskPoint(BaseModel):
    """Answering only the questions that the policy is surest of."""

    coverage: float = Field(description="Share of the questions answered in one completion.")
    risk: float = Field(description="Share of these answers that are wrong.")
    confidence: float = Field(description="Of the least sure of them.")


class Learnt(BaseModel):
    """A rule, and what is known about it."""

    rule: Rule
    internal: PartScores
    tools: PartScores
    learnt: PartScores
    went_on: float
    held_out: PartScores | None
    held_out_went_on: float | None
    loss: float | None = Field(description="Held-out accuracy below that of the better of never and always going on.")
    loss_low: float | None = Field(description="95 % bootstrap interval of it, groups drawn whole.")
    loss_high: float | None
    auroc: float | None = Field(
        description="How well the confidence tells right from wrong completions: 0.5 is chance."
    )
    risk_coverage: list[RiskPoint]
    risk_area: float | None = Field(description="Mean risk over all coverages (AURC).")


@dataclass(frozen=True)
class _Table:
    """Outcomes as columns, (N,) each."""

    internal_right: NDArray[np.bool_]
    tools_right: NDArray[np.bool_]
    malformed: NDArray[np.bool_]
    confidence: NDArray[np.float64]  # NaN: not known
    depth_gap: NDArray[np.float64]
    internal_cost: NDArray[np.float64]
    tools_cost: NDArray[np.float64]

    def rows(self, chosen: NDArray[np.bool_]) -> _Table:
        return _Table(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def goes_on(self, rule: Rule) -> NDArray[np.bool_]:
        """Which completions are not enough; what is not known speaks for nothing."""
        found = self.malformed.copy()
        if rule.confidence_threshold is not None:
            found |= self.confidence < rule.confidence_threshold
        if rule.depth_tolerance is not None:
            found |= self.depth_gap > rule.depth_tolerance
        return found

    def right(self, goes_on: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.where(goes_on, self.tools_right, self.internal_right)

    def cost(self, goes_on: NDArray[np.bool_]) -> NDArray[np.float64]:
        return self.internal_cost + goes_on * self.tools_cost

    def scores(self, goes_on: NDArray[np.bool_]) -> PartScores:
        return PartScores(accuracy=float(self.right(goes_on).mean()), cost=float(self.cost(goes_on).mean()))


def learn(outcomes: Sequence[Outcome], *, cost: str = "tokens", seed: int = 0) -> Learnt:
    """The rule of the least cost among those whose accuracy is within one point of the best rule's.

    It is learnt on all questions. What to expect of it on others is measured by cross-validation: five times a rule is
    learnt on four fifths of the questions and applied to the fifth, groups never split; its interval draws groups.

    Args:
        outcomes: at least one.
        cost: "tokens", "seconds" or "images".
        seed: draws the folds and the bootstrap.
    """
    table = _table(outcomes, cost)
    rule = _choose(table)
    goes_on = table.goes_on(rule)
    never, always = np.zeros_like(goes_on), np.ones_like(goes_on)
    groups = [one.group for one in outcomes]
    folds = _folds(groups, seed) if len(outcomes) >= LEAST_FOR_FOLDS else []
    held = np.zeros_like(goes_on)
    for fold in folds:
        held[fold] = table.rows(fold).goes_on(_choose(table.rows(~fold)))
    better = max((never, always), key=lambda part: table.right(part).mean())
    losses = table.right(better).astype(float) - table.right(held)
    interval = bootstrap(losses[:, None], groups, least=-1.0, seed=seed)[0] if folds else None
    points, area = _risk_coverage(table)
    return Learnt(
        rule=rule,
        internal=table.scores(never),
        tools=table.scores(always),
        learnt=table.scores(goes_on),
        went_on=float(goes_on.mean()),
        held_out=table.scores(held) if folds else None,
        held_out_went_on=float(held.mean()) if folds else None,
        loss=None if interval is None else interval.value,
        loss_low=None if interval is None else interval.low,
        loss_high=None if interval is None else interval.high,
        auroc=_auroc(table),
        risk_coverage=points,
        risk_area=area,
    )


def _table(outcomes: Sequence[Outcome], cost: str) -> _Table:
    def column(values: list[float | None]) -> NDArray[np.float64]:
        return np.array([np.nan if value is None else value for value in values], dtype=float)

    return _Table(
        internal_right=np.array([one.internal_right for one in outcomes], dtype=bool),
        tools_right=np.array([one.tools_right for one in outcomes], dtype=bool),
        malformed=np.array([one.malformed for one in outcomes], dtype=bool),
        confidence=column([one.confidence for one in outcomes]),
        depth_gap=column([one.depth_gap for one in outcomes]),
        internal_cost=column([getattr(one, f"internal_{cost}") for one in outcomes]),
        tools_cost=column([getattr(one, f"tools_{cost}") for one in outcomes]),
    )


def _choose(table: _Table) -> Rule:
    """The rule of the least cost within `WITHIN` of the best; of equal ones the more accurate, then the simpler."""
    rules = [
        Rule(confidence_threshold=threshold, depth_tolerance=tolerance)
        for threshold in _bounds(table.confidence, _THRESHOLDS)
        for tolerance in _bounds(table.depth_gap, _TOLERANCES)
    ]
    accuracies, costs = np.empty(len(rules)), np.empty(len(rules))
    for index, rule in enumerate(rules):
        goes_on = table.goes_on(rule)
        accuracies[index], costs[index] = table.right(goes_on).mean(), table.cost(goes_on).mean()
    enough = accuracies >= accuracies.max() - WITHIN - 1e-9
    order = np.lexsort((np.arange(len(rules)), -accuracies, costs, ~enough))
    return rules[int(order[0])]


def _bounds(values: NDArray[np.float64], most: int) -> list[float | None]:
    """Bounds that part the values differently, None (plays no part) first; midway between neighbours."""
    known = np.unique(values[~np.isnan(values)])
    if not len(known):
        return [None]
    between = (known[1:] + known[:-1]) / 2
    if len(between) > most:
        between = between[np.unique(np.linspace(0, len(between) - 1, most).round().astype(int))]
    return [None, *(float(value) for value in between), 1.0]


def _folds(groups: Sequence[str], seed: int) -> list[NDArray[np.bool_]]:
    """Masks of the questions of each fold, (N,) each."""
    names = sorted(set(groups))
    np.random.default_rng([seed, 5]).shuffle(names)
    fold_of = {name: index % FOLDS for index, name in enumerate(names)}
    chosen = np.array([fold_of[group] for group in groups])
    return [chosen == fold for fold in range(FOLDS) if (chosen == fold).any() and (chosen != fold).any()]


def _auroc(table: _Table) -> float | None:
    known = ~np.isnan(table.confidence) & ~table.malformed
    right = table.confidence[known & table.internal_right]
    wrong = table.confidence[known & ~table.internal_right]
    if not len(right) or not len(wrong):
        return None
    above = (right[:, None] > wrong[None]).mean() + (right[:, None] == wrong[None]).mean() / 2
    return float(above)


def _risk_coverage(table: _Table) -> tuple[list[RiskPoint], float | None]:
    """The completions from the surest to the least sure; equally sure ones come together."""
    known = ~np.isnan(table.confidence) & ~table.malformed
    if not known.any():
        return [], None
    order = np.argsort(-table.confidence[known], kind="stable")
    confidence, wrong = table.confidence[known][order], ~table.internal_right[known][order]
    risks = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    ends = np.append(np.flatnonzero(np.diff(confidence)), len(confidence) - 1)  # the last of each run of equals
    area = float(np.interp(np.arange(len(wrong)), ends, risks[ends]).mean())
    return [
        RiskPoint(
            coverage=(int(end) + 1) / len(table.malformed), risk=float(risks[end]), confidence=float(confidence[end])
        )
        for end in ends
    ], area
