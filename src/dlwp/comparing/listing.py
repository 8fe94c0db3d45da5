"""Own a comparison as text: the table of a terminal, JSON and CSV.

Knows nothing of how it was found.
"""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from dlwp.comparing import verdict
from dlwp.comparing.groups import Groups, Setting
from dlwp.comparing.verdict import Pair, Scale

_INDENT = 9


def text(groups: Groups, pairs: Sequence[Pair], scale: Scale, width: int | None = None) -> list[str]:
    """Return the lines for a terminal of `width` characters (None: as wide as they are)."""
    count = sum(len(setting.trials) for setting in groups.settings)
    settings = f"{len(groups.settings)} setting{'' if len(groups.settings) == 1 else 's'}"
    of = f" on {groups.num_samples:,} samples" if groups.num_samples else ""
    lines = _labelled("compared", f"{groups.metric}{of}: {settings}, {count} run{'' if count == 1 else 's'}", width)
    lines += _labelled("verdict", verdict.headline(groups, pairs, scale), width)
    for sentence in verdict.sentences(groups, pairs, scale):
        lines += _labelled("", sentence, width, "- ")
    lines += ["", *table(groups, pairs, scale, width), ""]
    if groups.keys:
        lines += _labelled("differs", ", ".join(groups.keys), width)
    for name, values in groups.beside.items():
        lines += _labelled("also" if name == next(iter(groups.beside)) else "", f"{name}: {', '.join(values)}", width)
    for note in groups.notes:
        lines += _labelled("note", note, width)
    for run, why in groups.left_out.items():
        lines += _labelled("left out", f"{run}: {why}", width)
    return lines


def table(groups: Groups, pairs: Sequence[Pair], scale: Scale, width: int | None = None) -> list[str]:
    """Return the table, a line a setting; the name of a setting is cut where the whole would be wider than `width`."""
    rows = cells(groups, pairs, scale)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    if width is not None:
        others = sum(widths[1:]) + 2 * (len(widths) - 1)
        widths[0] = max(min(widths[0], width - others), 8)
    lines = []
    for row in rows:
        name = row[0] if len(row[0]) <= widths[0] else row[0][: widths[0] - 1] + "…"
        padded = [name.ljust(widths[0]), *(cell.rjust(size) for cell, size in zip(row[1:], widths[1:]))]
        lines.append("  ".join(padded).rstrip())
    return lines


def cells(groups: Groups, pairs: Sequence[Pair], scale: Scale) -> list[list[str]]:
    """Return the table's texts, the head first; a column that is empty is left out."""
    several = any(pair.comparisons > 1 for pair in pairs)
    head = ["setting", "seeds", groups.metric, "± sd", "difference", "95% interval", "p (Holm)" if several else "p"]
    rows = [head, *(_row(setting, pair, scale, bool(pairs)) for setting, pair in _with_pairs(groups, pairs))]
    used = [column for column in range(len(head)) if any(row[column] for row in rows[1:])]
    return [[row[column] for column in used] for row in rows]


def as_json(groups: Groups, pairs: Sequence[Pair], scale: Scale) -> str:
    """Return the comparison for machines; what is not known is null."""
    found = {
        "metric": groups.metric,
        "better": "higher" if groups.higher else "lower",
        "samples": groups.num_samples,
        "verdict": verdict.headline(groups, pairs, scale),
        "settings": [_setting(setting) for setting in groups.settings],
        "comparisons": [_comparison(groups, pair, scale) for pair in pairs],
        "also_differs": groups.beside,
        "notes": groups.notes,
        "left_out": [{"run": run, "reason": why} for run, why in groups.left_out.items()],
    }
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def as_csv(groups: Groups, pairs: Sequence[Pair]) -> str:
    """Return a line a setting: its keys, its result, and its difference from the first."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    beside = ["difference", "low", "high", "p", "p_holm", "paired", "shown"]
    writer.writerow(["setting", *groups.keys, "seeds", groups.metric, "sd", *beside])
    for setting, pair in _with_pairs(groups, pairs):
        line: list[Any] = [setting.name, *(setting.keys.get(key) for key in groups.keys)]
        line += [len(setting.trials), setting.mean, setting.deviation]
        if pair is not None:
            one = pair.difference
            numbers = [one.value, *map(_finite, (one.low, one.high, one.p if one.known else math.nan))]
            line += [*numbers, pair.p if one.known else None, one.paired, pair.shown]
        line += [None] * (len(groups.keys) + 4 + len(beside) - len(line))
        writer.writerow(
            ["" if cell is None else str(cell).lower() if isinstance(cell, bool) else cell for cell in line]
        )
    return buffer.getvalue()


def _with_pairs(groups: Groups, pairs: Sequence[Pair]) -> list[tuple[Setting, Pair | None]]:
    return list(zip(groups.settings, [None, *pairs]))


def _row(setting: Setting, pair: Pair | None, scale: Scale, several: bool) -> list[str]:
    spread = "" if setting.deviation is None else scale.size(setting.deviation)
    line = [setting.name, str(len(setting.trials)), scale.value(setting.mean), spread]
    if pair is None:
        return [*line, "baseline" if several else "", "", ""]
    one = pair.difference
    if not one.known:
        return [*line, scale.signed(one.value), "unknown", ""]
    return [
        *line,
        scale.signed(one.value),
        f"{scale.signed(one.low)} to {scale.signed(one.high)}",
        verdict.p_text(pair.p),
    ]


def _setting(setting: Setting) -> dict[str, Any]:
    return {
        "name": setting.name,
        "keys": setting.keys,
        "n": len(setting.trials),
        "mean": setting.mean,
        "sd": setting.deviation,
        "runs": [{"run": one.run, "seed": one.seed, "value": one.value} for one in setting.trials],
    }


def _comparison(groups: Groups, pair: Pair, scale: Scale) -> dict[str, Any]:
    one = pair.difference
    return {
        "baseline": pair.baseline.name,
        "setting": pair.other.name,
        "difference": one.value,
        "low": _finite(one.low),
        "high": _finite(one.high),
        "p": one.p if one.known else None,
        "p_holm": pair.p if one.known else None,
        "method": None if not one.known else "paired" if one.paired else "welch",
        "n": list(one.n),
        "shown": pair.shown,
        "verdict": verdict.sentence(groups, pair, scale),
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _labelled(name: str, sentence: str, width: int | None, mark: str = "") -> list[str]:
    """Return a sentence beside its label, broken at `width`."""
    first, rest = f"{name:<8} {mark}", " " * (_INDENT + len(mark))
    if width is None:
        return [first + sentence]
    return textwrap.wrap(sentence, max(width, 40), initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
