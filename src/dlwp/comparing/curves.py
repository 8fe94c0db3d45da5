"""Own the curves of settings: mean and band over the seeds of each quantity, and SVG of them.

Knows nothing of pages, nor of what a quantity means. Each drawing stretches to the room it is given: lines keep their
width, and all text is HTML beside the SVG, so that it keeps its size on any screen.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlwp.comparing.groups import Groups, Setting
from dlwp.runs import history

MOST_POINTS = 300
_TICKS = (1, 2, 2.5, 5, 10)
_WIDE = 30


@dataclass(frozen=True)
class Curve:
    """The mean of a quantity over a setting's seeds, and how far they lie apart.

    Attributes:
        name: of the setting. index: its number, which is that of its colour.
        xs: epochs or steps. mean, low, high: over the seeds, at each of them.
    """

    name: str
    index: int
    xs: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Axis:
    """A range of numbers and the ticks in it."""

    low: float
    high: float
    ticks: list[float]
    is_logarithmic: bool = False

    @classmethod
    def of(cls, low: float, high: float, most: int = 5) -> Axis:
        """Return an axis over a range, with round ticks, `most` at most."""
        if not high > low:
            low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
        raw = (high - low) / most
        power = 10 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in _TICKS if power * factor >= raw * 0.999)
        first = math.ceil(low / step - 1e-9)
        ticks = [step * (first + number) for number in range(most + 2) if step * (first + number) <= high + step * 1e-9]
        return cls(low, high, ticks)

    @classmethod
    def logarithmic(cls, low: float, high: float) -> Axis:
        """Return an axis of logarithms over a range of numbers above 0, with a tick at each power of ten, at most 6."""
        powers = list(range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1))
        kept = powers[:: -(-len(powers) // 6) or 1]
        return cls(math.log10(low), math.log10(high), [10.0**power for power in kept], True)

    def share(self, value: float) -> float:
        """Return where a value lies, from 0 to 1."""
        return ((math.log10(value) if self.is_logarithmic else value) - self.low) / (self.high - self.low)


def curves_of(groups: Groups, settings: Sequence[Setting], quantity: str) -> tuple[str, list[Curve]]:
    """Return ("epoch" or "step", the curves of a quantity, SPLIT/NAME); of a setting that has none there is none."""
    per_epoch = all(_epochs(trial.row) for setting in groups.settings for trial in setting.trials)
    found = []
    for index, setting in enumerate(settings):
        lines = []
        for trial in setting.trials:
            steps, values = history.series([dict(record) for record in trial.records], *quantity.split("/", 1))
            scale = trial.row["epoch"] / trial.row["step"] if per_epoch else 1.0
            lines.append({round(step * scale, 4): value for step, value in zip(steps, values)})
        if curve := _curve(setting.name, index, [line for line in lines if line]):
            found.append(curve)
    return "epoch" if per_epoch else "step", found


def _epochs(row: object) -> bool:
    """Return whether a run went through whole epochs, so that its steps can be told as such."""
    step, epoch = (row.get(name) for name in ("step", "epoch"))  # type: ignore[attr-defined]
    return isinstance(step, int) and isinstance(epoch, int) and step > 0 and epoch > 0


def _curve(name: str, index: int, lines: Sequence[dict[float, float]]) -> Curve | None:
    """Return mean and band at each place where at least half of the seeds have a value."""
    places: dict[float, list[float]] = {}
    for line in lines:
        for x, value in line.items():
            places.setdefault(x, []).append(value)
    kept = sorted(x for x, values in places.items() if 2 * len(values) >= len(lines))
    width = -(-len(kept) // MOST_POINTS)
    bins = [kept[start : start + width] for start in range(0, len(kept), width or 1)]
    if not bins:
        return None

    def over(what: Callable[[list[float]], float]) -> list[float]:
        return [math.fsum(what(places[x]) for x in some) / len(some) for some in bins]

    xs = [some[-1] for some in bins]
    return Curve(name, index, xs, over(lambda values: math.fsum(values) / len(values)), over(min), over(max))


def drawing(curves: Sequence[Curve], x_name: str, shown: Callable[[float], str], *, banded: bool = True) -> str:
    """Return curves over each other as HTML: an SVG that stretches, and its ticks.

    Args:
        curves: one or more. x_name: what the x axis counts. shown: how a value is written. banded: with the bands.
    """
    xs = Axis.of(min(min(c.xs) for c in curves), max(max(c.xs) for c in curves))
    if len({x for c in curves for x in c.xs}) == 1:
        xs = Axis.of(0.0, max(c.xs[0] for c in curves) or 1.0)
    low = min(min(c.low if banded else c.mean) for c in curves)
    high = max(max(c.high if banded else c.mean) for c in curves)
    margin = (high - low) * 0.06
    wide = low > 0 and high / low > _WIDE  # a first epoch of a great loss would flatten all that follows
    ys = Axis.logarithmic(low / 1.2, high * 1.2) if wide else Axis.of(low - margin, high + margin, 4)

    def points(values: Sequence[float], curve: Curve) -> list[str]:
        return [
            f"{1000 * xs.share(x):.1f},{1000 * (1 - ys.share(value)):.1f}"
            for x, value in zip(curve.xs, values, strict=True)
        ]

    parts = [f'<line class="grid" x1="0" x2="1000" y1="{y:.1f}" y2="{y:.1f}"/>' for y in _at(ys)]
    for curve in curves:
        if banded and curve.low != curve.high:
            band = " ".join([*points(curve.high, curve), *reversed(points(curve.low, curve))])
            parts.append(f'<polygon class="band c{curve.index}" points="{band}"/>')
    for curve in reversed(curves):  # the baseline on top
        title = f"<title>{html.escape(curve.name)}</title>"
        line = points(curve.mean, curve)
        line = line * 2 if len(line) == 1 else line  # a line of one point is its round cap
        parts.append(f'<polyline class="line c{curve.index}" points="{" ".join(line)}">{title}</polyline>')
    svg = f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'
    left = "".join(
        f'<span class="y" style="top:{100 * (1 - ys.share(tick)):.2f}%">{html.escape(shown(tick))}</span>'
        for tick in ys.ticks
    )
    ticks = [tick for tick in xs.ticks if x_name != "epoch" or tick == round(tick)] or [xs.high]
    below = "".join(f'<span class="x" style="left:{100 * xs.share(tick):.2f}%">{tick:g}</span>' for tick in ticks)
    return f'<div class="plot">{svg}{left}{below}<span class="xname">{x_name}</span></div>'


def _at(axis: Axis) -> list[float]:
    return [1000 * (1 - axis.share(tick)) for tick in axis.ticks]
