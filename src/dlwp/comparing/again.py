"""Own what a run says that was done again: what changed since the first, and the first line where they differ.

Knows nothing of how a run is trained; reads both folders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlwp.runs import files, history

_OF_THE_CLOCK = ("time", "samples_per_s")
_MACHINE = ("device", "threads", "processor", "cpu_capability", "platform", "python")
_LARGEST = 2**24


@dataclass(frozen=True)
class FirstDifference:
    """Where two runs part.

    Attributes:
        line: of metrics.jsonl, from 1. step, split: of the first run's line.
        values: name -> (of the first run, of the second), the loss first; what is missing is None.
    """

    line: int
    step: Any
    split: Any
    values: dict[str, tuple[Any, Any]]


def first_difference(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> tuple[int, FirstDifference | None]:
    """Return how many lines are equal bit for bit, and the first that is not; a run that is shorter differs in nothing.

    Args:
        before, now: lines of metrics.jsonl. What the clock says is not compared.
    """
    for number, (one, other) in enumerate(zip(before, now), 1):
        if values := differing(one, other):
            return number - 1, FirstDifference(number, one.get("step"), one.get("split"), values)
    return min(len(before), len(now)), None


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs in two lines, name -> (before, now), the loss first."""
    names = [name for name in dict.fromkeys([*before, *now]) if name not in _OF_THE_CLOCK]
    names.sort(key=lambda name: name != "loss")
    return {
        name: (before.get(name), now.get(name))
        for name in names
        if json.dumps(before.get(name)) != json.dumps(now.get(name))
    }


def environment_of(run: Path) -> dict[str, Any]:
    """Return what environment.json of a run holds, {} where it cannot be read."""
    try:
        found = json.loads(files.read_regular(run / "environment.json", _LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return what changed between two runs: "code", "packages", "machine", "data", each a list of "NAME A → B".

    Args:
        before, now: of environment.json. What one of them does not hold is not compared, but for the data is told.
    """
    was, is_now = _section(before, "packages"), _section(now, "packages")
    moved = before.get("device") != now.get("device")  # which tells the threads of a processor
    found = {
        "code": [*_code(before.get("git"), now.get("git")), *_moved(was, is_now, ["dlwp"])],
        "packages": _moved(was, is_now, [name for name in dict.fromkeys([*was, *is_now]) if name != "dlwp"], True),
        "machine": [
            *_moved(before, now, [one for one in _MACHINE if not (moved and one == "threads")]),
            *_variables(before, now),
        ],
        "data": _data(_section(before, "data"), _section(now, "data")),
    }
    return {kind: lines for kind, lines in found.items() if lines}


def unknown(before: Mapping[str, Any]) -> list[str]:
    """Return what the first run did not record, so that a change of it would not be seen."""
    lacking = [] if before.get("git") else ["the code's commit (it ran outside of a git repository)"]
    if isinstance(git := before.get("git"), dict) and git.get("clean") is False:
        lacking.append("the code as it was (its tree had changes that were not committed)")
    lacking += [] if _section(before, "data") else ["the data's fingerprint"]
    return lacking if before else ["where it ran (no environment.json)"]


def report(before: Path, now: Path) -> tuple[list[str], bool]:
    """Return the lines that tell of two runs, and whether they are equal in all lines that the first recorded.

    Args:
        before: the run. now: the one that did it again.
    """
    old, new = environment_of(before), environment_of(now)
    lines = [f"{'rerun':<8} {now} is {before} again"]
    changed = changes(old, new)
    for kind, found in changed.items():
        lines += [f"{'changed' if kind == next(iter(changed)) else '':<8} {kind}: {', '.join(found)}"]
    if not changed:
        lines.append(f"{'changed':<8} nothing of what both recorded (code, packages, machine, data)")
    if lacking := unknown(old):
        lines.append(f"{'unknown':<8} {', '.join(lacking)}")
    records, again = (history.read(run / "metrics.jsonl") for run in (before, now))
    equal, first = first_difference(records, again)
    if first is not None:
        shown = ", ".join(f"{name} {_value(a)} → {_value(b)}" for name, (a, b) in list(first.values.items())[:3])
        after = (
            f"{equal:,} line{' before it is' if equal == 1 else 's before it are'} equal"
            if equal
            else "no line before it"
        )
        lines.append(f"{'differs':<8} first at step {_value(first.step)} ({first.split}): {shown}; {after}")
    elif equal == len(records):
        more = f" ({len(again) - equal:,} more than it had recorded)" if len(again) > equal else ""
        lines.append(f"{'equal':<8} in all {equal:,} recorded lines, bit for bit{more}")
    else:
        lines.append(
            f"{'equal':<8} in {equal:,} of {len(records):,} recorded lines, bit for bit; the others are lacking"
        )
    return lines, first is None and equal == len(records)


def _section(environment: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = environment.get(name)
    return found if isinstance(found, dict) else {}


def _code(before: Any, now: Any) -> list[str]:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return []
    found = []
    if before.get("commit") != now.get("commit"):
        found.append(f"git commit {str(before.get('commit'))[:10]} → {str(now.get('commit'))[:10]}")
    if now.get("clean") is False:
        found.append("the tree has changes that are not committed")
    return found


def _moved(
    before: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str], with_lacking: bool = False
) -> list[str]:
    """Return what has another value; what stands on one side alone only where that is asked for."""
    return [
        f"{name if name.isupper() else name.replace('_', ' ')} {_word(before.get(name))} → {_word(now.get(name))}"
        for name in names
        if before.get(name) != now.get(name) and before and (with_lacking or (name in before and name in now))
    ]


def _variables(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    was, is_now = _section(before, "variables"), _section(now, "variables")
    names = [name for name in dict.fromkeys([*was, *is_now]) if name.endswith("_THREADS")]
    return _moved(was or {"": None}, is_now, names, True)


def _data(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found = []
    for split in dict.fromkeys([*before, *now]) if before else ():
        sides = [_section(some, split) for some in (before, now)]
        if sides[0] != sides[1]:
            counts = [f"{side['samples']:,} samples" if side.get("samples") else "none" for side in sides]
            what = f"{counts[0]} → {counts[1]}" if counts[0] != counts[1] else f"{counts[0]}, not the same"
            found.append(f"{split} {what}")
    return found


def _word(value: Any) -> str:
    return "none" if value is None else str(value)


def _value(value: Any) -> str:
    """Return a number with all its digits."""
    return f"{value:,}" if isinstance(value, int) else "nothing" if value is None else repr(value)
