"""Own the table of any runs: best first, only the keys that differ, seeds of one setting as one line.

Knows nothing of how the runs were made; reads half-written ones as far as they go.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dlwp.runs import files, folder, plain
from dlwp.settings import GROUPS

_LARGEST = 2**20
_LONG = re.compile(r"^\d+\.\d{5,}(e-?\d+)?$")  # a number that a search drew
_REPLICATES = ("seed",)
_BESIDE = ("run_dir", "resume", "notes", "tags", "defaults", "device", "data.root", *_REPLICATES)
_SMALLER_IS_BETTER = ("loss", "error", "mae", "mse", "rmse", "perplexity")


def read_runs(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Return one row for each run in the folders, at any depth, oldest first.

    Returns:
        Rows with "run" (path), "exit", "step", "epoch", "monitor" ("val/accuracy"), "best", "best_step", "test" (name
        -> value), "elapsed_s", "samples_per_s", "error", "mode", "settings" (dotted key -> value), "targets" (group ->
        `_target_`), "typed" and "decided" (keys).
    """
    rows = [_read(run) for place in folders for run in folder.find_runs(Path(place))]
    typed: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for group, target in row["targets"].items():
            if group in row["typed"]:
                typed.setdefault((group, target), set()).add(row["settings"][group])
    for row in rows:  # in a replay no group is typed: what another run calls the same part is its name
        for group, target in row["targets"].items():
            if group not in row["typed"] and len(names := typed.get((group, target), set())) == 1:
                row["settings"][group] = next(iter(names))
    return rows


def _read(run: Path) -> dict[str, Any]:
    view = folder.RunFolder(run)
    summary, settings = view.read_summary(), _flat(_read_yaml(view.config))
    typed = dict(word.lstrip("+").split("=", 1) for word in _words(view) if "=" in word)
    targets: dict[str, str] = {}
    for group in GROUPS:
        target = settings.pop(f"{group}._target_", None)
        targets |= {} if target is None else {group: str(target)}
        if group in typed or target is not None:
            settings[group] = typed.get(group) or str(target).rpartition(".")[2]
    best: dict[str, Any] = summary.get("best") or {}
    monitor = next((name for name in best if name != "step"), None)
    exit = summary.get("exit", "unknown")
    if exit == "running" and view.holder() is None:
        exit = "killed"  # its process died without a word
    return {
        "run": str(run),
        "exit": exit,
        "step": summary.get("step"),
        "epoch": summary.get("epoch"),
        "monitor": monitor,
        "best": best.get(monitor) if monitor else None,
        "best_step": best.get("step"),
        "test": summary.get("test") or {},
        "elapsed_s": summary.get("elapsed_s"),
        "samples_per_s": summary.get("samples_per_s"),
        "error": summary.get("error"),
        "mode": settings.get("trainer.monitor_mode"),
        "settings": settings,
        "targets": targets,
        "typed": sorted(typed),
        "decided": sorted(_decided(view)),
    }


