"""Own what `dlwp-predict` shows of the rows of a table: the rows with what is predicted behind them.

Knows nothing of how that is found: the predictor does it.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp.errors import ConfigError, MachineError

if TYPE_CHECKING:
    from dlwp.inference.rows import RowPredictor, RowsPredicted

_SHOWN = 20
_WIDTH = 18
_COLUMNS = 6


def predict(predictor: RowPredictor, own: dict[str, str], named: list[str]) -> int:
    """Predict the rows of a file and show them; return the exit status.

    Args:
        own: the command's keys. named: the words that are files.

    Raises:
        ConfigError: not one file is named, or a key is for pictures. DataError: the file does not fit.
        MachineError: the output cannot be written.
    """
    if len(named) != 1:
        raise ConfigError(
            f"{len(named)} files are given; one table is needed: dlwp-predict checkpoint=RUN new.csv output=out.csv"
        )
    for key, usual in (("plots", "false"), ("features", "")):
        if own[key] != usual:
            raise ConfigError(f"{key}={own[key]} is for pictures. Leave it out")
    found = predictor.predict(named[0])
    for note in found.notes:
        print(f"dlwp: warning: {note}", file=sys.stderr)
    form = own["format"]
    if form == "table" and own["output"]:
        form = "json" if own["output"].endswith(".json") else "csv"
    if form == "json":
        text = _as_json(predictor, found)
    else:
        text = _as_csv(found, predictor) if form == "csv" else _as_table(found, predictor, named[0])
    if not own["output"]:
        sys.stdout.write(text)
        return 0
    from dlwp.runs import files

    path = Path(own["output"]).expanduser()
    try:
        files.write_atomic(path, text)
    except OSError as error:
        raise MachineError(f"output: {files.fault(error, path)}") from None
    print(f"output   {path}: {len(found.rows):,} rows with {', '.join(_titles(found))}", file=sys.stderr)
    return 0


def _titles(found: RowsPredicted) -> list[str]:
    """Return names for what is predicted that no column has."""
    return [_free(f"predicted_{title}" if at == 0 or found.probabilities is None else title, found.table.columns)
            for at, title in enumerate(found.titles)]  # fmt: skip


def _free(name: str, taken: Any) -> str:
    while name in taken:
        name += "_"
    return name


def _as_csv(found: RowsPredicted, predictor: RowPredictor) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=found.table.form.get("delimiter", ","), lineterminator="\n")
    writer.writerow([*found.table.columns, *_titles(found)])
    columns = [[column.values[at] for at in column.codes.tolist()] for column in found.table.columns.values()]
    for *cells, row in zip(*columns, found.rows, strict=True):
        writer.writerow([*cells, *map(_shown, row)])
    return text.getvalue()


def _as_json(predictor: RowPredictor, found: RowsPredicted) -> str:
    """Return the predictions of each row: classes by probability, or numbers by target."""
    listed: list[dict[str, Any]] = []
    for number, row in enumerate(found.rows):
        if found.probabilities is None:
            predictions: Any = dict(zip(found.titles, row, strict=True))
        else:
            chances = found.probabilities[number]
            order = chances.argsort(descending=True, stable=True).tolist()
            predictions = [
                {"label": predictor.classes[at], "index": at, "probability": float(chances[at])} for at in order
            ]
        listed.append({"row": number, "predictions": predictions})
    return json.dumps(listed, indent=1, ensure_ascii=False) + "\n"


def _as_table(found: RowsPredicted, predictor: RowPredictor, path: str) -> str:
    """Return the first rows with what is predicted, and, where the file has the targets, which were right."""
    names = list(found.table.columns)
    kept = [name for name in names if name not in found.titles][:_COLUMNS]
    kept += [name for name in found.titles if name in names]
    rows = [["row", *kept, *_titles(found)]]
    for number, row in enumerate(found.rows[:_SHOWN]):
        rows.append([str(number + 1), *(found.table.columns[name][number] for name in kept), *map(_shown, row)])
    rows = [[cell if len(cell) <= _WIDTH else f"{cell[: _WIDTH - 1]}…" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
    more = len(found.rows) - _SHOWN
    if more > 0 or len(kept) < len(names):
        text = f"and {more:,} more rows; " if more > 0 else ""
        lines.append(f"{text}output=out.csv writes all rows and columns")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
