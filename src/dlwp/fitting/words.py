"""Own what a person reads of a fit: values with their errors, and how far they can be trusted.

Knows nothing of files or of how it was computed: it gets the record that fit.json holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_STRONG = 0.95
_ILL = 1e8


def lines_of(record: Mapping[str, Any]) -> list[str]:
    """Return the lines that tell of a fit."""
    how = f"converged ({record['ended_by']})" if record["converged"] else str(record["ended_by"])
    first = [f"{how} after {record['iterations']:,} iterations", f"{record['residuals']:,} residuals"]
    first.append(f"{record['degrees_of_freedom']:,} degrees of freedom")
    if record["loss"] != "linear":
        first.append(f"loss {record['loss']}")
    return [" · ".join(first), *_parameters(record), *_goodness(record), *_warnings(record)]


def _parameters(record: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, one in record["parameters"].items():
        value, error, ends = one["value"], one["standard_error"], one["interval"]
        shown, spread = rounded(value, error)
        interval = ""
        if one.get("refused"):
            spread = f"no error: {one['refused']}"
        elif ends is not None:
            kind = "" if record["interval"] == "standard" else f" ({record['interval']})"
            interval = f"95% {_end(ends[0], error, '-')} to {_end(ends[1], error, '')}{kind}"
        rows.append((name, shown, spread, interval))
    for kind in ("fixed", "tied"):
        rows += [(name, f"{value:.8g}", kind, "") for name, value in record[kind].items()]
    widths = [max((len(row[column]) for row in rows if row[3] or column < 2), default=0) for column in range(3)]
    return [
        f"{name:<{widths[0]}}  {shown:>{widths[1]}}  {spread:<{widths[2]}}  {interval}".rstrip()
        for name, shown, spread, interval in rows
    ]


def _end(value: float | None, error: float | None, sign: str) -> str:
    return f"{sign}∞" if value is None else rounded(value, error)[0]


def rounded(value: float, error: float | None) -> tuple[str, str]:
    """Return a value and "± error", both to the digits that the error leaves certain: two of it.

    >>> rounded(238.94212918, 2.7070075)
    ('238.9', '± 2.7')
    """
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.8g}", ""
    places = 1 - math.floor(math.log10(float(f"{error:.1e}")))
    size = max(abs(value), error)
    if 1e-4 <= size < 1e7 and places >= 0:
        return f"{value:.{places}f}", f"± {error:.{places}f}"
    power = math.floor(math.log10(size))
    digits = max(0, places + power)
    return f"{value / 10**power:.{digits}f}e{power}", f"± {error / 10**power:.{digits}f}e{power}"


def _goodness(record: Mapping[str, Any]) -> list[str]:
    pieces = []
    for key, word in (
        ("residual_standard_deviation", "residual standard deviation"), ("r2", "R2"),
        ("reduced_chi_square", "reduced chi-square"), ("aic", "AIC"), ("bic", "BIC"),
    ):  # fmt: skip
        if record[key] is not None:
            pieces.append(f"{word} {record[key]:.6g}")
    return [" · ".join(pieces)] if pieces else []


def _warnings(record: Mapping[str, Any]) -> list[str]:
    names = list(record["parameters"])
    matrix = record["correlations"]
    strong = [
        (abs(value), f"{names[row]} with {names[column]} {value:.4f}")
        for row in range(len(names))
        for column in range(row)
        if (value := matrix[row][column]) is not None and abs(value) > _STRONG
    ]
    lines = []
    if strong:
        shown = [text for _, text in sorted(strong, reverse=True)[:3]]
        more = f" and {len(strong) - 3} more" if len(strong) > 3 else ""
        lines.append(f"strongly correlated: {', '.join(shown)}{more}")
    if record["condition"] is not None and record["condition"] > _ILL:
        lines.append(f"ill-conditioned ({record['condition']:.1e}): errors hold as far as the formula is right to that")
    return lines
