"""Own what a table is in the order of time: its columns, its dates, what is uneven in them.

Knows nothing of windows or what is forecast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy

from dlwp.data import columns as meanings
from dlwp.data import delimited
from dlwp.data.delimited import Texts
from dlwp.errors import ConfigError, DataError, did_you_mean

_POLICIES = ("error", "previous")
_SHOWN = 6


@dataclass
class Ordered:
    """A table, its rows in the order of time.

    Attributes:
        path: of the file. count: rows N.
        numbers: name -> float64 (N,), NaN where a field is empty. texts: names of the other columns.
        time: the column of dates, or None. times: of each row, evenly spread over rows of one date.
        lines: of each row in the file. spacing_s: seconds from row to row, None where that is uneven or not known.
        notes, warnings: what a person is told.
    """

    path: str
    count: int
    numbers: dict[str, numpy.ndarray]
    texts: list[str]
    lines: numpy.ndarray
    time: str | None = None
    times: list[datetime] | None = None
    spacing_s: float | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def check(self, name: str, key: str) -> None:
        """Raise DataError where there is no number column of a name."""
        if name in self.texts:
            raise DataError(f"{self.path}: column '{name}' ({key}) holds text; numbers are needed")
        if name not in self.numbers:
            hint = did_you_mean(name, self.numbers)
            raise DataError(f"{self.path} has no column '{name}' ({key}).{hint} Columns: {', '.join(self.numbers)}")

    def filled(self, name: str, missing: str, count: int | None = None) -> numpy.ndarray:
        """Return the first `count` values of a column without gaps.

        Raises:
            DataError: one is empty, and `missing` is "error". ConfigError: `missing` is no policy.
        """
        if missing not in _POLICIES:
            raise ConfigError(f"data.missing cannot be {missing!r}. There are: {', '.join(_POLICIES)}")
        values = self.numbers[name][:count]
        gaps = numpy.isnan(values)
        if not gaps.any():
            return values
        if missing == "error" or gaps.all():
            line = int(self.lines[int(gaps.argmax())])
            more = f" ({int(gaps.sum()):,} rows are)" if gaps.sum() > 1 else ""
            raise DataError(f"{self.path}:{line}: column '{name}' is empty{more}. data.missing=previous")
        places = numpy.maximum.accumulate(numpy.where(gaps, -1, numpy.arange(len(values))))
        return values[numpy.where(places < 0, int((~gaps).argmax()), places)]

    def label(self, row: int) -> str:
        """Return when a row is, also one after the end; its number where that is not known."""
        if self.times is None or (row >= self.count and self.spacing_s is None):
            return f"row {row + 1:,}"
        ahead = max(0, row - self.count + 1)
        when = self.times[min(row, self.count - 1)] + timedelta(seconds=ahead * (self.spacing_s or 0))
        return when.isoformat(" ", "minutes") if (self.spacing_s or 0) % 86400 else when.date().isoformat()


def words_of(names: Sequence[str]) -> str:
    """Return names for a person, a long list shortened."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def read(path: str, time: str | None = "auto") -> Ordered:
    """Return the rows of a table in the order of time.

    Args:
        path: of the file, delimited text or Parquet.
        time: the column of dates; "auto": the first that holds such; None: the rows are in order.

    Raises:
        DataError: the file cannot be read as a table, or dates are none.
    """
    whole = delimited.read(path)
    columns = whole.columns
    numbers = {name: found for name, column in columns.items() if (found := _numbers(column)) is not None}
    texts = [name for name in columns if name not in numbers]
    first = 2 if whole.form.get("header", True) else 1
    table = Ordered(str(path), whole.num_rows, numbers, texts, numpy.arange(first, whole.num_rows + first))
    if time is not None:
        if time != "auto" and time not in columns:
            raise DataError(f"{path} has no column '{time}' (data.time).{did_you_mean(time, columns)}")
        for name in texts if time == "auto" else [time]:
            dates = _dates(columns[name])
            if dates is not None:
                _order(table, name, dates)
                break
            if time != "auto":
                raise DataError(f"{path}: column '{time}' (data.time) holds no dates such as 2012-12-31 or with 23:00")
    if table.time is None:
        table.notes.append(f"{table.count:,} rows of {path}, taken to be in order: there is no column of dates")
    return table


def _numbers(column: Texts) -> numpy.ndarray | None:
    """Return a column as numbers; None where a field is none."""
    values, wrong = meanings.numbers(column, meanings.MISSING)
    return None if wrong or numpy.isnan(values).all() else values[column.codes]


def _dates(column: Texts) -> list[datetime] | None:
    try:
        known = [datetime.fromisoformat(one) for one in column.values]
    except ValueError:
        return None
    return [known[code] for code in column.codes]


def _order(table: Ordered, name: str, dates: list[datetime]) -> None:
    """Sort a table by its dates, rows of one date as they stand, and find out how they are spaced."""
    order = numpy.array(sorted(range(len(dates)), key=dates.__getitem__))  # stable
    moved = bool((numpy.diff(order) < 0).any())
    table.numbers = {column: values[order] for column, values in table.numbers.items()}
    table.lines, table.time = table.lines[order], name
    seconds = numpy.array([(dates[row] - dates[order[0]]).total_seconds() for row in order])
    unique, counts = numpy.unique(seconds, return_counts=True)
    gaps = numpy.diff(unique)
    usual = float(numpy.median(gaps)) if len(gaps) else 0.0
    a_date = int(numpy.bincount(counts).argmax())
    table.spacing_s = usual / a_date if usual else None
    within = numpy.concatenate([numpy.arange(count) for count in counts])
    spread = within * numpy.repeat(numpy.minimum(usual / a_date, usual / counts), counts)
    if len(counts) > 1 and counts[0] < a_date:  # it begins within a date, as it may end within one
        spread[: counts[0]] += (a_date - counts[0]) * usual / a_date
    start = dates[order[0]]
    table.times = [start + timedelta(seconds=float(one)) for one in seconds + spread]
    several = f", {a_date} rows a date in their order" if a_date > 1 else ""
    span = f"{table.label(0)} to {table.label(table.count - 1)}"
    text = f"{table.count:,} rows of {table.path} by {name}: {span}, every {_length(table.spacing_s)}{several}"
    table.notes.append(text + (" (sorted)" if moved else ""))
    uneven, odd = int((gaps != usual).sum()), int((counts[1:-1] != a_date).sum())
    if uneven or odd:
        what = f"{odd:,} of {len(counts):,} dates have other than {a_date} rows"
        what = f"{uneven:,} of {len(gaps):,} steps from date to date differ" if uneven else what
        at = int((gaps != usual).argmax()) if uneven else 1 + int((counts[1:-1] != a_date).argmax())
        where = (start + timedelta(seconds=float(unique[at]))).isoformat(" ", "minutes")
        table.warnings.append(f"times are uneven: {what}, first at {where}; windows count rows, not hours")


def _length(seconds: float | None) -> str:
    """Return a time from row to row for a person."""
    if not seconds:
        return "row"
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size and seconds % size == 0:
            return name if seconds == size else f"{seconds / size:g} {name}s"
    return f"{seconds:g} seconds"
