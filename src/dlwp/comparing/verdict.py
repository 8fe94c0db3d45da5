"""Own what a comparison says: each setting against the baseline, corrected for several, and in plain words.

Knows nothing of where runs lie, nor of how the words are laid out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dlwp.comparing import differences
from dlwp.comparing.differences import Difference
from dlwp.comparing.groups import Groups, Setting, is_share

MOST_SENTENCES = 3
"""More comparisons than this are told by the table and the plot, not in a sentence each."""

ALPHA = 1 - differences.LEVEL


@dataclass(frozen=True)
class Scale:
    """How values and differences of one metric are written: shares as percent and points, else as they are.

    Attributes:
        share: whether the metric is a share of 1. decimals: of a difference, in points for a share.
    """

    share: bool
    decimals: int

    @classmethod
    def of(cls, metric: str, sizes: Sequence[float]) -> Scale:
        """Return a scale that shows sizes (half-widths, deviations), the one in their middle, with two digits."""
        share = is_share(metric)
        known = [size * (100 if share else 1) for size in sizes if math.isfinite(size) and size > 0]
        decimals = 1 - math.floor(math.log10(statistics.median_low(known))) if known else 1
        return cls(share, min(max(decimals, 1 if share else 0), 3 if share else 8))

    def value(self, value: float) -> str:
        """Return a value: "81.3%", "0.1234"."""
        return f"{value * 100:.{self.decimals}f}%" if self.share else f"{value:.{self.decimals}f}"

    def size(self, size: float) -> str:
        """Return a difference without unit: "19.1", "-0.4"."""
        text = f"{size * (100 if self.share else 1):.{self.decimals}f}"
        return text.removeprefix("-") if float(text) == 0 else text

    def signed(self, size: float) -> str:
        """Return a difference with its sign: "+19.1"."""
        text = self.size(size)
        return text if text.startswith("-") or float(text) == 0 else f"+{text}"

    def amount(self, size: float) -> str:
        """Return a difference with its unit: "19.1 points"."""
        return f"{self.size(size)}{' points' if self.share else ''}"


@dataclass(frozen=True)
class Pair:
    """A setting against the baseline.

    Attributes:
        difference: other minus baseline. p: corrected for the number of comparisons (Holm). comparisons: that number.
    """

    baseline: Setting
    other: Setting
    difference: Difference
    p: float
    comparisons: int

    @property
    def shown(self) -> bool:
        """Whether a difference is shown."""
        return self.difference.known and self.p < ALPHA and self.difference.value != 0


def pairs_of(groups: Groups) -> list[Pair]:
    """Return each setting against the first, in their order."""
    resolution = 1 / groups.num_samples if groups.num_samples and is_share(groups.metric) else 0.0
    baseline, *others = groups.settings
    found = [differences.difference(baseline.values, other.values, resolution) for other in others]
    known = [index for index, one in enumerate(found) if one.known]
    corrected = dict(zip(known, differences.holm([found[index].p for index in known])))
    return [
        Pair(baseline, other, one, corrected.get(index, 1.0), max(len(known), 1))
        for index, (other, one) in enumerate(zip(others, found))
    ]


def scale_of(groups: Groups, pairs: Sequence[Pair]) -> Scale:
    """Return how the numbers of a comparison are written."""
    sizes = [(pair.difference.high - pair.difference.low) / 2 for pair in pairs]
    sizes = sizes if any(math.isfinite(size) and size > 0 for size in sizes) else []
    spread = [setting.deviation for setting in groups.settings if setting.deviation]
    return Scale.of(groups.metric, sizes or spread or [abs(pair.difference.value) for pair in pairs])


def headline(groups: Groups, pairs: Sequence[Pair], scale: Scale) -> str:
    """Return the whole comparison in one sentence."""
    if not pairs:
        (only,) = groups.settings
        return f"one setting alone, nothing to compare it with: {summary(only, groups, scale)}"
    if len(pairs) == 1:
        return sentence(groups, pairs[0], scale)
    baseline, shown = pairs[0].baseline, [pair for pair in pairs if pair.shown]
    if not any(pair.difference.known for pair in pairs):
        best = _best(groups)
        return (
            f"one seed each: nothing can be said beyond the numbers, of which {best.name} has the best "
            f"({scale.value(best.mean)})"
        )
    better = [pair for pair in shown if _gain(groups, pair) > 0]
    if not shown:
        return f"no difference from {baseline.name} shown for any of {len(pairs)} settings"
    if not better:
        worse = "is worse" if len(shown) == 1 else "are worse"
        names = shown[0].other.name if len(shown) == 1 else f"{len(shown)} of {len(pairs)} settings"
        return f"nothing is shown to be better than {baseline.name}; {names} {worse}"
    most = max(better, key=lambda pair: _gain(groups, pair))
    amount = f"by {_by(groups, most, scale)}"
    if len(better) == 1:
        return f"{most.other.name} is better than {baseline.name} {amount}, the only one of {len(pairs)} settings"
    count = "both settings" if len(pairs) == 2 else f"{len(better)} of {len(pairs)} settings"
    return f"{count} are better than {baseline.name}, {most.other.name} the most: {amount}"


def sentences(groups: Groups, pairs: Sequence[Pair], scale: Scale) -> list[str]:
    """Return what each of a few pairs says, beside the headline; of one alone, and of many, nothing more."""
    known = [pair for pair in pairs if pair.difference.known]
    return [sentence(groups, pair, scale) for pair in known] if 1 < len(pairs) <= MOST_SENTENCES else []


def sentence(groups: Groups, pair: Pair, scale: Scale) -> str:
    """Return what one pair says, in one sentence."""
    return ": ".join(claim(groups, pair, scale))


def claim(groups: Groups, pair: Pair, scale: Scale) -> tuple[str, str]:
    """Return what one pair says, who is better by how much, and what it rests on or would take to be shown."""
    found, sides = pair.difference, f"{pair.baseline.name} and {pair.other.name}"
    if not found.known:
        return _unknown(groups, pair, scale)
    how = _seeds(pair)
    if pair.shown:
        better, worse = (pair.other, pair.baseline) if _gain(groups, pair) > 0 else (pair.baseline, pair.other)
        return f"{better.name} is better than {worse.name} by {_by(groups, pair, scale)}", f"{how}, p {p_text(pair.p)}"
    if found.low == found.high == 0:
        return f"no difference between {sides}", f"equal to the last digit, {how}"
    interval = f"{scale.signed(found.low)} to {scale.signed(found.high)}"
    text = f"{scale.signed(found.value)}{' points' if scale.share else ''} ({interval}), {how}"
    if found.low > 0 or found.high < 0:
        text += f"; alone it would be one, among {pair.comparisons} comparisons it is not (Holm, p {p_text(pair.p)})"
    else:
        more, size = _more(pair)
        text += f"; {more} more would show one of {scale.amount(size)}"
    return f"no difference shown between {sides}", text


def summary(setting: Setting, groups: Groups, scale: Scale) -> str:
    """Return a setting's result: "test/accuracy 81.3% ± 0.7 over 5 seeds"."""
    spread = "" if setting.deviation is None else f" ± {scale.size(setting.deviation)}"
    seeds = f"{len(setting.trials)} seed{'' if len(setting.trials) == 1 else 's'}"
    return f"{groups.metric} {scale.value(setting.mean)}{spread} over {seeds}"


