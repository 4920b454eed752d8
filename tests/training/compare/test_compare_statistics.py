"""Intervals and tests against values by hand, by enumeration, and of scipy."""

from itertools import product

import numpy as np
import pytest

from sifthinker.training.compare import statistics
from sifthinker.training.compare.statistics import bootstrap, compare_paired, paired_test


def pairs(gained: int, lost: int, same: int = 0) -> tuple[list[bool], list[bool], list[int]]:
    right = [True] * gained + [False] * lost + [True] * same
    other = [False] * gained + [True] * lost + [True] * same
    return right, other, list(range(len(right)))


def test_mcnemar_by_hand() -> None:
    # 5 gained, 1 lost: P(X <= 1 or X >= 5 of 6) = 2 (1 + 6) / 64; the observed one counts half in mid-p
    test = paired_test(*pairs(5, 1, same=20))
    assert (test.gained, test.lost) == (5, 1)
    assert test.p == pytest.approx(14 / 64)
    assert test.mid_p == pytest.approx(14 / 64 - 6 / 64)


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (3, 9), (12, 12), (60, 31), (200, 260)])
def test_mcnemar_is_scipys_binomial_test(gained: int, lost: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    test = paired_test(*pairs(gained, lost))
    assert test.p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    if gained != lost:
        assert test.mid_p == pytest.approx(test.p - stats.binom.pmf(gained, gained + lost, 0.5))


def test_no_difference_at_all_is_p_one() -> None:
    test = paired_test([True, False], [True, False], ["a", "b"])
    assert (test.p, test.mid_p, test.gained, test.lost) == (1.0, 1.0, 0, 0)


def test_answers_of_one_question_are_one_coin() -> None:
    rng = np.random.default_rng(3)
    right, other = rng.random(24) < 0.7, rng.random(24) < 0.4
    groups = [index // 3 for index in range(24)]  # eight questions, three seeds
    net = [int(right[g * 3 : g * 3 + 3].sum()) - int(other[g * 3 : g * 3 + 3].sum()) for g in range(8)]
    sums = [sum(s * n for s, n in zip(signs, net, strict=True)) for signs in product((-1, 1), repeat=8)]
    by_enumeration = np.mean([abs(total) >= abs(sum(net)) for total in sums])
    assert paired_test(list(right), list(other), groups).p == pytest.approx(by_enumeration)
    same_seeds = paired_test([True] * 9, [False] * 9, [0] * 9)
    assert same_seeds.p == 1.0  # one question asked nine times says nothing about others


def test_an_interval_is_the_one_of_the_textbook_for_many_answers() -> None:
    values = (np.arange(2000) < 600).astype(float)
    interval = bootstrap(values[:, None], list(range(2000)))[0]
    half = 1.96 * (0.3 * 0.7 / 2000) ** 0.5
    assert interval.value == pytest.approx(0.3)
    assert (interval.low, interval.high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.002)


def test_a_small_interval_is_the_exact_bootstrap_distribution() -> None:
    values = [0.0, 0.0, 1.0]
    means = [np.mean(draw) for draw in product(values, repeat=3)]
    interval = bootstrap(np.array(values)[:, None], [0, 1, 2])[0]
    exact = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    assert (interval.low, interval.high) == pytest.approx(tuple(exact))


def test_pairing_makes_an_interval_of_a_difference_narrower() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(500) < 0.5
    one, other = hard, hard.copy()
    other[:20] = ~other[:20]
    paired = compare_paired(list(one), list(other), list(range(500))).difference
    apart = bootstrap(np.column_stack([one, other]).astype(float), list(range(500)))
    assert paired.high - paired.low < 0.5 * (apart[0].high - apart[0].low)


def test_rows_of_a_group_are_drawn_together() -> None:
    values = np.repeat(np.arange(40) % 2, 10).astype(float)[:, None]
    grouped = bootstrap(values, [row // 10 for row in range(400)])[0]
    single = bootstrap(values, list(range(400)))[0]
    assert grouped.high - grouped.low > 2.5 * (single.high - single.low)


def test_the_same_seed_draws_the_same() -> None:
    values = np.array([[1.0, 0.2], [0.0, 0.4], [1.0, 0.9]])
    assert bootstrap(values, [0, 1, 2]) == bootstrap(values, [0, 1, 2])


@pytest.mark.parametrize(
    ("value", "least", "below", "above"), [(1.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0), (0.0, -1.0, 1.0, 1.0)]
)
def test_equal_answers_leave_room_for_doubt(value: float, least: float, below: float, above: float) -> None:
    missed = 1 - 0.025 ** (1 / 20)  # the exact bound of a share of which 20 draws showed nothing
    interval = bootstrap(np.full((20, 1), value), list(range(20)), least=least)[0]
    assert (interval.low, interval.high) == pytest.approx((value - below * missed, value + above * missed))


@pytest.mark.parametrize(("values", "groups"), [(np.zeros((0, 1)), []), (np.zeros((2, 1)), [1]), (np.zeros(3), [1])])
def test_nothing_to_draw_from_is_an_error(values: np.ndarray, groups: list[int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        bootstrap(values, groups)
    with pytest.raises(ValueError, match="equally many"):
        paired_test([True], [], [])


def test_an_interval_does_not_depend_on_how_many_draws_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = (np.arange(700) % 3 == 0)[:, None], [index // 2 for index in range(700)]
    whole = bootstrap(values, groups, seed=5, draws=1000)
    monkeypatch.setattr(statistics, "_CHUNK_COUNTS", 2000)
    statistics._kept_draws.cache_clear()
    assert bootstrap(values, groups, seed=5, draws=1000) == whole
    statistics._kept_draws.cache_clear()
