"""Own the command `scripts/benchmark`: which measurements, how many rounds, the table, the exit status."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

import torch

from benchmark import peers
from benchmark.rounds import Claim
from dlwp.runs.environment import processor

MEASUREMENTS = (
    "step", "data", "workers", "pack", "whole", "recipe", "start", "verdict", "compile", "scale", "peers",
)  # fmt: skip

NEEDED = {
    "workers": ("photos", "transfer"), "pack": ("cifar10", "transfer"),
    "whole": ("cifar10",), "recipe": ("cifar10",), "compile": ("cifar10",), "peers": ("cifar10",),
}  # fmt: skip
"""The folders of real data that each reads."""


def main(words: list[str]) -> int:
    """Measure what the words ask for; return 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark", description="Measure every claim of speed against what one would write by hand."
    )
    parser.add_argument("names", nargs="*", metavar="WHAT", choices=["all", *MEASUREMENTS], default=["all"],
                        help=f"all, {', '.join(MEASUREMENTS)} (all)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="how often each side is measured, in turn (5)")
    found = parser.parse_args(words)
    chosen = list(MEASUREMENTS if "all" in found.names else dict.fromkeys(found.names))
    absent = peers.missing()
    if absent and "peers" in chosen:
        line = f"peers needs {', '.join(absent)}: scripts/install benchmark"
        if "peers" in found.names:
            parser.error(line)
        print(line)
        chosen.remove("peers")
    root = Path(os.environ.get("DLWP_DATA_ROOT", "data"))
    for name in (name for what in chosen for name in NEEDED.get(what, ()) if not (root / name).is_dir()):
        parser.error(f"the folder {name} of the real data is missing: DLWP_DATA_ROOT=DIR, where DIR/{name} is")
    busy = os.getloadavg()[0]
    print(f"{processor()} · {os.cpu_count()} cores · torch {torch.__version__} · load {busy:.1f} at the start"
          + (": NOT a quiet machine" if busy > 0.5 else ""), flush=True)  # fmt: skip
    began, held = time.monotonic(), True
    for name in chosen:
        for claim in importlib.import_module(f"benchmark.{name}").claims(found.rounds):
            held &= claim.holds
            _tell(claim)
    print(f"{'all hold' if held else 'NOT all hold'} · {found.rounds} rounds · {time.monotonic() - began:.0f} s")
    return 0 if held else 1


def _tell(claim: Claim) -> None:
    verdict = "holds" if claim.holds else "FAILS"
    print(f"{claim.name:<12} {verdict:<6} {claim.found:<24} {claim.bound:<18} n={claim.n}  {claim.says}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