def p_text(p: float) -> str:
    """Return a probability with two digits: "0.012", "< 0.0001".

    >>> p_text(0.01234), p_text(0.4), p_text(1e-7)
    ('0.012', '0.40', '< 0.0001')
    """
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.{max(2, 1 - math.floor(math.log10(p)))}f}"


def next_seeds(pair: Pair) -> list[int]:
    """Return seeds that neither side has had, as many as the verdict speaks of."""
    taken = {seed for setting in (pair.baseline, pair.other) for seed in setting.values}
    count = _more(pair)[0] if pair.difference.known else 4
    free = (seed for seed in range(10_000) if seed not in taken)
    return [next(free) for _ in range(count)]


def _gain(groups: Groups, pair: Pair) -> float:
    """Return by how much the other is better than the baseline, below 0 where it is worse."""
    return pair.difference.value if groups.higher else -pair.difference.value


def _best(groups: Groups) -> Setting:
    return max(groups.settings, key=lambda setting: setting.mean if groups.higher else -setting.mean)


def _by(groups: Groups, pair: Pair, scale: Scale) -> str:
    """Return by how much the better one is better: "19.1 points (13.6 to 24.6)"."""
    found = pair.difference
    low, high = sorted((abs(found.low), abs(found.high))) if found.low * found.high >= 0 else (found.low, found.high)
    less = "" if groups.higher else f" less {groups.metric}"
    return f"{scale.amount(abs(found.value))} ({scale.size(low)} to {scale.size(high)}){less}"


def _seeds(pair: Pair) -> str:
    """Return of how many seeds a difference is: "5 seeds each, paired", "5 and 3 seeds"."""
    n, is_paired = pair.difference.n, pair.difference.paired
    if is_paired and n != (len(pair.baseline.trials), len(pair.other.trials)):
        return f"{n[0]} seeds that both have, paired"
    return f"{n[0]} seeds each{', paired' if is_paired else ''}" if n[0] == n[1] else f"{n[0]} and {n[1]} seeds"


def _more(pair: Pair) -> tuple[int, float]:
    """Return how many more seeds a side to take, and the difference that all together would show 4 times of 5."""
    found = pair.difference
    now = min(found.n)
    more = max(5, now)
    size = differences.smallest_shown(found.deviation, now + more, is_paired=found.paired, comparisons=pair.comparisons)
    return more, size


def _unknown(groups: Groups, pair: Pair, scale: Scale) -> tuple[str, str]:
    """Return what can be said where a side has one seed: the numbers, and what the test split leaves open by itself."""
    sides = (pair.baseline, pair.other)
    one = "one seed each" if max(pair.difference.n) == 1 else f"one seed of {min(sides, key=_count).name}"
    text = " and ".join(f"{setting.name} {scale.value(setting.mean)}" for setting in sides)
    if groups.num_samples and is_share(groups.metric):
        half = max(differences.of_samples(min(max(side.mean, 0.0), 1.0), groups.num_samples) for side in sides)
        split = groups.metric.partition("/")[0]
        text += f" (the {groups.num_samples:,} {split} samples leave ± {scale.amount(half)} to each by themselves)"
    return f"{one}, so nothing can be said beyond the numbers", text


def _count(setting: Setting) -> int:
    return len(setting.trials)