def _decided(view: folder.RunFolder) -> list[str]:
    """Return the keys that were `auto`, of environment.json; none where that is not there."""
    try:
        return list(json.loads(files.read_regular(view.environment, _LARGEST))["decided"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def differing(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the keys that tell the runs apart: what was typed, or differs in runs of the same parts."""
    rows = [row for row in rows if row["settings"]]
    typed = {key for row in rows for key in row["typed"]}
    keys = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    groups = {key for key in keys if key in GROUPS and _varies(rows, key)}

    def counts(key: str) -> bool:
        if key in _BESIDE or not _varies(rows, key):
            return False
        if key in typed or key in GROUPS:
            return True
        group = key.partition(".")[0]
        decided = any(key in row["decided"] for row in rows)  # an `auto`, which follows from the rest
        return not (decided or group in groups or not all(key in row["settings"] for row in rows))

    found = [key for key in keys if counts(key)]
    return sorted(found, key=lambda key: (GROUPS.index(key) if key in GROUPS else len(GROUPS), keys.index(key)))


def grouped(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return (columns, lines): a line for each setting, best first, mean and standard deviation over its seeds."""
    keys = differing(rows)
    monitor = _main_monitor(rows)
    tests = list(dict.fromkeys(name for row in rows for name in row["test"] if name != "step"))
    settings: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        unknown = "" if row["settings"] else row["run"]  # a run without a config is like no other
        settings.setdefault((unknown, *(_text(row["settings"].get(key)) for key in keys)), []).append(row)
    lines = []
    for (_, *values), members in settings.items():
        line: dict[str, Any] = dict(zip(keys, values))
        line["n"] = len(members)
        line["exit"] = "+".join(dict.fromkeys(str(row["exit"]) for row in members))
        if monitor:
            line[monitor] = _spread(row["best"] for row in members if row["monitor"] == monitor)
        for name in tests:
            line[f"test/{name}"] = _spread(row["test"].get(name) for row in members)
        line["time"] = _spread(row["elapsed_s"] for row in members)
        line["run"] = members[0]["run"] if len(members) == 1 else _best_member(members, monitor)["run"]
        line["error"] = next((row["error"] for row in members if row["error"]), "")
        lines.append(line)
    sign = _sign(rows, monitor)
    lines.sort(key=lambda line: -sign * line[monitor][0] if monitor and line[monitor] else math.inf)
    measured = ([monitor] if monitor else []) + [f"test/{name}" for name in _ordered(tests, monitor)]
    extra = ["n"] * any(line["n"] > 1 for line in lines)
    errors = ["error"] * any(line["error"] for line in lines)
    return [*keys, *extra, "exit", *measured, "time", "run", *errors], lines


def render(rows: Sequence[dict[str, Any]], width: int | None = None) -> str:
    """Return the table as text, no wider than `width` characters (None: as wide as it is)."""
    if not rows:
        return "no runs"
    columns, lines = grouped(rows)
    cells = [columns] + [[_shown(line, column) for column in columns] for line in lines]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    _shrink(widths, columns, width)
    numeric = [column == "n" or column == "time" or "/" in column for column in columns]
    text = []
    for row in cells:
        fitted = [_fit(cell, size, column == "run") for cell, size, column in zip(row, widths, columns)]
        padded = [cell.rjust(size) if right else cell.ljust(size) for cell, size, right in zip(fitted, widths, numeric)]
        text.append("  ".join(padded).rstrip())
    return "\n".join(text)


def write(place: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write `place`/table.csv and `place`/table.md."""
    files.write_atomic(place / "table.csv", csv_text(rows))
    files.write_atomic(place / "table.md", markdown(rows))


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table as CSV, each measured quantity with its mean and its standard deviation over seeds."""
    columns, lines = grouped(rows)
    spread = [column for column in columns if any(isinstance(line[column], tuple) for line in lines)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [[column, f"{column} sd"] if column in spread else [column] for column in columns]
    writer.writerow([name for pair in names for name in pair])
    for line in lines:
        cells: list[Any] = []
        for column in columns:
            cells += (line[column] or (None, None)) if column in spread else (line[column],)
        writer.writerow(["" if cell is None else cell for cell in cells])
    return buffer.getvalue()


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table as Markdown."""
    columns, lines = grouped(rows)
    table: list[list[str]] = [columns, ["---"] * len(columns)]
    table += [[_shown(line, column) for column in columns] for line in lines]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in table)


def _shown(line: dict[str, Any], column: str) -> str:
    value = line[column]
    if column == "time":
        return duration(value[0]) if value else ""
    if not isinstance(value, tuple):
        return "" if value is None else _LONG.sub(lambda found: f"{float(found[0]):.4g}", str(value).replace("\n", " "))
    return quantity(column, *value)


def quantity(name: str, mean: float, deviation: float | None = None) -> str:
    """Return a measured value as a person reads it: an accuracy in per cent, else four digits.

    >>> quantity("val/accuracy", 0.9512, 0.004)
    '95.1% ± 0.4'
    """
    leaf = name.rpartition("/")[2]
    if leaf.endswith("accuracy") or leaf.startswith("top"):
        return f"{mean:.1%}" if deviation is None else f"{mean:.1%} ± {deviation * 100:.1f}"
    return f"{mean:.4g}" if deviation is None else f"{mean:.4g} ± {deviation:.2g}"


def _spread(values: Iterable[Any]) -> tuple[float, float | None] | None:
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if not numbers:
        return None
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None


def duration(seconds: float) -> str:
    """Return seconds as 0:07, 1:05 or 2:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _shrink(widths: list[int], columns: Sequence[str], width: int | None) -> None:
    """Take from the widest column of text until the table fits; numbers keep their width."""
    if width is None:
        return
    free = [index for index, column in enumerate(columns) if column not in ("n", "time") and "/" not in column]
    while free and sum(widths) + 2 * (len(widths) - 1) > width:
        widest = max(free, key=lambda index: widths[index])
        if widths[widest] <= 6:
            return
        widths[widest] -= 1


def _fit(cell: str, size: int, keep_end: bool) -> str:
    if len(cell) <= size:
        return cell
    return "…" + cell[-(size - 1) :] if keep_end else cell[: size - 1] + "…"


def _main_monitor(rows: Sequence[dict[str, Any]]) -> str | None:
    monitors = [row["monitor"] for row in rows if row["monitor"]]
    return statistics.mode(monitors) if monitors else None


def _sign(rows: Sequence[dict[str, Any]], monitor: str | None) -> int:
    for row in rows:
        if row["monitor"] == monitor and row["mode"] in ("min", "max"):
            return 1 if row["mode"] == "max" else -1
    leaf = (monitor or "").rpartition("/")[2].lower()
    return -1 if leaf.endswith(_SMALLER_IS_BETTER) else 1


def _best_member(members: Sequence[dict[str, Any]], monitor: str | None) -> dict[str, Any]:
    sign = _sign(members, monitor)
    return max(members, key=lambda row: sign * row["best"] if isinstance(row["best"], int | float) else -math.inf)


def _ordered(tests: Sequence[str], monitor: str | None) -> list[str]:
    leaf = (monitor or "").rpartition("/")[2]
    return sorted(tests, key=lambda name: (name != leaf, name == "loss"))


def _varies(rows: Sequence[dict[str, Any]], key: str) -> bool:
    return len({_text(row["settings"].get(key)) for row in rows}) > 1


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    if isinstance(nested, dict):
        for key, value in nested.items():
            inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
            flat |= inner
    return flat


def _words(view: folder.RunFolder) -> list[str]:
    words = _read_yaml(view.overrides)
    return [str(word) for word in words] if isinstance(words, list) else []


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        return plain.values_of(plain.text_of(path))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
