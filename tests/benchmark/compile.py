"""Compilation: `trainer.compile=true` on ResNet-20 against the best bare loop, which compiles nothing.

Each round compiles anew, with an empty cache; the rate is that of the later steps.
"""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

from benchmark.rounds import Claim, compare, in_process, rates, steady

STEPS, LOG_EVERY, BATCH_SIZE, WARM_UP = 120, 10, 128, 5


def ours() -> dict[str, float]:
    """Return pictures a second once compiled, what the first steps took beyond that, and what broke and recompiled."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path("cache").absolute())
    from torch._dynamo.utils import counters, get_compilation_metrics

    import dlwp

    dlwp.train("data=cifar10", "model=resnet", "trainer.compile=true", f"trainer.max_steps={STEPS}",
               f"trainer.log_every={LOG_EVERY}", "run_dir=run")  # fmt: skip
    found = [rate for _, rate in rates(Path("run"))]
    per_s = steady(found[WARM_UP - 1 :])
    return {
        "per_s": per_s,
        "first_s": LOG_EVERY * BATCH_SIZE * (1 / found[0] - 1 / per_s),
        "breaks": len(counters["graph_break"]),
        "recompilations": sum(one.recompile_reason is not None for one in get_compilation_metrics()),
    }


def claims(rounds: int) -> list[Claim]:
    """Measure in turn."""
    runs: list[dict[str, Any]] = []

    def compiled() -> float:
        runs.append(in_process("compile"))
        return float(runs[-1]["per_s"])

    found = compare({"compiled": compiled, "bare": lambda: in_process("whole", "bare")["per_s"]}, rounds)
    ratio, least, most = found.ratio("compiled", "bare")
    first_s = statistics.median(one["first_s"] for one in runs)
    told = f"{runs[-1]['breaks']} graph breaks, {runs[-1]['recompilations']} recompilations"
    return [
        Claim("compile", f"trainer.compile=true: dlwp {found.median('compiled'):,.0f} pictures/s / bare loop, not "
              f"compiled, {found.median('bare'):,.0f} · compiling took {first_s:.0f} s, {told}",
              f"{ratio:.3f} ({least:.3f} to {most:.3f})", "at least 1.05", ratio >= 1.05, rounds),
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(ours()))
