"""Own the forecast of a run: time, memory and disk, for a dry run from a few steps on a copy.

Knows nothing of configs or run folders.
"""

from __future__ import annotations

import copy
import dataclasses
import resource
import shutil
import sys
import time
from pathlib import Path

import torch

from dlwp import devices
from dlwp.build import Parts
from dlwp.settings import Duration

_STEPS = 4


def forecast_lines(parts: Parts) -> list[str]:
    """Take a few steps on a copy of the model, and return the expected time, memory and disk, a line each."""
    trial = dataclasses.replace(
        parts,
        settings=dataclasses.replace(
            parts.settings, max_steps=_STEPS, log_every=10**9, compile=False, cuda_graphs=False, max_time=None
        ),
    )
    assert parts.optimizer is not None
    copied = copy.deepcopy(
        (parts.model, parts.optimizer)
    )  # together, so that the optimizer holds the copy's parameters
    trial.model, trial.optimizer = copied
    trial.scheduler = None
    clock = _Clock()
    devices.synchronize(parts.device)
    trial.trainer([clock]).fit(parts.loaders["train"])
    devices.synchronize(parts.device)
    step_s = clock.seconds_a_step()
    train = parts.loaders["train"]
    steps = parts.settings.total_steps(len(train))
    evaluations = steps / Duration.parse(parts.settings.eval_every).steps(len(train))
    val = parts.loaders["val"].num_samples if "val" in parts.loaders else 0
    # an evaluation is a forward pass alone: about a third of a step's work
    seconds = steps * step_s + evaluations * val / (train.num_samples / len(train)) * step_s / 3
    return [
        f"time     {_clock_text(seconds)}: {steps:,} steps of {step_s * 1000:.1f} ms, {evaluations:.0f} evaluations",
        f"memory   {peak_memory_mib(parts.device):,.0f} MiB at the peak of a step",
        f"disk     {_checkpoint_bytes(trial) * _num_checkpoints(trial) / 2**20:,.1f} MiB in checkpoints",
    ]


class _Clock:
    """Notes when each step ended."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def on_step(self, event: object) -> None:
        self._times.append(time.perf_counter())

    def seconds_a_step(self) -> float:
        gaps = sorted(later - earlier for earlier, later in zip(self._times, self._times[1:], strict=False))
        return gaps[len(gaps) // 2] if gaps else 0.0


def peak_memory_mib(device: torch.device) -> float:
    """Return the largest memory taken so far: of the device on CUDA, else of this process, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def disk_warnings(parts: Parts, checkpoints: Path) -> list[str]:
    """Return a warning if the disk of the folder `checkpoints` has less room than those to come will take."""
    one, number = _checkpoint_bytes(parts), _num_checkpoints(parts)
    needed = one * number - sum(file.stat().st_size for file in checkpoints.glob("step-*/*"))
    free = shutil.disk_usage(checkpoints).free
    if free >= needed:
        return []
    text = f"{number} checkpoints of {one / 1e9:.3g} GB need {needed / 1e9:.3g} GB"
    return [f"disk of '{checkpoints}' has {free / 1e9:.3g} GB, {text}. Free space, or trainer.keep_last=1"]


def _num_checkpoints(parts: Parts) -> int:
    return parts.settings.keep_last + int(parts.settings.keep_best) + 1  # one more while it is written


def _checkpoint_bytes(parts: Parts) -> int:
    """Return the size of a checkpoint's tensors; of an optimizer that took no step yet by what its groups say."""
    assert parts.optimizer is not None
    weights = sum(tensor.nbytes for tensor in parts.model.state_dict().values() if isinstance(tensor, torch.Tensor))
    kept = [tensor for values in parts.optimizer.state.values() for tensor in values.values()]
    moments = sum(tensor.nbytes for tensor in kept if isinstance(tensor, torch.Tensor))
    if not kept:
        groups = parts.optimizer.param_groups
        moments = sum(one.nbytes * (len(group.get("betas", ())) or 1) for group in groups for one in group["params"])
    return weights * (2 if parts.settings.ema_decay else 1) + moments


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"
