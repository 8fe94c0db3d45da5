"""The step: a tiny MLP by dlwp, with its log and progress bar, against the bare loop on tensors, in µs a step."""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from pathlib import Path

from benchmark.rounds import Claim, compare, in_process, rates

BATCH_SIZE, SAMPLES, FEATURES, HIDDEN, CLASSES, EPOCHS, LOG_EVERY = 128, 60_000, 64, 128, 10, 6, 50
STEPS = -(-SAMPLES // BATCH_SIZE)
WORDS = (
    "data=synthetic", f"data.shape=[{FEATURES}]", f"data.num_train={SAMPLES}", "data.num_val=0", "data.val_fraction=0",
    "data.num_test=0", f"data.num_classes={CLASSES}", f"data.batch_size={BATCH_SIZE}", "model=mlp",
    f"model.hidden=[{HIDDEN}]", "model.dropout=0", "optimizer=sgd", "optimizer.weight_decay=0", "scheduler=constant",
    f"trainer.epochs={EPOCHS}", f"trainer.log_every={LOG_EVERY}", "trainer.progress=true",
    "logger.plots=false", "run_dir=run",
)  # fmt: skip


def bare() -> dict[str, float]:
    """Time the loop that one would write by hand on tensors in memory."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(0)
    inputs, targets = torch.randn(SAMPLES, FEATURES), torch.randint(CLASSES, (SAMPLES,))
    model = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)
    found = []
    for _ in range(EPOCHS):
        for number, chosen in enumerate(torch.randperm(SAMPLES).split(BATCH_SIZE)):
            if number % LOG_EVERY == 0:
                began = time.perf_counter()
            loss = functional.cross_entropy(model(inputs.index_select(0, chosen)), targets.index_select(0, chosen))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if (number + 1) % LOG_EVERY == 0:
                found.append((time.perf_counter() - began) / LOG_EVERY)
    return {"step_us": 1e6 * statistics.median(found[len(found) // EPOCHS :])}


def ours() -> dict[str, float]:
    """Time the same by dlwp: a step between two lines of its log, and what an epoch's end adds."""
    import dlwp

    dlwp.train(*WORDS)
    found = rates(Path("run"))
    steps, ends = [], []
    for (before, _), (step, rate) in itertools.pairwise(found):
        taken, seconds = step - before, (step - before) * BATCH_SIZE / rate
        if before % STEPS == 0:  # the first line of an epoch: its window holds all that the last epoch's end did
            ends.append((seconds, taken))
        elif step > STEPS and step % STEPS:
            steps.append(seconds / taken)
    usual = statistics.median(steps)
    return {"step_us": 1e6 * usual, "end_ms": 1e3 * statistics.median(one - taken * usual for one, taken in ends)}


def claims(rounds: int) -> list[Claim]:
    """Measure both sides in turn, three times a round: they take seconds, and a shared machine stutters."""
    rounds = 3 * rounds
    ends: list[float] = []

    def by_dlwp() -> float:
        found = in_process("step", "ours")
        ends.append(found["end_ms"])
        return float(found["step_us"])

    found = compare({"dlwp": by_dlwp, "bare": lambda: in_process("step", "bare")["step_us"]}, rounds)
    ratio, least, most = found.ratio("dlwp", "bare")
    over = found.median("dlwp") - found.median("bare")
    end = statistics.median(ends)
    return [
        Claim("step", f"MLP {FEATURES}-{HIDDEN}-{CLASSES}, batch {BATCH_SIZE}: dlwp {found.median('dlwp'):.0f} µs"
              f" / bare tensor loop {found.median('bare'):.0f} µs a step", f"{ratio:.2f} ({least:.2f} to {most:.2f})",
              "at most 1.10", ratio <= 1.10, rounds),
        Claim("step over", "the same, difference of the medians", f"{over:.0f} µs", "under 50 µs", over < 50, rounds),
        Claim("epoch's end", "logging, saving and all else at an epoch's end", f"{end:.1f} ms "
              f"({min(ends):.1f} to {max(ends):.1f})", "under 20 ms", end < 20, rounds),
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({"ours": ours, "bare": bare}[sys.argv[1]]()))
