"""Does the answer depend on the region that the trace cites? Changed answers, there and elsewhere, paired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, Field

from sifthinker.training.compare.records import EDITS
from sifthinker.training.compare.statistics import Interval, bootstrap


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an answer of one policy and mode came to, as far as it is compared here."""

    question: str
    seed: int
    variant: str
    """As keys name it; empty: the picture as it is."""
    said: bytes
    """Equal where two answers are the same, up to case and the like. No answer at all is another answer."""
    truth: bytes
    """The right answer, likewise."""
    right: bool
    decides: bool
    skipped: str


class Follows(BaseModel):
    """Recolouring what the question is about changes the right answer: how often does the policy follow?"""

    n: int = Field(description="Pairs in which the object cited is the one that the question is about.")
    before: float = Field(description="Share answered rightly before the change.")
    after: float = Field(description="Share answered rightly after it: with the new answer.")
    stayed: float = Field(description="Share that gave the old right answer still.")


class Faithfulness(BaseModel):
    """One kind of change: how often the answer changes with the cited region, and with an equal one elsewhere."""

    n: int = Field(description="Questions asked with both changes.")
    cited: Interval = Field(description="Share of answers changed by changing the cited region.")
    elsewhere: Interval = Field(description="By changing the other region.")
    difference: Interval = Field(description="cited − elsewhere, paired.")
    ratio: float | None = Field(description="cited / elsewhere; None where nothing changed elsewhere.")
    follows: Follows | None = Field(default=None, description="For recolouring.")
    families: dict[str, Faithfulness] = Field(default_factory=dict)
    skipped: dict[str, int] = Field(default_factory=dict, description="Questions without a pair, by reason.")


def faithfulness(
    rows: Sequence[Outcome],
    groups: Callable[[Sequence[Outcome]], list[int]],
    family_of: Callable[[Outcome], str] | None = None,
) -> dict[str, Faithfulness]:
    """The kinds of change that were made, each with its pairs.

    Args:
        rows: of one policy and mode.
        groups: of rows, for the statistics.
        family_of: the family of a row's question; None: families are not told apart.
    """
    by_key = {(row.question, row.seed, row.variant): row for row in rows}
    found: dict[str, Faithfulness] = {}
    for kind in EDITS:
        changed = [row for row in rows if row.variant == f"{kind}:cited"]
        if not changed:
            continue
        pairs, skipped = _pairs(changed, by_key)
        found[kind] = _measured(pairs, groups, recoloured=kind == "recolour")
        found[kind].skipped = skipped
        names = sorted({family_of(row) for row in changed}) if family_of else []
        for family in names if family_of and len(names) > 1 else []:
            of_family = [pair for pair in pairs if family_of and family_of(pair[0]) == family]
            found[kind].families[family] = _measured(of_family, groups, recoloured=kind == "recolour")
    return found


_Key = tuple[str, int, str]
_Pair = tuple[Outcome, Outcome, Outcome]
"""An answer to the picture as it is, with the cited region changed, with the other one changed."""


def _pairs(changed: Sequence[Outcome], by_key: dict[_Key, Outcome]) -> tuple[list[_Pair], dict[str, int]]:
    pairs: list[_Pair] = []
    skipped: dict[str, int] = {}
    for cited in changed:
        kind = cited.variant.partition(":")[0]
        before = by_key.get((cited.question, cited.seed, ""))
        other = by_key.get((cited.question, cited.seed, f"{kind}:elsewhere"))
        if before is None or other is None:
            continue
        if reason := before.skipped or cited.skipped or other.skipped:
            skipped[reason] = skipped.get(reason, 0) + 1
        else:
            pairs.append((before, cited, other))
    return pairs, dict(sorted(skipped.items()))


def _measured(
    pairs: Sequence[_Pair], groups: Callable[[Sequence[Outcome]], list[int]], *, recoloured: bool
) -> Faithfulness:
    if not pairs:
        nothing = Interval(value=0.0, low=0.0, high=0.0)
        return Faithfulness(n=0, cited=nothing, elsewhere=nothing, difference=nothing, ratio=None)
    there = np.array([before.said != cited.said for before, cited, _ in pairs], dtype=float)
    elsewhere = np.array([before.said != other.said for before, _, other in pairs], dtype=float)
    columns = np.column_stack([there, elsewhere, there - elsewhere])
    intervals = bootstrap(columns, groups([before for before, _, _ in pairs]), least=(0.0, 0.0, -1.0))
    decided = [(before, cited) for before, cited, _ in pairs if cited.decides] if recoloured else []
    return Faithfulness(
        n=len(pairs),
        cited=intervals[0],
        elsewhere=intervals[1],
        difference=intervals[2],
        ratio=float(there.sum() / elsewhere.sum()) if elsewhere.sum() else None,
        follows=_follows(decided) if decided else None,
    )


def _follows(pairs: Sequence[tuple[Outcome, Outcome]]) -> Follows:
    return Follows(
        n=len(pairs),
        before=float(np.mean([before.right for before, _ in pairs])),
        after=float(np.mean([cited.right for _, cited in pairs])),
        stayed=float(np.mean([cited.said == before.truth for before, cited in pairs])),
    )
