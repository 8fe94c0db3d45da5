"""Own the statistics of a comparison: differences and their intervals, several at once, what more seeds would show.

Knows nothing of runs. SciPy is imported where it is needed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
POWER = 0.8
_MOST = 10_000


@dataclass(frozen=True)
class Difference:
    """The difference of two settings' means, other minus baseline, in the metric's unit.

    Attributes:
        value: the difference. low, high: its 95% interval; infinite where one seed a side says nothing.
        p: the probability of a difference as large where there is none; 1 where nothing can be said.
        n: seeds (baseline, other) that it is of. paired: whether the same seeds are subtracted from one another.
        deviation: of one run, such that the standard error follows from it and n: for what more seeds would show.
    """

    value: float
    low: float
    high: float
    p: float
    n: tuple[int, int]
    paired: bool
    deviation: float

    @property
    def known(self) -> bool:
        """Whether anything can be said beyond the numbers."""
        return math.isfinite(self.low)


def difference(baseline: Mapping[int, float], other: Mapping[int, float], resolution: float = 0.0) -> Difference:
    """Return the difference of two settings: paired by seed where the seeds match, else Welch's.

    They match where at least two seeds, and at least half of all, are on both sides; the others are left out then.

    Args:
        baseline, other: seed -> value of one run, at least one each.
        resolution: the smallest step between two values (1 of N samples); values that are equal by it alone do not
            make an interval of no width.

    >>> found = difference({0: 0.1, 1: 0.2, 2: 0.3}, {0: 0.5, 1: 0.7, 2: 0.6})
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3), found.paired
    (0.4, 0.152, 0.648, True)
    """
    common = sorted(baseline.keys() & other.keys())
    if len(common) >= 2 and 2 * len(common) >= len(baseline.keys() | other.keys()):
        return paired([baseline[seed] for seed in common], [other[seed] for seed in common], resolution)
    return welch(list(baseline.values()), list(other.values()), resolution)


def paired(baseline: Sequence[float], other: Sequence[float], resolution: float = 0.0) -> Difference:
    """Return the mean of the differences, with Student's interval.

    Args:
        baseline, other: values of the same seeds in the same order, two or more. resolution: as in `difference`.

    Source:
        Student 1908, Biometrika 6, pages 1 to 25.
    """
    differences = [b - a for a, b in zip(baseline, other, strict=True)]
    n = len(differences)
    variance = statistics.variance(differences) + 2 * _rounding(resolution)
    low, high, p = _student(statistics.fmean(differences), math.sqrt(variance / n), n - 1)
    return Difference(statistics.fmean(differences), low, high, p, (n, n), True, math.sqrt(variance / 2))


def welch(baseline: Sequence[float], other: Sequence[float], resolution: float = 0.0) -> Difference:
    """Return the difference of the means, with Welch's interval: the deviations need not be equal.

    Args:
        baseline, other: values of one or more runs each; of one run there is no interval.
        resolution: as in `difference`.

    Source:
        Welch 1947, Biometrika 34, pages 28 to 35; degrees of freedom by Satterthwaite 1946.
    """
    value = statistics.fmean(other) - statistics.fmean(baseline)
    n = len(baseline), len(other)
    if min(n) < 2:
        return Difference(value, -math.inf, math.inf, 1.0, n, False, math.nan)
    shares = [(statistics.variance(values) + _rounding(resolution)) / len(values) for values in (baseline, other)]
    error = math.sqrt(sum(shares))
    freedom = sum(shares) ** 2 / sum(share**2 / (k - 1) for share, k in zip(shares, n)) if error else sum(n) - 2.0
    low, high, p = _student(value, error, freedom)
    return Difference(value, low, high, p, n, False, error / math.sqrt(1 / n[0] + 1 / n[1]))


def _rounding(resolution: float) -> float:
    """Return the variance that comes of values being known to `resolution` alone."""
    return resolution**2 / 12


def _student(value: float, error: float, freedom: float) -> tuple[float, float, float]:
    """Return (low, high, p) of a value with its standard error."""
    from scipy import stats

    if error == 0:
        return value, value, float(value == 0)
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return value - half, value + half, float(2 * stats.t.sf(abs(value) / error, freedom))


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p values of several comparisons, each such that 0.05 holds for all of them together.

    Source:
        Holm 1979, Scandinavian Journal of Statistics 6, pages 65 to 70.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, most = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        most = max(most, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = most
    return adjusted


def smallest_shown(deviation: float, n: int, *, is_paired: bool, comparisons: int = 1) -> float:
    """Return the difference that n seeds a side would show four times of five.

    Args:
        deviation: of one run (`Difference.deviation`). n: seeds a side, two or more.
        comparisons: how many are made at once: then the first step of Holm's correction is taken.
    """
    from scipy import optimize

    def lacking(effect: float) -> float:
        return _power(effect, n, is_paired, comparisons) - POWER

    return deviation * float(optimize.brentq(lacking, 1e-6, 1e4, xtol=1e-6))


def seeds_to_show(effect: float, deviation: float, *, is_paired: bool, comparisons: int = 1) -> int | None:
    """Return the seeds a side that would show a difference four times of five; None where 10,000 do not.

    Args:
        effect: the difference, not 0. The others are those of `smallest_shown`.
    """
    if deviation == 0:
        return 2
    low, high = 2, _MOST
    if _power(abs(effect) / deviation, high, is_paired, comparisons) < POWER:
        return None
    while low < high:
        middle = (low + high) // 2
        enough = _power(abs(effect) / deviation, middle, is_paired, comparisons) >= POWER
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _power(effect: float, n: int, is_paired: bool, comparisons: int) -> float:
    """Return the probability that n seeds a side show an effect, given in deviations of one run."""
    from scipy import stats

    freedom = n - 1 if is_paired else 2 * n - 2
    bound = float(stats.t.ppf(1 - (1 - LEVEL) / 2 / comparisons, freedom))
    shift = effect * math.sqrt(n / 2)
    if shift > bound + 40:  # beyond what the non-central t is computed for
        return 1.0
    found = float(stats.nct.sf(bound, freedom, shift))
    return found if math.isfinite(found) else float(stats.norm.sf(bound - shift))


def of_samples(share: float, count: int) -> float:
    """Return the half-width of the 95% interval that a share has by the choice of `count` test samples alone.

    It is Wilson's interval, the half of its width.

    >>> round(of_samples(0.889, 10_000), 4)
    0.0062
    """
    z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)
    return z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
