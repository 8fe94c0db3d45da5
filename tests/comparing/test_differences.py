"""What the statistics promise: SciPy's own numbers, an interval that holds, and differences that are found."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from dlwp.comparing import differences

A, B = [0.901, 0.912, 0.899, 0.92, 0.907], [0.911, 0.925, 0.904, 0.921, 0.923]


def test_paired_is_students_and_unpaired_is_welchs() -> None:
    found, expected = differences.paired(A, B), stats.ttest_rel(B, A)
    interval = expected.confidence_interval(0.95)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, interval.low, interval.high))
    found, expected = differences.welch(A, B[:3]), stats.ttest_ind(B[:3], A, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, interval.low, interval.high))
    assert not found.paired and found.n == (5, 3)


@pytest.mark.parametrize(
    ("left", "right", "paired", "n"),
    [
        ((0, 1, 2), (0, 1, 2), True, (3, 3)),
        ((0, 1, 2, 3), (0, 1, 2, 9), True, (3, 3)),
        ((0, 1, 2, 3), (0, 1), True, (2, 2)),
        ((0, 1, 2, 3, 4), (0, 1), False, (5, 2)),
        ((0, 1, 2), (3, 4, 5), False, (3, 3)),
        ((0,), (0,), False, (1, 1)),
    ],
)
def test_the_same_seeds_are_paired_where_they_are_at_least_half(
    left: tuple[int, ...], right: tuple[int, ...], paired: bool, n: tuple[int, int]
) -> None:
    found = differences.difference({s: A[s % 5] for s in left}, {s: B[s % 5] for s in right})
    assert (found.paired, found.n) == (paired, n)
    assert found.known == (min(n) > 1)


def test_of_one_seed_nothing_is_said() -> None:
    found = differences.difference({0: 0.5}, {0: 0.9, 1: 0.91})
    assert (found.value, found.low, found.high, found.p) == (pytest.approx(0.405), -math.inf, math.inf, 1.0)


def test_values_that_agree_only_because_they_are_rounded_do_not_make_a_difference_sure() -> None:
    same, shifted = {0: 0.90, 1: 0.91}, {0: 0.91, 1: 0.92}
    assert differences.difference(same, shifted).p < 0.01  # by chance, of values known to a hundredth
    assert differences.difference(same, shifted, 0.01).p > 0.05
    assert differences.difference(same, same).p == 1


def test_holm_is_that_of_the_paper() -> None:
    assert differences.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert differences.holm([]) == []


def drawn(chance: random.Random, n: int, gain: float, first_seed: int) -> differences.Difference:
    one = {seed: chance.gauss(0, 1) for seed in range(n)}
    other = {first_seed + seed: chance.gauss(gain, 1) for seed in range(n)}
    return differences.difference(one, other)


@pytest.mark.parametrize("first_seed", [0, 100], ids=["paired", "not paired"])
def test_no_difference_is_told_of_the_same_and_one_of_two_deviations_is_found(first_seed: int) -> None:
    chance = random.Random(0)
    none = sum(drawn(chance, 5, 0.0, first_seed).p >= 0.05 for _ in range(1000))
    found = [drawn(chance, 5, 2.0, first_seed) for _ in range(400)]
    assert none >= 930
    assert sum(one.p < 0.05 and one.value > 0 for one in found) / 4 >= 55
    assert sum(one.low < 2 < one.high for one in found) / 4 >= 91


@pytest.mark.parametrize("is_paired", [True, False])
@pytest.mark.parametrize(("n", "comparisons"), [(3, 1), (8, 1), (8, 4), (200, 1)])
def test_what_n_seeds_would_show_is_what_takes_n_seeds(n: int, comparisons: int, is_paired: bool) -> None:
    size = differences.smallest_shown(0.01, n, is_paired=is_paired, comparisons=comparisons)
    assert differences.seeds_to_show(1.0001 * size, 0.01, is_paired=is_paired, comparisons=comparisons) == n
    assert differences.seeds_to_show(0.999 * size, 0.01, is_paired=is_paired, comparisons=comparisons) == n + 1


def test_what_is_said_to_be_shown_four_times_of_five_is() -> None:
    chance = random.Random(1)
    for first_seed in (0, 100):
        size = differences.smallest_shown(1.0, 6, is_paired=first_seed == 0)
        shown = sum(drawn(chance, 6, size, first_seed).p < 0.05 for _ in range(1000))
        assert 760 <= shown <= 840  # 800 and three deviations of such a count


def test_more_seeds_than_anybody_has_are_not_named() -> None:
    assert differences.seeds_to_show(1e-6, 1.0, is_paired=True) is None
    assert differences.seeds_to_show(0.1, 0.0, is_paired=True) == 2
