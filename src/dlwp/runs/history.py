"""Own how measured quantities are read and written as lines of JSON: metrics.jsonl, the one truth about a run.

Knows nothing of what is measured.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dlwp.runs import files


def line(record: dict[str, Any]) -> str:
    """Return a record as one line of valid JSON; numbers that are not finite become null.

    >>> line({"step": 1, "loss": float("nan")})
    '{"step": 1, "loss": null}'
    """
    return json.dumps(finite(record), allow_nan=False)


def finite(value: Any) -> Any:
    """Return plain containers with None for each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of JSON lines; a torn last line is ignored, a file that is not there is empty."""
    try:
        data = files.read_regular(path, sys.maxsize)
    except OSError:
        return []
    records = []
    for text in data[: data.rfind(b"\n") + 1].splitlines():
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def series(records: Iterable[dict[str, Any]], split: str, name: str) -> tuple[list[int], list[float]]:
    """Return (steps, values) of one quantity of one split, without those that were not finite."""
    pairs = [
        (record["step"], record[name])
        for record in records
        if record.get("split") == split and isinstance(record.get(name), int | float) and "step" in record
    ]
    return [step for step, _ in pairs], [value for _, value in pairs]
