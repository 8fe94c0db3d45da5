"""The recipe: `dlwp-train experiment=cifar10_94` against a bare loop of the same network and batches, a step."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.rounds import Claim, compare, in_process, rates

STEPS, BATCH = 6, 2000
"""Steps a round, of which the first two warm up."""
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def ours() -> dict[str, float]:
    """Return seconds a step of dlwp, its log included, with the precision and the memory format that it decides on."""
    import dlwp

    dlwp.train("experiment=cifar10_94", f"trainer.max_steps={STEPS}", "trainer.log_every=2", "trainer.tta=null",
               f"trainer.limit_batches={STEPS}", "run_dir=run")  # fmt: skip
    return {"s_a_step": _steady([BATCH / rate for _, rate in rates(Path("run"))])}


def bare() -> dict[str, float]:
    """Return seconds a step of a loop written by hand: pictures in memory, bf16 where dlwp finds it fast."""
    from dlwp import devices
    from dlwp.data import images
    from dlwp.data.datasets import ArrayDataset
    from dlwp.models.airbench import Airbench

    train = images.cifar10(os.environ.get("DLWP_DATA_ROOT", "data")).train
    assert isinstance(train, ArrayDataset)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    model = Airbench().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    cpu = torch.device("cpu")
    precision, _ = devices.choose_precision("auto", cpu, devices.Traits.of(model), "classification")
    filters = [each for each in model.stages.parameters() if each.ndim == 4]
    rest = [each for each in model.parameters() if each.requires_grad and each.ndim != 4]
    sgd = torch.optim.SGD(rest, lr=100.0, momentum=0.85, nesterov=True, weight_decay=3.8e-5, fused=True)
    momenta = [torch.zeros_like(each) for each in filters]
    reflected = torch.tensor([2, 1, *range(32), 30, 29])
    padded = train.inputs[:, :, reflected][:, :, :, reflected]  # uint8
    found, began = [], time.perf_counter()
    for step in range(STEPS):
        chosen = torch.randperm(len(padded))[:BATCH]
        inputs = (cropped(padded, chosen) / 255 - mean) / std
        with devices.autocast(cpu, precision):
            loss = functional.cross_entropy(model(inputs), train.targets[chosen].long(), label_smoothing=0.2)
        model.zero_grad()
        loss.backward()
        sgd.step()
        muon(filters, momenta)
        if step % 2:
            found.append((time.perf_counter() - began) / 2)
            began = time.perf_counter()
    return {"s_a_step": _steady(found)}


def cropped(padded: Tensor, chosen: Tensor) -> Tensor:
    """Return a window of each chosen picture, all of one place together; half of them are mirrored."""
    places = torch.randint(5, (2, len(chosen)))
    inputs = torch.empty(len(chosen), 3, 32, 32, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    for top in range(5):
        for left in range(5):
            here = ((places[0] == top) & (places[1] == left)).nonzero().view(-1)
            inputs[here] = padded[chosen[here], :, top : top + 32, left : left + 32]
    return torch.where((torch.rand(len(chosen)) < 0.5).view(-1, 1, 1, 1), inputs.flip(-1), inputs)


@torch.no_grad()
def muon(filters: list[torch.nn.Parameter], momenta: list[Tensor]) -> None:
    """Take a step of Muon with three Newton-Schulz iterations, filters flattened to matrices."""
    for weight, momentum in zip(filters, momenta, strict=True):
        assert weight.grad is not None
        momentum.mul_(0.6).add_(weight.grad)
        work = (weight.grad + 0.6 * momentum).flatten(1)
        work = work / work.norm()
        for _ in range(3):
            square = work @ work.T
            work = 3.4445 * work + (-4.7750 * square + 2.0315 * square @ square) @ work
        weight.mul_(math.sqrt(len(weight)) / weight.norm()).sub_(0.2 * work.view_as(weight))


def _steady(found: list[float]) -> float:
    """Return the mean of all windows but the first."""
    return sum(found[1:]) / len(found[1:])


def claims(rounds: int) -> list[Claim]:
    """Measure in turn."""
    sides = {name: (lambda name=name: in_process("recipe", name)["s_a_step"]) for name in ("ours", "bare")}
    found = compare(sides, rounds)
    ratio, least, most = found.ratio("ours", "bare")
    return [
        Claim("recipe", f"experiment=cifar10_94, a step of {BATCH:,}: dlwp {found.median('ours'):.2f} s / bare loop "
              f"{found.median('bare'):.2f}", f"{ratio:.3f} ({least:.3f} to {most:.3f})", "at most 1.05", ratio <= 1.05,
              rounds),
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({"ours": ours, "bare": bare}[sys.argv[1]]()))
