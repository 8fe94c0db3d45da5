"""Own the code of a table's rows: what makes inputs of raw columns, measured on training rows, and kept as plain JSON.

Knows nothing of files, splits, or what an input is for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from dlwp.data import columns as meanings
from dlwp.data.delimited import Texts
from dlwp.errors import DataError


def fit(
    table: Mapping[str, Texts], kinds: Mapping[str, str], rows: numpy.ndarray, reading: Mapping[str, Any],
    standardize: bool, of: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Return the code of rows.

    An input has first the numbers, standardised by mean and deviation of the training rows that have one, 0 where it is
    missing; then a 0 or 1 for each column that is missing in some training row; then the number of each category,
    counted from 1 in the order of the texts, 0 where it is unknown or missing.

    Args:
        table: columns. kinds: of those that are inputs, in order. rows: int64, those to train on.
        reading: `missing` and `decimal`, by which texts are read. standardize: else numbers stay as they are.
        of: the file, for messages.

    Returns:
        Fit for JSON: "numbers", "indicators", "categories", and what was given.
    """
    code: dict[str, Any] = {"standardize": standardize, **reading, "numbers": [], "indicators": [], "categories": []}
    for name, kind in kinds.items():
        column = table[name].rows(rows)
        if kind == "category":
            present = numpy.unique(column.codes)
            found = {column.values[at] for at in present.tolist()} - set(code["missing"])
            code["categories"].append({"column": name, "values": ordered(found)})
            continue
        lacks = False
        for part, values in _numbers(name, column, kind, code, of).items():
            spread = values[column.codes]
            known = spread[numpy.isfinite(spread)]
            lacks |= len(known) < len(spread)
            if part is not None and len(known) and float(numpy.ptp(known)) == 0:
                continue  # dates of one year, or without a time
            entry: dict[str, Any] = {"column": name, "kind": kind, "part": part}
            if standardize:
                mean = float(known.mean()) if len(known) else 0.0
                std = float(known.std()) if len(known) else 1.0
                entry |= {"mean": mean, "std": std if std > 1e-12 * max(1.0, abs(mean)) else 1.0}
            code["numbers"].append(entry)
        if lacks and standardize:
            code["indicators"].append(name)
    return code


def ordered(values: set[str]) -> list[str]:
    """Return texts in order: by number where all are numbers, else by letters.

    >>> ordered({"10", "9"}), ordered({"b", "a"})
    (['9', '10'], ['a', 'b'])
    """
    try:
        return sorted(values, key=lambda text: (float(text), text))
    except ValueError:
        return sorted(values)


def names(code: Mapping[str, Any]) -> list[str]:
    """Return the name of each number of an input, in order."""
    numbers = [one["column"] + (f".{one['part']}" if one["part"] else "") for one in code["numbers"]]
    return [
        *numbers,
        *(f"{name}.missing" for name in code["indicators"]),
        *(one["column"] for one in code["categories"]),
    ]


def used(code: Mapping[str, Any]) -> list[str]:
    """Return the columns that an input is made of, each once."""
    return list(dict.fromkeys(one["column"] for one in (*code["numbers"], *code["categories"])))


