"""The verdict: what a run says would make it faster, and by how much, against what following it brings."""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmark.rounds import Claim, in_process, rates, steady

SLOW_DATA = """
import hashlib, time
import torch

class Slow(torch.utils.data.Dataset):
    def __init__(self, cpu_ms=1.0, size=6400):
        self.cpu_ms, self.size = cpu_ms, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        ends = time.thread_time() + self.cpu_ms / 1000
        while time.thread_time() < ends:
            hashlib.sha256(bytes(4096)).digest()
        return torch.randn(256), index % 10
"""
STEPS, LOG_EVERY, BATCH_SIZE = 90, 10, 64


def trained(cpu_ms: str, width: str, *words: str) -> dict[str, Any]:
    """Train an MLP of two layers so wide on samples that take so long; return samples a second, and what is advised."""
    import dlwp

    Path("slow.py").write_text(SLOW_DATA)
    run = dlwp.train(
        "data=dataset", "data._target_=slow.Slow", f"+data.cpu_ms={cpu_ms}", f"data.batch_size={BATCH_SIZE}",
        "data.val_fraction=0", "data.classes=10", "model=mlp", f"model.hidden=[{width},{width}]", "scheduler=constant",
        "optimizer.lr=0.001", f"trainer.max_steps={STEPS}", f"trainer.log_every={LOG_EVERY}", "logger.plots=false",
        "logger.tensorboard=false", "trainer.checkpoint_every=1000 steps", "run_dir=run", *words,
    )  # fmt: skip
    said = (run.folder / "run.log").read_text()
    found = re.search(r"waiting for data: (data\.num_workers=\d+), about ([\d.]+) times faster", said)
    return {
        "per_s": steady([rate for _, rate in rates(Path("run"))][1:]),
        "advice": found.groups() if found else None,
        "waits": "waiting for data" in said,
    }


def laps() -> dict[str, float]:
    """Return the seconds that the laps of a step take, and those of a step of a tiny MLP (benchmark.step)."""
    from benchmark import step
    from dlwp.training.trainer import Trainer

    calls, spend = [0], Trainer.spend

    def counted(self: Trainer, *words: Any) -> float:
        calls[0] += 1
        return spend(self, *words)

    Trainer.spend = counted  # type: ignore[method-assign]
    step_s = step.ours()["step_us"] / 1e6
    a_step = calls[0] / (step.EPOCHS * step.STEPS)
    trainer: Any = type("Timed", (), {"_mark": 0.0, "times": {"forward": 0.0}})()
    found = []
    for _ in range(50):
        began = time.perf_counter()
        for _ in range(1000):
            spend(trainer, "forward")
        found.append((time.perf_counter() - began) / 1000)
    return {"laps_s": a_step * statistics.median(found), "step_s": step_s}


def claims(rounds: int) -> list[Claim]:
    """Measure in turn: without workers, as advised, and a model that is slow itself."""
    predicted, brought, silent, costs = [], [], 0, []
    for number in range(rounds):
        slow = ("0.5" if number % 2 else "1.0", "1024")
        plain = in_process("verdict", *slow, "data.num_workers=0")
        if plain["advice"]:
            word, factor = plain["advice"]
            followed = in_process("verdict", *slow, word)
            predicted.append(float(factor))
            brought.append(followed["per_s"] / plain["per_s"])
        silent += not in_process("verdict", "0.02", "4096", "data.num_workers=0")["waits"]
        found = in_process("verdict", "laps")
        costs.append(found["laps_s"] / found["step_s"])
    off = [one / other - 1 for one, other in zip(predicted, brought, strict=True)]
    worst = max(map(abs, off), default=1.0)
    cost = statistics.median(costs)
    told = ", ".join(f"{one:.1f} for {other:.2f}" for one, other in zip(predicted, brought, strict=True))
    return [
        Claim("verdict", f"a slow data set, data.num_workers as advised: times faster, said for brought: {told}",
              f"{worst:.0%} off at most", "at most 25%", len(predicted) == rounds and worst <= 0.25, rounds),
        Claim("no verdict", "a slow model, data that takes 0.02 ms a sample: nothing is said of data",
              f"{silent} of {rounds}", "each", silent == rounds, rounds),
        Claim("its cost", "the laps of a step, of a tiny MLP's step", f"{cost:.2%} ({min(costs):.2%} to "
              f"{max(costs):.2%})", "under 0.5%", cost < 0.005, rounds),
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(laps() if sys.argv[1] == "laps" else trained(*sys.argv[1:])))
