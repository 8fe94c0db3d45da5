"""Own the pictures of a report: the reliability diagram, and the worst mistakes.

Knows nothing of how their numbers are found, nor of files. Uses matplotlib's objects alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT = "#222222", "#777777"
_BLUE, _RED = "#3b6fb6", "#d1592b"
_PALE_BLUE, _PALE_RED = "#a9c1e4", "#f0bfa9"
_DPI = 130
_COLUMNS = 4
_SMALL = 150
"""Pictures of fewer pixels a side are enlarged, pixel by pixel."""


def draw_reliability(calibration: Mapping[str, Any], title: str = "") -> Figure:
    """Return a figure of accuracy against confidence in each bin, with the gap, and how many samples each bin has.

    Args:
        calibration: as `dlwp.inference.scores.calibration` gives it.
        title: what was evaluated.

    Source:
        Guo et al. 2017, figure 1.
    """
    from matplotlib.figure import Figure

    bins = calibration["bins"]
    figure = Figure(figsize=(6.8, 7.2), dpi=_DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    width = 1 / len(bins)
    for one in bins:
        if not one["count"]:
            continue
        middle, accuracy, confidence = (one["from"] + one["to"]) / 2, one["accuracy"], one["confidence"]
        upper.bar(middle, accuracy, 0.94 * width, color=_BLUE, label="accuracy")
        gap, low, is_over = abs(accuracy - confidence), min(accuracy, confidence), confidence > accuracy
        name = "more sure than right" if is_over else "more often right than sure"
        upper.bar(middle, gap, 0.94 * width, bottom=low, color=_PALE_RED if is_over else _PALE_BLUE, label=name)
        lower.bar(middle, one["count"], 0.94 * width, color=_PALE_BLUE)
        lower.annotate(
            _short(one["count"]), (middle, one["count"]), (0, 2), textcoords="offset points", ha="center", fontsize=7.5,
            color=_INK,
        )  # fmt: skip
    upper.plot([0, 1], [0, 1], color=_FAINT, linewidth=1.2, linestyle=(0, (4, 3)), label="calibrated")
    handles = dict(zip(*reversed(upper.get_legend_handles_labels())))  # each once
    upper.legend(
        handles.values(), handles.keys(), loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=len(handles),
        frameon=False, fontsize=9, handlelength=1.5, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip
    error = "no number" if calibration["error"] is None else f"{calibration['error']:.1%}"
    what = f"calibration{f' ({title})' if title else ''}: expected error {error}"
    _dress(upper, what, "accuracy")
    _dress(lower, "", "samples")
    upper.set(xlim=(0, 1), ylim=(0, 1))
    lower.set_ylim(0, 1.2 * max((one["count"] for one in bins), default=1) or 1)
    for axis in (upper.xaxis, upper.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    lower.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    lower.set_xlabel("confidence: probability of the predicted class", color=_INK)
    return figure


def draw_scatter(outputs: Tensor, targets: Tensor, names: Sequence[str], title: str = "") -> Figure:
    """Return a figure of predictions against true values, a panel a number, with the line on which they agree.

    Args:
        outputs, targets: (N, D), in the unit of the targets. names: of the D numbers. title: what was evaluated.
    """
    from matplotlib.figure import Figure

    count = len(names)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(5.2 * columns, 5.2 * rows), dpi=_DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    faint = min(0.7, max(0.08, 150 / len(targets)))
    for axis, name, found, true in zip(axes, names, outputs.T.double(), targets.T.double()):
        sound = found.isfinite() & true.isfinite()
        found, true = found[sound], true[sound]
        axis.scatter(true.numpy(), found.numpy(), s=9, color=_BLUE, alpha=faint, linewidths=0)
        if len(true):
            ends = [float(true.min()), float(true.max())]
            axis.plot(ends, ends, color=_RED, linewidth=1.2, label="predicted = true")
            axis.legend(loc="upper left", frameon=False, fontsize=9)
        _dress(axis, f"{_cut(name, 30)}{f' ({title})' if title else ''}", "predicted")
        axis.title.set_position((0, 1))
        axis.grid(axis="x", color="#e4e4e4", linewidth=0.8)
        axis.set_xlabel("true", color=_INK)
    return figure


def draw_mistakes(mistakes: Sequence[Mapping[str, Any]], pictures: Sequence[Tensor], title: str = "") -> Figure:
    """Return a figure of wrongly classified pictures, each with its classes, probability, and file or sample.

    Args:
        mistakes: as `dlwp.inference.scores.worst` gives them, with "file".
        pictures: of each, as `as_picture` gives them.
        title: what was evaluated.
    """
    from matplotlib.figure import Figure

    rows = -(-len(mistakes) // _COLUMNS)
    figure = Figure(figsize=(2.4 * _COLUMNS, 3.0 * rows + 0.4), dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    which = f"worst mistakes{f' ({title})' if title else ''}"
    text = f"{which}: predicted in red, true in black, with probabilities"
    figure.suptitle(text, x=0.01, ha="left", fontsize=11, fontweight="bold", color=_INK)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis in axes[len(mistakes) :]:
        axis.set_axis_off()
    for axis, mistake, picture in zip(axes, mistakes, pictures):
        _draw_mistake(axis, mistake, picture)
    return figure


def _draw_mistake(axis: Axes, mistake: Mapping[str, Any], picture: Tensor) -> None:
    is_small = max(picture.shape[:2]) < _SMALL
    shown = picture.expand(-1, -1, 3).numpy()
    axis.imshow(shown, interpolation="nearest" if is_small else "antialiased")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color("#cccccc")
    said = (
        (20, _RED, f"{_cut(mistake['predicted'], 20)}: {_percent(mistake['probability'])}"),
        (6, _INK, f"is {_cut(mistake['true'], 22)}: {_percent(mistake['true_probability'])}"),
    )
    for height, colour, text in said:
        axis.annotate(
            text, (0, 1), (0, height), xycoords="axes fraction", textcoords="offset points", fontsize=9.5,
            color=colour, fontweight="bold" if colour == _RED else "normal", annotation_clip=False,
        )  # fmt: skip
    where = f"sample {mistake['sample']:,}" if mistake["file"] is None else _tail(mistake["file"], 30)
    axis.set_xlabel(where, fontsize=8, color=_FAINT, loc="left", labelpad=3)


def as_picture(inputs: Any) -> Tensor | None:
    """Return an input as a picture uint8 (H, W, 1 or 3), or None where it is none.

    Floats are taken as they are where they lie in [0, 1], else stretched from the smallest to the largest.

    Args:
        inputs: (C, H, W) with 1, 3 or 4 channels (the first three are shown), or (H, W); before normalisation.
    """
    if not isinstance(inputs, Tensor) or inputs.is_complex():
        return None
    inputs = inputs.detach().cpu()
    inputs = inputs.unsqueeze(0) if inputs.dim() == 2 else inputs
    if inputs.dim() != 3 or inputs.shape[0] not in (1, 3, 4) or min(inputs.shape) == 0:
        return None
    inputs = inputs[:3]
    if inputs.dtype != torch.uint8:
        values = inputs.double().nan_to_num()
        low, high = (float(bound) for bound in values.aminmax())
        if low < 0 or high > 1:
            values = (values - low) / ((high - low) or 1)
        inputs = (values * 255).round().to(torch.uint8)
    return inputs.permute(1, 2, 0).contiguous()  # (H, W, C)


def _dress(axis: Axes, title: str, quantity: str) -> None:
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK, pad=26 if title else 0)
    axis.set_ylabel(quantity, color=_INK)
    axis.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#b5b5b5")
    axis.tick_params(colors="#555555", labelsize=9)


def _short(count: int) -> str:
    return f"{count:,}" if count < 10_000 else f"{count / 1000:,.0f}k"


def _percent(share: float) -> str:
    return "<0.1%" if share < 0.0005 else f"{share:.1%}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _tail(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"