def encode(
    table: Mapping[str, Texts], code: Mapping[str, Any], count: int, dtype: str = "float32", of: str = ""
) -> tuple[numpy.ndarray, dict[str, Counter[str]]]:
    """Return inputs (N, D + C) of raw columns, and by column the texts that are no known category, with their numbers.

    Args:
        table: columns, all that the code uses. code: from `fit`. count: rows N. of: the file, for messages.

    Raises:
        DataError: a text in a column of numbers or dates is neither one nor missing; or a value is missing and numbers
            are not standardised.
    """
    inputs = numpy.zeros((count, len(names(code))), dtype)
    place, lacking = 0, dict[str, numpy.ndarray]()
    for entry in code["numbers"]:
        column = table[entry["column"]]
        values = _numbers(entry["column"], column, entry["kind"], code, of)[entry["part"]]
        lacks = numpy.isnan(values)
        lacking[entry["column"]] = lacks[column.codes]
        if code["standardize"]:
            values = numpy.where(lacks, 0.0, (values - entry["mean"]) / entry["std"])
        elif lacking[entry["column"]].any():
            raise missing_at(entry["column"], int(lacking[entry["column"]].argmax()), of)
        inputs[:, place] = values[column.codes]
        place += 1
    for name in code["indicators"]:
        inputs[:, place] = lacking[name]
        place += 1
    unknown = {}
    for entry in code["categories"]:
        column = table[entry["column"]]
        places = {text: number for number, text in enumerate(entry["values"], 1)}
        numbers = numpy.array([places.get(text, 0) for text in column.values], dtype)
        inputs[:, place] = numbers[column.codes]
        strange = [at for at, text in enumerate(column.values) if text not in places and text not in code["missing"]]
        if strange:
            found = numpy.bincount(column.codes, minlength=len(column.values))
            unknown[entry["column"]] = Counter({column.values[at]: int(found[at]) for at in strange if found[at]})
        place += 1
    return inputs, {name: texts for name, texts in unknown.items() if texts}


def missing_at(name: str, row: int, of: str) -> DataError:
    """Return what to raise where a value is missing and nothing may stand for it."""
    return DataError(
        f"{of}: column '{name}' is missing in row {row + 1:,}. data.drop_missing=true leaves such rows out"
    )


def parsed(name: str, column: Texts, kind: str, reading: Mapping[str, Any], of: str = "") -> numpy.ndarray:
    """Return the different values of a column of numbers (float64) or dates (datetime64).

    Raises:
        DataError: a text that a row has is neither that nor missing.
    """
    if kind == "date":
        values, wrong = meanings.dates(column, reading["missing"])
    else:
        values, wrong = meanings.numbers(column, reading["missing"], reading["decimal"])
    if wrong and (at := numpy.isin(column.codes, wrong)).any():
        row = int(at.argmax())
        other = "ignore" if kind == "date" else "category"
        raise DataError(
            f"{of}: column '{name}' is '{column[row]}' in row {row + 1:,}, a {kind} is needed. "
            f"data.missing=['{column[row]}'] if that stands for a missing value, or data.types={{{name}: {other}}}"
        )
    return values


def _numbers(
    name: str, column: Texts, kind: str, reading: Mapping[str, Any], of: str = ""
) -> dict[str | None, numpy.ndarray]:
    values = parsed(name, column, kind, reading, of)
    if kind == "number":
        return {None: values}
    return dict(meanings.date_parts(values).items())


def described(code: Mapping[str, Any]) -> str:
    """Return the columns by kind in a few words: "6 numbers, 8 categories (102 values)"."""
    kinds = Counter({one["column"]: one["kind"] for one in code["numbers"]}.values())
    pieces = [f"{kinds[kind]} {kind}{'s' if kinds[kind] != 1 else ''}" for kind in ("number", "date") if kinds[kind]]
    if code["categories"]:
        total = sum(len(one["values"]) for one in code["categories"])
        one = len(code["categories"]) == 1
        pieces.append(f"{len(code['categories'])} categor{'y' if one else 'ies'} ({total:,} values)")
    return ", ".join(pieces)


def shown(value: float) -> str:
    """Return a number in a few digits.

    >>> shown(452600.0), shown(0.12345678)
    ('452600', '0.12346')
    """
    return f"{value:.0f}" if math.isfinite(value) and value == round(value) and abs(value) < 1e9 else f"{value:.5g}"


def sample_table(
    table: Mapping[str, Texts], code: Mapping[str, Any], inputs: numpy.ndarray, rows: Sequence[int]
) -> str:
    """Return a table in Markdown of these rows: each column as it stands in the file, and what became of it."""
    titles = names(code)
    head = ["input", "column", *(f"row {row + 1}" for row in rows)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    columns = [one["column"] for one in code["numbers"]] + list(code["indicators"])
    columns += [one["column"] for one in code["categories"]]
    for at, (title, column) in enumerate(zip(titles, columns, strict=True)):
        cells = [f"`{table[column][row]}` → {inputs[number, at]:.4g}" for number, row in enumerate(rows)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (title, column, *cells)) + " |")
    return "\n".join(lines)
