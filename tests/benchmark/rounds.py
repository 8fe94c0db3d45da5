"""Own how two sides are compared: in turn, each in a process of its own, so many rounds, ratios with their spread."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """What came of the rounds of two sides.

    Args:
        figures: by side, one a round, in order.
    """

    figures: Mapping[str, Sequence[float]]

    def ratio(self, side: str, to: str) -> tuple[float, float, float]:
        """Return median, least and greatest of the ratios side / to, one a round."""
        found = [one / other for one, other in zip(self.figures[side], self.figures[to], strict=True)]
        return statistics.median(found), min(found), max(found)

    def median(self, side: str) -> float:
        """Return the median figure of a side."""
        return statistics.median(self.figures[side])


@dataclass(frozen=True)
class Claim:
    """One line of the table: what is measured, what came out, and whether it is within its bound.

    Args:
        name: "the step". says: what is compared, for a person. found: "1.04 (1.02 to 1.09)". bound: "at most 1.10".
        n: rounds.
    """

    name: str
    says: str
    found: str
    bound: str
    holds: bool
    n: int


def compare(sides: Mapping[str, Callable[[], float]], rounds: int) -> Comparison:
    """Measure all sides in turn, `rounds` times; the first one alternates, so that no side is always the warm one."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            figures[name].append(sides[name]())
    return Comparison(figures)


def in_process(module: str, *words: str) -> dict[str, Any]:
    """Run `python -m benchmark.<module> words` in a process and a folder of its own; return the JSON of its last line.

    The byte code of a module is kept, as it is wherever dlwp is installed, also where the environment forbids it.

    Raises:
        RuntimeError: it ended with an error; what it said is in the message.
    """
    keeping = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        done = subprocess.run([sys.executable, "-m", f"benchmark.{module}", *words], cwd=folder, env=keeping,
                              capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"benchmark.{module} {' '.join(words)}: {done.stderr.strip()[-2000:]}")
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def rates(run: Path) -> list[tuple[int, float]]:
    """Return (step, samples/s since the line before) of each line of training that a run has logged."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(one["step"], one["samples_per_s"]) for one in lines if one["split"] == "train"]


def steady(found: Sequence[float]) -> float:
    """Return the rate over all windows of equally many samples but the first, which warms up."""
    kept = found[1:]
    return len(kept) / sum(1 / one for one in kept)
