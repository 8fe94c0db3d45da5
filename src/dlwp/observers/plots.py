"""Own the pictures of a run: curves.png and confusion.png, views of metrics.jsonl and of the last evaluation.

Knows nothing of the loop. Uses matplotlib's objects alone, so that no figure outlives its call.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dlwp.observers.console import main_metric, number
from dlwp.runs import files, history
from dlwp.runs.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dlwp.training.events import Ended, Evaluated, Started

_EVERY_S = 60.0
_COLOURS = {"train": "#3b6fb6", "val": "#d1592b", "test": "#3d8c53", "lr": "#7a7a7a"}
_INK = "#222222"
_ADDRESS = ("step", "epoch", "split", "time")


class Plots:
    """Draw plots/curves.png and plots/confusion.png, at most once a minute and at the end.

    Args:
        run: the folder.
        classes: their names, for the confusion matrix.
        clock: seconds, rising.
    """

    watcher = True

    def __init__(
        self, run: RunFolder, classes: list[str] | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run = run
        self._classes = classes
        self._clock = clock
        self._drawn = clock()
        self._steps_per_epoch = 1
        self._ended = False
        self._confusion: tuple[str, Any] | None = None

    def on_start(self, event: Started) -> None:
        """Note how long an epoch is."""
        self._steps_per_epoch = event.steps_per_epoch

    def on_evaluation(self, event: Evaluated) -> None:
        """Keep the confusion matrix, of the test split or else the best; draw if a minute has passed."""
        if event.confusion is not None and (event.split == "test" or event.is_best or self._confusion is None):
            title = "test" if event.split == "test" else f"{event.split}, step {event.step:,}"
            self._confusion = title, event.confusion.detach().cpu().numpy()
        if self._ended or self._clock() - self._drawn >= _EVERY_S:
            self._draw(event.trainer.monitor)
            self._drawn = self._clock()

    def on_end(self, event: Ended) -> None:
        """Draw what there is; an evaluation of the test split that follows is drawn at once."""
        self._ended = True
        self._draw(event.trainer.monitor)

    def _draw(self, monitor: str) -> None:
        self._run.plots.mkdir(exist_ok=True)
        records = history.read(self._run.metrics)
        if records:
            figure = draw_curves(records, monitor, self._steps_per_epoch, self._run.read_summary())
            files.write_atomic(self._run.plots / "curves.png", png(figure))
        if self._confusion is not None:
            title, counts = self._confusion
            figure = draw_confusion(counts, self._classes, title)
            files.write_atomic(self._run.plots / "confusion.png", png(figure))


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _pad(figure: Figure) -> None:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def draw_curves(
    records: Sequence[dict[str, Any]], monitor: str, steps_per_epoch: int, summary: dict[str, Any] | None = None
) -> Figure:
    """Return a figure of loss, main metric and learning rate over epochs.

    Args:
        records: lines of metrics.jsonl.
        monitor: such as "val/accuracy"; its best step is marked.
        steps_per_epoch: to show epochs on the axis, from 1.
        summary: what summary.json holds, for best and test.
    """
    from matplotlib.figure import Figure

    summary = summary or {}
    evaluated = [record for record in records if record.get("split") != "train"] or list(records)
    known = {name: 0.0 for record in evaluated for name in record if name not in _ADDRESS}
    metric = main_metric(monitor, known)
    names = ["loss", *([metric] if metric else [])]
    has_rate = bool(history.series(records, "train", "lr")[0])
    heights = [3] * len(names) + [1] * has_rate
    figure = Figure(figsize=(8, 0.9 * sum(heights) + 0.8), dpi=130)
    _pad(figure)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axis, name in zip(axes, names):
        _draw_quantity(axis, records, name, steps_per_epoch, summary)
    if has_rate:
        steps, rates = history.series(records, "train", "lr")
        axes[-1].plot([step / steps_per_epoch for step in steps], rates, color=_COLOURS["lr"], linewidth=1.6)
        axes[-1].set_ylim(0, 1.15 * max(rates) or 1)
        _title(axes[-1], "learning rate")
    axes[-1].set_xlabel("epoch", color=_INK)
    last = max((record["step"] for record in records if isinstance(record.get("step"), int)), default=1)
    axes[-1].set_xlim(0, 1.01 * last / steps_per_epoch)
    return figure


def _draw_quantity(
    axis: Axes, records: Sequence[dict[str, Any]], name: str, per_epoch: int, summary: dict[str, Any]
) -> None:
    ends: list[tuple[float, float, str]] = []
    shown: list[float] = []
    for split in ("train", "val"):
        fine = history.series(records, split, name)
        bold = _epoch_means(*fine, per_epoch) if split == "train" else fine
        if bold != fine:
            axis.plot([step / per_epoch for step in fine[0]], fine[1], color=_COLOURS[split], linewidth=0.8, alpha=0.35)
            shown += fine[1]
        if bold[0]:
            xs = [step / per_epoch for step in bold[0]]
            marker = "o" if len(xs) <= 40 else None
            axis.plot(xs, bold[1], color=_COLOURS[split], linewidth=1.8, marker=marker, markersize=3.5)
            ends.append((xs[-1], bold[1][-1], split))
            shown += bold[1]
    best = summary.get("best") or {}
    if isinstance(best.get(f"val/{name}"), int | float) and best.get("step") is not None:
        x, y = best["step"] / per_epoch, best[f"val/{name}"]
        axis.plot([x], [y], "o", markersize=9, markerfacecolor="none", markeredgecolor=_COLOURS["val"])
        if ends and x < ends[-1][0]:
            label = f"best {number(name, y).strip()}"
            colour = _COLOURS["val"]
            axis.annotate(label, (x, y), (0, -16), textcoords="offset points", color=colour, fontsize=9, ha="center")
    tested = (summary.get("test") or {}).get(name)
    if isinstance(tested, int | float):
        axis.axhline(tested, color=_COLOURS["test"], linewidth=1.1, linestyle=(0, (4, 3)))
        ends.append((max((x for x, _, _ in ends), default=0.0), tested, "test"))
        shown.append(tested)
    if name == "loss" and shown and min(shown) > 0 and max(shown) / min(shown) > 30:
        axis.set_yscale("log")
        axis.minorticks_off()
    _title(axis, name)
    _label_ends(axis, ends, name)


def _epoch_means(steps: list[int], values: list[float], per_epoch: int) -> tuple[list[int], list[float]]:
    """Return the mean over each whole epoch of values that each stand for the steps since the one before."""
    sums: dict[int, list[float]] = {}
    for before, step, value in zip([0, *steps], steps, values):
        total = sums.setdefault((step - 1) // per_epoch, [0.0, 0.0])
        total[0] += value * (step - before)
        total[1] += step - before
    whole = [epoch for epoch in sums if steps[-1] >= (epoch + 1) * per_epoch]
    if len(whole) < 2:
        return steps, values
    return [(epoch + 1) * per_epoch for epoch in whole], [sums[epoch][0] / sums[epoch][1] for epoch in whole]


def _label_ends(axis: Axes, ends: list[tuple[float, float, str]], name: str) -> None:
    """Write each curve's name and last value beside its end, moved apart where they would overlap."""
    axis.margins(x=0)
    if not ends:
        return
    axis.autoscale_view()
    to_share = axis.transScale + axis.transLimits
    placed: list[tuple[float, str, str]] = []
    gap = 0.095
    for _, value, split in sorted(ends, key=lambda end: end[1]):
        share = float(to_share.transform((0, value))[1])
        share = max(share, placed[-1][0] + gap) if placed else share
        placed.append((share, f"{split} {number(name, value).strip()}", split))
    excess = max(placed[-1][0] - 1.0, 0.0)
    for share, text, split in placed:
        axis.annotate(
            text, (1.0, share - excess), xycoords="axes fraction", xytext=(8, 0), textcoords="offset points",
            color=_COLOURS[split], fontsize=10, va="center", annotation_clip=False,
        )  # fmt: skip


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=11, fontweight="bold", color=_INK)
    axis.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#b5b5b5")
    axis.tick_params(colors="#555555", labelsize=9)
    if text.endswith("accuracy") or text.startswith("top"):
        axis.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.3g}%")


