"""`dlwp-predict checkpoint=RUN table.csv`: forecast the rows after the end of a table.

Knows nothing of how that is found.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlwp.errors import ConfigError

if TYPE_CHECKING:
    from dlwp.inference.series import Forecast, SeriesPredictor


def predict(predictor: SeriesPredictor, own: dict[str, str], named: Sequence[str]) -> int:
    """Print the forecast, or write it; return the exit status.

    Raises:
        ConfigError: not one table is named. DataError: the table does not fit the run.
    """
    if len(named) != 1:
        given = f"{len(named)} are given" if named else "none is given"
        raise ConfigError(
            f"this run forecasts the rows after one table, {given}. dlwp-predict checkpoint=RUN table.csv"
        )
    found = predictor(named[0])
    text = _SHOWN[own["format"]](found, named[0])
    from dlwp.runs import files

    if own["output"]:
        files.write_atomic(Path(own["output"]).expanduser(), text)
    else:
        sys.stdout.write(text)
    if own["plots"] != "false":
        from dlwp.inference import forecasts
        from dlwp.observers.plots import png

        path = "forecast.png" if own["plots"] == "true" else own["plots"]
        files.write_atomic(Path(path).expanduser(), png(forecasts.draw_ahead(found)))
        print(f"plots    {path}", file=sys.stderr)
    return 0


def _table(found: Forecast, name: str) -> str:
    cells = [["after the end", *found.targets], *_rows(found, "{:.4g}")]
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    return "".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + "\n" for row in cells)


def _csv(found: Forecast, name: str) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["time", *found.targets], *_rows(found, "{:.6g}")])
    return text.getvalue()


def _json(found: Forecast, name: str) -> str:
    listed = [
        {"time": time, **dict(zip(found.targets, map(float, values), strict=True))}
        for time, values in zip(found.times, found.values, strict=True)
    ]
    return json.dumps([{"file": name, "forecast": listed}], indent=1, ensure_ascii=False) + "\n"


def _rows(found: Forecast, form: str) -> list[list[str]]:
    return [
        [time, *(form.format(one) for one in values)] for time, values in zip(found.times, found.values, strict=True)
    ]


_SHOWN = {"table": _table, "csv": _csv, "json": _json}
