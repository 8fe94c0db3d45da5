"""Own the sheet of pictures with what was found in each.

Knows nothing of how it was found.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp.inference.sources import name_of
from dlwp.runs import files

if TYPE_CHECKING:
    from dlwp.inference.predictor import Predicted

MOST = 60
"""Pictures on a sheet."""
_COLUMNS, _SIDE = 4, 2.4  # inches
_SHOWN = 3


def draw(found: Sequence[Predicted], file: Path) -> None:
    """Draw the first pictures, each with the likeliest classes below it, to a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [one for one in found if one.picture is not None][:MOST]
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(columns * _SIDE, rows * (_SIDE + 0.75)), layout="constrained", dpi=110)
    figure.get_layout_engine().set(h_pad=0.1, hspace=0.04)  # type: ignore[call-arg, union-attr]
    FigureCanvasAgg(figure)
    for number, one in enumerate(shown, 1):
        assert one.picture is not None
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(one.picture.permute(1, 2, 0).numpy(), interpolation="nearest")  # (3, H, W) to (H, W, 3)
        axes.set_axis_off()
        axes.set_title(_cut(Path(name_of(one.source)).name, 30), fontsize=8, color="0.35")
        lines = [f"{_cut(best.label, 24)}  {best.probability:.1%}" for best in one.predictions[:_SHOWN]]
        place: dict[str, Any] = {"ha": "center", "va": "top", "transform": axes.transAxes}
        axes.text(0.5, -0.03, lines[0] if lines else "–", weight="bold", fontsize=9, **place)
        axes.text(0.5, -0.14, "\n".join(lines[1:]) or " ", color="0.35", fontsize=8, **place)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    files.write_atomic(file, buffer.getvalue())


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