def draw_confusion(counts: Any, classes: Sequence[str] | None, title: str = "") -> Figure:
    """Return a figure of a confusion matrix, coloured by the share of each true class.

    Args:
        counts: array of shape (K, K), rows true classes, columns predicted ones.
        classes: K names; numbers where they are None.
        title: what was evaluated.
    """
    import numpy
    from matplotlib.figure import Figure

    counts = numpy.asarray(counts, dtype=float)
    num_classes = len(counts)
    names = [str(name) for name in (classes or range(num_classes))]
    names = [name if len(name) <= 18 else name[:17] + "…" for name in names]
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / numpy.maximum(totals, 1)
    side = min(max(4.2, 0.52 * num_classes + 2.2), 11)
    figure = Figure(figsize=(side + (0.8 if num_classes > 20 else 0), side), dpi=130)
    _pad(figure)
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    accuracy = numpy.trace(counts) / max(counts.sum(), 1)
    title = f"confusion{f' ({title})' if title else ''}: {accuracy:.1%} right"
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    ticks = range(0, num_classes, max(1, -(-num_classes // 50)))
    labels = [names[tick] for tick in ticks]
    size = 9 if num_classes <= 20 else 6
    slant = 90 if num_classes > 20 else (0 if max(map(len, names)) <= 2 else 40)
    axis.set_xticks(ticks, labels, fontsize=size, rotation=slant)
    if slant == 40:
        for label in axis.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axis.set_yticks(ticks, labels, fontsize=size)
    axis.set_xlabel("predicted", color=_INK)
    axis.set_ylabel("true", color=_INK)
    axis.tick_params(length=0, colors="#444444")
    axis.spines[:].set_visible(False)
    if num_classes <= 20:
        for row, column in numpy.argwhere(counts > 0):
            dark = shares[row, column] > 0.55
            axis.text(
                column, row, f"{counts[row, column]:.0f}", ha="center", va="center",
                color="white" if dark else "#30557f", fontsize=9 if num_classes <= 12 else 6,
            )  # fmt: skip
    else:
        percent = "{x:.0%}"
        bar = figure.colorbar(picture, ax=axis, shrink=0.5, aspect=40, label="share of the true class", format=percent)
        bar.outline.set_visible(False)
    return figure
