"""The scale: an epoch's cost by its samples, memory over a data set that is larger and larger, and a large model.

An epoch is timed from its first batch to its last step; what its end adds is measured by `step`.
"""

from __future__ import annotations

import itertools
import json
import resource
import statistics
import sys
from typing import Any

import numpy

from benchmark import probes
from benchmark.rounds import Claim, compare, in_process

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
BATCH_SIZE, FEATURES, CLASSES = 200, 8, 10
TIMED_SAMPLES = 1_000_000  # of each size at least so many are timed, or a whole epoch
MAPPED_FEATURES, MAPPED_SIZES = 256, (40_000, 400_000)  # 41 MB and 410 MB
WIDTH, LARGE_STEPS, LARGE_BATCH = 7_071, 10, 128  # 8-7071-7071-7071-10: 100.1 million parameters
VECTORS = (
    "data=synthetic", f"data.shape=[{FEATURES}]", "data.num_val=0", "data.val_fraction=0", "data.num_test=0",
    f"data.num_classes={CLASSES}", "model=mlp", "model.hidden=[64]", "optimizer=sgd", "scheduler=constant",
    "logger.plots=false", "logger.tensorboard=false", "run_dir=run",
)  # fmt: skip


# ---- an epoch -------------------------------------------------------------------------------------------------------


def epoch(samples: int) -> dict[str, float]:
    """Return the nanoseconds that a sample of an epoch of so many takes."""
    import dlwp

    epochs = max(1, min(TIMED_SAMPLES // samples, 200)) + 1
    dlwp.train(*VECTORS, f"data.num_train={samples}", f"data.batch_size={BATCH_SIZE}", f"trainer.epochs={epochs}",
               "trainer.checkpoint_every=1000000 steps",
               "+callbacks.stopwatch._target_=benchmark.probes.Stopwatch")  # fmt: skip
    return {"ns": 1e9 * statistics.median(probes.Stopwatch.epochs[1:]) / samples}


# ---- memory over a mapped file --------------------------------------------------------------------------------------


def mapped(samples: int) -> dict[str, float]:
    """Return the memory after a tenth of an epoch over a mapped file, and at most after that, in MiB."""
    import dlwp

    rows = numpy.lib.format.open_memmap("rows.npy", "w+", numpy.float32, (samples, MAPPED_FEATURES))
    for start in range(0, samples, 10_000):
        rows[start : start + 10_000] = numpy.random.default_rng(start).normal(size=(10_000, MAPPED_FEATURES))
    rows.flush()
    del rows
    dlwp.train("data=dataset", "data._target_=benchmark.probes.Mapped", f"data.batch_size={BATCH_SIZE}",
               "data.val_fraction=0", "data.loader=workers", "data.num_workers=2", "criterion=cross_entropy",
               "trainer.epochs=1", *VECTORS[6:],
               "+callbacks.scales._target_=benchmark.probes.Scales")  # fmt: skip
    found = probes.Scales.found
    early = len(found) // 10
    return {"early_mib": max(found[: early + 1]), "late_mib": max(found[early + 1 :])}


# ---- a large model --------------------------------------------------------------------------------------------------


def ours() -> dict[str, float]:
    """Return the peak of memory of a run of a large model, with its validation, its saves and its test, in MiB."""
    import dlwp

    dlwp.train("data=synthetic", f"data.shape=[{FEATURES}]", f"data.num_train={LARGE_STEPS * LARGE_BATCH}",
               f"data.batch_size={LARGE_BATCH}", "data.num_val=256", "data.num_test=256", "model=mlp",
               f"model.hidden=[{WIDTH},{WIDTH},{WIDTH}]", "optimizer=sgd", "optimizer.lr=0.0001", "trainer.epochs=2",
               "scheduler=constant", "run_dir=run")  # fmt: skip
    return {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def bare() -> dict[str, float]:
    """Return the peak of the loop that one would write by hand, which evaluates and saves nothing, in MiB."""
    import torch
    from torch import nn
    from torch.nn import functional

    inputs = torch.randn(LARGE_STEPS * LARGE_BATCH, FEATURES)
    targets = torch.randint(CLASSES, (len(inputs),))
    widths = (FEATURES, WIDTH, WIDTH, WIDTH)
    hidden = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True, fused=True)
    for _ in range(2):
        for chosen in torch.randperm(len(inputs)).split(LARGE_BATCH):
            loss = functional.cross_entropy(model(inputs.index_select(0, chosen)), targets.index_select(0, chosen))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def claims(rounds: int) -> list[Claim]:
    """Measure in turn."""
    sizes = {f"{size:,}": (lambda size=size: in_process("scale", "epoch", str(size))["ns"]) for size in SIZES}
    epochs = compare(sizes, rounds)
    cost = {size: epochs.median(size) for size in sizes}
    least, most = min(cost, key=cost.__getitem__), max(cost, key=cost.__getitem__)
    over = cost[most] / cost[least]
    weighed: list[dict[str, Any]] = [
        in_process("scale", "mapped", str(size)) for size in MAPPED_SIZES for _ in range(min(rounds, 2))
    ]
    growth = max(one["late_mib"] for one in weighed) / min(one["early_mib"] for one in weighed)
    peaks = compare({name: lambda name=name: in_process("scale", name)["mib"] for name in ("ours", "bare")}, rounds)
    ratio, lowest, highest = peaks.ratio("ours", "bare")
    return [
        Claim("epoch", "ns a sample of an epoch of " + " · ".join(f"{name}: {ns:.0f}" for name, ns in cost.items()),
              f"{over:.3f} ({most} / {least})", "at most 1.10", over <= 1.10, rounds),
        Claim("mapped", f"memory of dlwp and 2 workers over mapped files of {MAPPED_SIZES[0]:,} and "
              f"{MAPPED_SIZES[1]:,} rows: most ({max(one['late_mib'] for one in weighed):,.0f} MiB) / at the start",
              f"{growth:.3f}", "at most 1.05", growth <= 1.05, len(weighed)),
        Claim("large model", f"peak of 100 M parameters: dlwp {peaks.median('ours'):,.0f} MiB / bare loop "
              f"{peaks.median('bare'):,.0f}", f"{ratio:.3f} ({lowest:.3f} to {highest:.3f})", "at most 1.05",
              ratio <= 1.05, rounds),
    ]  # fmt: skip


if __name__ == "__main__":
    jobs = {"epoch": epoch, "mapped": mapped, "ours": ours, "bare": bare}
    print(json.dumps(jobs[sys.argv[1]](*map(int, sys.argv[2:]))))
