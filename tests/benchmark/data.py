"""The data: CIFAR-10's crop, flip and normalisation from memory, and JPEGs by workers, in pictures a second."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

from benchmark.rounds import Claim, compare, in_process

BATCH_SIZE, SAMPLES = 128, 45_000


def memory() -> dict[str, float]:
    """Return pictures a second of an epoch from memory, and how much memory it took in uint8 sets."""
    import resource

    import torch

    from dlwp.data.augment import BatchTransform, build_ops
    from dlwp.data.datasets import ArrayDataset
    from dlwp.data.resident import ResidentLoader

    pictures = torch.randint(256, (SAMPLES, 3, 32, 32), dtype=torch.uint8)
    transform = BatchTransform(
        build_ops(["crop", "flip"]), (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), seed=0, train=True, num_classes=10,
        dtype=torch.float32,
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loader = ResidentLoader(
        ArrayDataset(pictures, torch.randint(10, (SAMPLES,))), BATCH_SIZE, seed=0, shuffle=True, device="cpu",
        transform=transform, drop_last=False, limit_batches=None, channels_last=True,
    )  # fmt: skip
    found = []
    for epoch in range(4):
        began = time.perf_counter()
        for _ in loader.epoch(epoch):
            pass
        found.append(SAMPLES / (time.perf_counter() - began))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"per_s": statistics.median(found[1:]), "sets": 1 + grown / pictures.nbytes}


def step() -> dict[str, float]:
    """Return pictures a second of a ResNet-20's steps on one batch that lies ready."""
    import torch
    from torch.nn import functional

    from dlwp.models.resnet import ResNet

    model = ResNet(in_channels=3, num_classes=10, depth=20).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, fused=True)
    inputs = torch.randn(BATCH_SIZE, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(10, (BATCH_SIZE,))
    found = []
    for _ in range(12):
        began = time.perf_counter()
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found.append(BATCH_SIZE / (time.perf_counter() - began))
    return {"per_s": statistics.median(found[2:])}


def claims(rounds: int) -> list[Claim]:
    """Measure in turn."""
    sets: list[float] = []

    def from_memory() -> float:
        found: dict[str, Any] = in_process("data", "memory")
        sets.append(found["sets"])
        return float(found["per_s"])

    found = compare({"data": from_memory, "step": lambda: in_process("data", "step")["per_s"]}, rounds)
    per_s = found.median("data")
    share, least, most = found.ratio("step", "data")
    return [
        Claim("data", "CIFAR-10 from memory: crop, flip, normalise", f"{per_s:,.0f} pictures/s "
              f"({min(found.figures['data']):,.0f} to {max(found.figures['data']):,.0f})", "at least 45,000",
              per_s >= 45_000, rounds),
        Claim("data share", "the same, of the time of a ResNet-20 step in fp32",
              f"{share:.1%} ({least:.1%} to {most:.1%})", "under 5%", share < 0.05, rounds),
        Claim("data memory", "peak, in sizes of the uint8 set", f"{statistics.median(sets):.2f}", "at most 1.2",
              statistics.median(sets) <= 1.2, rounds),
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({"memory": memory, "step": step}[sys.argv[1]]()))
