"""Own the forecast of a run: time, memory and disk, for a dry run from a few steps on a copy.

Knows nothing of configs or run folders.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dlwp import devices
from dlwp.build import Parts
from dlwp.settings import Duration
from dlwp.training.events import Stop

if TYPE_CHECKING:
    from dlwp.training.batches import Loader
    from dlwp.training.events import Logged, Saved, StepEnded
    from dlwp.training.trainer import Trainer

_WARM_UP = 3
"""Steps before those that are timed: the first ones choose kernels and take memory."""
_LEAST = 4
"""Steps that are timed at least, however long they take."""


@dataclass
class Forecast:
    """What a run is going to take, in seconds, MiB of memory at the peak of a step, and bytes of disk."""

    seconds: float
    steps: int
    step_s: float
    evaluations: float
    memory_mib: float
    disk_bytes: float

    def lines(self) -> list[str]:
        """Return it for a person, a line each."""
        steps = f"{self.steps:,} steps of {self.step_s * 1000:.1f} ms, {self.evaluations:.0f} evaluations"
        return [
            f"time     {_clock_text(self.seconds)}: {steps}",
            f"memory   {self.memory_mib:,.0f} MiB at the peak of a step",
            f"disk     {self.disk_bytes / 2**20:,.1f} MiB in checkpoints",
        ]


def forecast_lines(parts: Parts) -> list[str]:
    """Take a few steps on a copy of the model, and return the expected time, memory and disk, a line each."""
    return forecast(parts).lines()


def forecast(parts: Parts, observers: Sequence[Any] = (), budget_s: float = 2.0) -> Forecast:
    """Take steps on a copy of the model for some seconds, evaluate once, and reckon the whole run from these.

    Args:
        parts: of the run; they stay as they are.
        observers: who hears the run; what they take is then part of it.
        budget_s: seconds of steps that are timed, after a warm-up.
    """
    settings = parts.settings
    trial = dataclasses.replace(
        parts,
        settings=dataclasses.replace(
            settings, epochs=10**9, max_steps=None, compile=False, cuda_graphs=False, max_time=None, patience=None
        ),
    )
    assert parts.optimizer is not None
    trial.model, trial.optimizer = copy.deepcopy((parts.model, parts.optimizer))  # together: the optimizer holds its
    trial.scheduler = None
    for group in trial.optimizer.param_groups:
        group["lr"] = group["lr"] * 0  # without its schedule it might diverge
    clock = _Clock(budget_s, parts.device)
    devices.synchronize(parts.device)
    trainer = trial.trainer([*observers, clock])
    began = time.perf_counter()
    trainer.fit(parts.loaders["train"])
    devices.synchronize(parts.device)
    around_s = clock.around_s(began, time.perf_counter(), trainer.times)
    train = parts.loaders["train"]
    steps = settings.total_steps(len(train))
    step_s = clock.seconds_a_step()
    seconds = around_s + steps * step_s
    every, evaluations = Duration.parse(settings.checkpoint_every), 0.0
    saves = seconds / every.value if every.unit == "time" else steps / every.steps(len(train))
    if "val" in parts.loaders:
        evaluations = max(1.0, steps / Duration.parse(settings.eval_every).steps(len(train)))
        seconds += evaluations * _evaluation_s(trainer, parts.loaders["val"], budget_s)
        saves = max(saves, evaluations) if settings.keep_best else saves
    if "test" in parts.loaders:
        seconds += _evaluation_s(trainer, parts.loaders["test"], budget_s)
    logs = steps / settings.log_every + steps / len(train)
    seconds += saves * clock.each_s("saving", trainer.times) + logs * clock.each_s("logging", trainer.times)
    disk = _checkpoint_bytes(trial) * _num_checkpoints(trial)
    return Forecast(seconds, steps, step_s, evaluations, peak_memory_mib(parts.device), disk)


class _Clock:
    """Notes what each step took, and stops the trial once enough of them were timed."""

    watcher = False

    def __init__(self, budget_s: float, device: torch.device) -> None:
        self._budget_s = budget_s
        self._device = device
        self._taken = 0
        self.marks: list[tuple[float, float, int]] = []  # time, seconds of steps alone by then, steps by then
        self._aside: dict[str, list[float]] = {"saving": [], "logging": []}  # seconds spent on it by each time
        self._aside_s = (0.0, 0.0)  # at the first step, at the last

    def on_step(self, event: StepEnded) -> Stop | None:
        self._taken += 1
        if self._taken not in (1, _WARM_UP) and (self._taken < _WARM_UP + _LEAST or self._taken % _LEAST):
            return None
        devices.synchronize(self._device)  # else the work of a card would be told as nobody's
        spent = sum(value for name, value in event.trainer.times.items() if name not in ("start", "saving", "logging"))
        now = time.perf_counter()
        self.marks.append((now, spent, self._taken))
        aside_s = sum(event.trainer.times[name] for name in self._aside)
        self._aside_s = (self._aside_s[0] if len(self.marks) > 1 else aside_s, aside_s)
        return Stop("measured") if len(self.marks) > 2 and now - self.marks[1][0] >= self._budget_s else None

    def on_log(self, event: Logged) -> None:
        self._aside["logging"].append(event.trainer.times["logging"])

    def on_save(self, event: Saved) -> None:
        self._aside["saving"].append(event.trainer.times["saving"])

    def each_s(self, name: str, times: Mapping[str, float]) -> float:
        """Return what a save or a log takes: without the first one, which imports and opens what it needs."""
        known = self._aside[name]
        return (times[name] - known[1]) / (len(known) - 1) if len(known) > 1 else times[name] / max(1, len(known))

    def around_s(self, began: float, ended: float, times: Mapping[str, float]) -> float:
        """Return what was taken before the first step and after the last, without logging and saving."""
        aside_s = sum(times[name] for name in self._aside)
        before, after = self.marks[0][0] - began - self._aside_s[0], ended - self.marks[-1][0]
        return before + after - (aside_s - self._aside_s[1])

    def seconds_a_step(self) -> float:
        """Return the mean time of the steps after the warm-up, without logging and saving."""
        (_, before, first), (_, after, last) = self.marks[1], self.marks[-1]
        return (after - before) / (last - first)


class _Few:
    """The first batches of a split, as a loader."""

    def __init__(self, loader: Loader, count: int) -> None:
        self._loader, self._count = loader, count
        self.batch_size = loader.batch_size
        self.num_samples = min(loader.num_samples, count * loader.batch_size)

    def __len__(self) -> int:
        return self._count

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[Any]:
        return itertools.islice(self._loader.epoch(number, start), self._count)


def _evaluation_s(trainer: Trainer, loader: Loader, budget_s: float) -> float:
    """Return the seconds that an evaluation takes: of as many batches as go into the budget, after a first one."""
    taken, count = 0.0, 1
    for _ in range(2):
        few = _Few(loader, count)
        before = trainer.times["evaluation"]
        trainer.evaluate(few, "trial")  # its end reads the sums, and so waits for the device
        taken = trainer.times["evaluation"] - before
        count = max(1, min(len(loader), int(budget_s / max(taken, 1e-6))))
    return taken * loader.num_samples / few.num_samples


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
