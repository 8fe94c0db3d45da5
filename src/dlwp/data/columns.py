"""Own what a column of text means: number, date, category or nothing to learn from, and its values as such.

Knows nothing of files, splits, or how values become inputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy

from dlwp.data.delimited import Texts
from dlwp.errors import ConfigError, did_you_mean

KINDS = ("number", "category", "date", "ignore")
MISSING = ("", "?", "NA", "N/A", "n/a", "#N/A", "nan", "NaN", "NULL", "null", "None")
"""Texts that stand for a missing value."""

_DATE_FORMATS = ("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y")
_TIMES = ("", " %H:%M", " %H:%M:%S")
_FEW = 20
"""Different texts that a column may always have to be a category; else a tenth of the rows."""
_TRIED = 100
DATE_PARTS = ("days", "year_sin", "year_cos", "weekday", "hour_sin", "hour_cos")
"""What a date becomes: days since 1970, the place in the year and in the day on a circle, weekday (Monday is 0)."""


def numbers(column: Texts, missing: Collection[str], decimal: str = ".") -> tuple[numpy.ndarray, list[int]]:
    """Return the different values of a column as numbers, float64, NaN where missing; and which are neither.

    >>> numbers(Texts(["1", "?", "x"], numpy.zeros(1, int)), ["?"])
    (array([ 1., nan, nan]), [2])
    """
    key = ("numbers", decimal, *missing)
    if key in column.meant:
        return column.meant[key]
    found, wrong = numpy.full(len(column.values), numpy.nan), list[int]()
    for at, text in enumerate(column.values):
        if text in missing:
            continue
        try:
            value = float(text.replace(",", ".") if decimal == "," else text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and "_" not in text:  # Python reads 1_000 as a number
            found[at] = value
        else:
            wrong.append(at)
    column.meant[key] = found, wrong
    return found, wrong


def dates(column: Texts, missing: Collection[str]) -> tuple[numpy.ndarray, list[int]]:
    """Return the different values of a column as datetime64[s], NaT where missing; and which are neither.

    Read are ISO 8601 (a zone is turned into UTC), 31.12.2011, 12/31/2011 and 31/12/2011, each with or without a time:
    the first of these by which all can be read, else the one by which most can.
    """
    key = ("dates", *missing)
    if key in column.meant:
        return column.meant[key]
    present = [at for at, text in enumerate(column.values) if text not in missing]
    best: tuple[numpy.ndarray, list[int]] = numpy.full(len(column.values), "NaT", "datetime64[s]"), present
    empty = best[0]
    for form in (None, *(date + time for date in _DATE_FORMATS for time in _TIMES)):
        if present and all(_date(column.values[at], form) is None for at in present[:_TRIED]):
            continue
        read = {at: _date(column.values[at], form) for at in present}
        wrong = [at for at, value in read.items() if value is None]
        if len(wrong) < len(best[1]):
            found = empty.copy()
            for at, value in read.items():
                found[at] = numpy.datetime64("NaT") if value is None else value
            best = found, wrong
        if not best[1]:
            break
    column.meant[key] = best
    return best


def _date(text: str, form: str | None) -> datetime | None:
    try:
        value = datetime.fromisoformat(text) if form is None else datetime.strptime(text, form)
    except ValueError:
        return None
    return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


def date_parts(moments: numpy.ndarray) -> dict[str, numpy.ndarray]:
    """Return what dates, datetime64[s] of any shape, become: float64, NaN where there is none."""
    there = ~numpy.isnat(moments)
    whole = numpy.where(there, moments, numpy.datetime64(0, "s"))
    days = whole.astype("int64") / 86_400
    year = whole.astype("datetime64[Y]")
    begin, end = (one.astype("datetime64[s]").astype("int64") / 86_400 for one in (year, year + 1))
    in_year, in_day = 2 * math.pi * (days - begin) / (end - begin), 2 * math.pi * (days % 1)
    parts = (
        days, numpy.sin(in_year), numpy.cos(in_year), (numpy.floor(days) + 3) % 7, numpy.sin(in_day), numpy.cos(in_day)
    )  # fmt: skip
    return {name: numpy.where(there, part, numpy.nan) for name, part in zip(DATE_PARTS, parts)}


def guess(column: Texts, missing: Collection[str], decimal: str = ".") -> tuple[str, str]:
    """Return what a column is, and why where that is nothing to learn from."""
    present = [text for text in column.values if text not in missing]
    if not present:
        return "ignore", "empty"
    if len(column.values) == 1:
        return "ignore", f"always '{present[0]}'"
    if not numbers(column, missing, decimal)[1]:
        return "number", ""
    if not dates(column, missing)[1]:
        return "date", ""
    counts = numpy.bincount(column.codes, minlength=len(column.values))
    rows = int(sum(counts[at] for at, text in enumerate(column.values) if text not in missing))
    if 2 * len(present) <= rows and len(present) <= max(_FEW, len(column.codes) // 10):
        return "category", ""
    return "ignore", f"text, {len(present):,} different in {rows:,} rows"


def is_count(column: Texts, missing: Collection[str], decimal: str = ".") -> bool:
    """Return whether a column of numbers only counts its rows: whole numbers, all different, without a gap."""
    if len(column.values) != len(column.codes) or len(column.codes) < _FEW:
        return False
    values, _ = numbers(column, missing, decimal)
    return bool(numpy.isfinite(values).all()) and is_whole(values) and numpy.ptp(values) + 1 == len(values)


def is_whole(values: numpy.ndarray) -> bool:
    """Return whether all numbers but NaN are whole."""
    values = values[numpy.isfinite(values)]
    return bool((values == numpy.floor(values)).all())


def guess_decimal(columns: Mapping[str, Texts], missing: Collection[str], delimiter: str | None) -> str:
    """Return the decimal sign: a comma where some column has numbers by that alone and it is not the delimiter."""
    if delimiter in (",", None):
        return "."
    with_comma = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
    for column in columns.values():
        few = [text for text in column.values[:_TRIED] if text not in missing]
        if any(with_comma.fullmatch(text) for text in few) and not numbers(column, missing, ",")[1]:
            return ","
    return "."


def check_kinds(types: Mapping[str, Any], names: Sequence[str], path: str) -> dict[str, str]:
    """Return `data.types` as texts.

    Raises:
        ConfigError: it names no column, or no kind of column.
    """
    for name, kind in types.items():
        if str(name) not in names:
            raise ConfigError(f"data.types: {path} has no column '{name}'.{did_you_mean(str(name), names)}")
        if kind not in KINDS:
            raise ConfigError(
                f"data.types.{name}={kind}: there are {', '.join(KINDS)}.{did_you_mean(str(kind), KINDS)}"
            )
    return {str(name): str(kind) for name, kind in types.items()}
