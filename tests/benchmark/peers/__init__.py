"""The peers: ResNet-20 on CIFAR-10 by dlwp and by what else one would train it with, each in its usual settings.

A file a peer, as short as its own tutorial: the same pictures, network, batches and augmentation; precision, memory
format, loader and logging as that tutorial has them, with 0 or 2 workers, whichever is faster here. The extra
`benchmark` holds what they need. Beside it stand, without a claim, a step of the tiny MLP of `step` and the time that
the import takes.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from benchmark.rounds import Claim, Comparison, compare, in_process
from dlwp import torchvision_ops

torchvision_ops.ensure_importable()  # before a peer imports torchvision

WORKERS = (0, 2)
TRIAL_STEPS, STEPS, VECTOR_STEPS = 30, 60, 500


@dataclass(frozen=True)
class Peer:
    """One way to train, and how much faster dlwp is to be.

    Args:
        package: that pip knows. module: whose import is timed.
        with_bf16, without: least ratios where products in bf16 are fast, and elsewhere.
    """

    package: str
    module: str
    with_bf16: float = 1.9
    without: float = 1.25


PEERS = {
    "lightning": Peer("pytorch-lightning", "pytorch_lightning"),
    "accelerate": Peer("accelerate", "accelerate"),
    "timm": Peer("timm", "timm"),
    "fastai": Peer("fastai", "fastai.vision.all"),
    "torchvision": Peer("torchvision", "torchvision", 1.8, 1.15),
}
"""By the name of the file here."""


def missing() -> list[str]:
    """Return the packages of peers that are not installed."""
    return [one.package for one in PEERS.values() if not _version(one.package)]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def claims(rounds: int) -> list[Claim]:
    """Measure dlwp, the bare loop and each peer in turn: pictures, then the tiny MLP, then imports."""
    workers = {name: _faster(name) for name in PEERS}
    pictures = compare(
        {
            "dlwp": lambda: in_process("whole", "ours")["per_s"],
            "bare": lambda: in_process("whole", "bare")["per_s"],
            **{name: lambda name=name: _pictures(name, workers[name], STEPS) for name in PEERS},
        },
        rounds,
    )
    vectors = compare(
        {
            "dlwp": lambda: in_process("step", "ours")["step_us"],
            **{name: lambda name=name: _vectors(name) for name in PEERS},
        },
        rounds,
    )
    modules = {"dlwp": "dlwp.training.trainer", **{name: one.module for name, one in PEERS.items()}}
    imports = compare({name: lambda module=module: _import_s(module) for name, module in modules.items()}, rounds)
    return [claim(name, workers[name], pictures, vectors, imports, rounds) for name in PEERS]


def _faster(name: str) -> int:
    return max(WORKERS, key=lambda workers: _pictures(name, workers, TRIAL_STEPS))


def _pictures(name: str, workers: int, steps: int) -> float:
    return float(in_process(f"peers.{name}", "pictures", str(steps), str(workers))["per_s"])


def _vectors(name: str) -> float:
    return float(in_process(f"peers.{name}", "vectors", str(VECTOR_STEPS), "0")["step_us"])


def _import_s(module: str) -> float:
    return float(in_process("imports", module)["s"])


def claim(
    name: str, workers: int, pictures: Comparison, vectors: Comparison, imports: Comparison, rounds: int
) -> Claim:
    """Return the claim of one peer, from the three comparisons."""
    peer = PEERS[name]
    ratio, least, most = pictures.ratio("dlwp", name)
    bound = peer.with_bf16 if bf16_is_fast() else peer.without
    rates = " / ".join(f"{pictures.median(side):,.0f}" for side in ("dlwp", name))
    steps = " and ".join(f"{vectors.median(side):,.0f}" for side in ("dlwp", name))
    seconds = " and ".join(f"{imports.median(side):.1f}" for side in ("dlwp", name))
    says = (
        f"dlwp / {peer.package} {_version(peer.package)}, {workers} workers: {rates} pictures/s (bare loop "
        f"{pictures.median('bare'):,.0f}) · tiny MLP {steps} µs a step · import {seconds} s"
    )
    return Claim(name, says, f"{ratio:.2f} ({least:.2f} to {most:.2f})", f"at least {bound:g}", ratio >= bound, rounds)


def bf16_is_fast() -> bool:
    """Return whether dlwp trains convolutional classifiers in bf16 on this processor."""
    import torch

    from dlwp import devices

    traits = devices.Traits(convolutions=True, attention=False)
    return devices.choose_precision("auto", torch.device("cpu"), traits, "classification")[0] == "bf16"
