"""How sure a comparison is: paired bootstrap intervals and exact paired tests.

Everything is paired: the same questions are asked in every mode, so what counts is how a question fares in one mode
against another, and questions are drawn, not answers. Questions that are not independent (the same question with its
options in another order, the four cycles of HR-Bench) are drawn together, as a group.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

DRAWS = 10_000
LEVEL = 0.95
_CHUNK = 500  # draws at once,
_CHUNK_COUNTS = 1_000_000  # or fewer, so that they hold no more counts than this: 8 MB
_KEPT = 20_000_000  # draws that are remembered: many columns are drawn from the same questions


class Interval(BaseModel):
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float


class PairedTest(BaseModel):
    """An exact two-sided test of whether two modes answer equally well (McNemar's, where groups are single answers)."""

    p: float = Field(description="Exact two-sided p, conditional on the groups that differ.")
    mid_p: float = Field(description="Its mid-p form, less conservative.")
    gained: int = Field(description="Answers right in this mode and wrong in the other.")
    lost: int = Field(description="Answers wrong in this mode and right in the other.")


def bootstrap(
    columns: npt.ArrayLike,
    groups: Sequence[Hashable],
    *,
    least: float | Sequence[float] = 0.0,
    most: float = 1.0,
    seed: int = 0,
    draws: int = DRAWS,
) -> list[Interval]:
    """The mean of each column with its percentile bootstrap interval, the same draws for all columns.

    A paired difference is a column of differences. Where the values of a column are all equal a bootstrap knows no
    doubt, and the exact bound of a rare event stands in: with G equal groups something of a share up to
    1 - 0.025^(1/G) can have been missed.

    Args:
        columns: (N, K), a row an answer.
        groups: N group names; rows of one group are drawn together.
        least: the least value that a column can have: 0 for a share, -1 for a difference of shares.
        most: the greatest that any can have.
        seed: of the draws.
        draws: how many.

    Raises:
        ValueError: no rows, or another number of groups than rows.
    """
    values = np.asarray(columns, dtype=np.float64)
    if values.ndim != 2 or not len(values) or len(groups) != len(values):
        raise ValueError(f"expected (N, K) values with N >= 1 and N groups, got {values.shape} and {len(groups)}")
    numbers: dict[Hashable, int] = {}
    group_of = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    sums = np.zeros((len(numbers), values.shape[1] + 1))  # (G, K + 1), the last column counts
    np.add.at(sums, group_of, np.column_stack([values, np.ones(len(values))]))
    means = np.empty((draws, values.shape[1]))
    start = 0
    for weights in _draws(len(sums), seed, draws):
        drawn = weights.astype(np.float64) @ sums  # (C, K + 1)
        means[start : start + len(drawn)] = drawn[:, :-1] / drawn[:, -1:]
        start += len(drawn)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    floors = np.broadcast_to(np.asarray(least, dtype=np.float64), values.shape[1:])
    return [
        _interval(values[:, k], float(low[k]), float(high[k]), least=float(floors[k]), most=most, groups=len(sums))
        for k in range(values.shape[1])
    ]


def _draws(groups: int, seed: int, draws: int) -> Iterable[npt.NDArray[np.uint16]]:
    """How often each group is drawn, (C, G) at a time; the same for the same arguments."""
    if groups * draws <= _KEPT:
        return _kept_draws(groups, seed, draws)
    return _fresh_draws(groups, seed, draws)


@lru_cache(maxsize=4)
def _kept_draws(groups: int, seed: int, draws: int) -> tuple[npt.NDArray[np.uint16], ...]:
    return tuple(_fresh_draws(groups, seed, draws))


def _fresh_draws(groups: int, seed: int, draws: int) -> Iterator[npt.NDArray[np.uint16]]:
    rng = np.random.default_rng(seed)
    evenly = np.full(groups, 1 / groups)
    chunk = min(_CHUNK, max(1, _CHUNK_COUNTS // groups))
    for start in range(0, draws, chunk):
        counts = rng.multinomial(groups, evenly, size=min(chunk, draws - start))
        yield counts.astype(np.uint16)


def _interval(
    column: npt.NDArray[np.float64], low: float, high: float, *, least: float, most: float, groups: int
) -> Interval:
    value = float(column.mean())
    if column.min() == column.max():
        missed = 1 - ((1 - LEVEL) / 2) ** (1 / groups)
        low, high = max(value - missed, least), min(value + missed, most)
    return Interval(value=value, low=low, high=high)


def paired_test(right: Sequence[bool], other: Sequence[bool], groups: Sequence[Hashable]) -> PairedTest:
    """Whether two modes answer the same questions equally well.

    Under the null hypothesis the two modes of a group can be exchanged, so the sign of each group's difference (answers
    gained less answers lost) is a fair coin. The distribution of their sum is exact, by convolution. With an answer a
    group this is McNemar's exact test, with several seeds a question its form for clusters.

    Args:
        right: whether each answer is right in this mode.
        other: whether the same one is right in the other.
        groups: of each answer.
    """
    if not len(right) == len(other) == len(groups):
        raise ValueError(f"expected equally many answers, got {len(right)}, {len(other)} and {len(groups)} groups")
    gained = sum(a and not b for a, b in zip(right, other, strict=True))
    lost = sum(b and not a for a, b in zip(right, other, strict=True))
    net: dict[Hashable, int] = {}
    for a, b, group in zip(right, other, groups, strict=True):
        net[group] = net.get(group, 0) + int(a) - int(b)
    sizes = [abs(difference) for difference in net.values() if difference]
    observed = abs(sum(net.values()))
    if observed == 0:
        return PairedTest(p=1.0, mid_p=1.0, gained=gained, lost=lost)
    total = sum(sizes)
    chance = np.zeros(2 * total + 1)  # of each sum from -total to total
    chance[total] = 1.0
    for size in sizes:
        moved = np.zeros_like(chance)
        moved[size:] += chance[:-size] / 2
        moved[:-size] += chance[size:] / 2
        chance = moved
    beyond = 2 * float(chance[total + observed + 1 :].sum())
    equal = 2 * float(chance[total + observed])
    return PairedTest(p=min(1.0, beyond + equal), mid_p=min(1.0, beyond + equal / 2), gained=gained, lost=lost)


@dataclass(frozen=True)
class Paired:
    """Two columns of right and wrong over the same answers, compared."""

    difference: Interval
    test: PairedTest


def compare_paired(
    right: Sequence[bool], other: Sequence[bool], groups: Sequence[Hashable], *, seed: int = 0
) -> Paired:
    """The difference of two accuracies with its interval, and the test."""
    columns = np.column_stack([np.asarray(right, dtype=np.float64) - np.asarray(other, dtype=np.float64)])
    return Paired(bootstrap(columns, groups, least=-1.0, seed=seed)[0], paired_test(right, other, groups))
