"""Own the forecast of a run: time, memory and disk, for a dry run from a few steps on a copy.

Knows nothing of configs or run folders.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dlwp import devices, features, memory
from dlwp.build import Parts
from dlwp.data.datasets import ArrayDataset
from dlwp.data.resident import ResidentLoader
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
    """What a run is going to take.

    Attributes:
        seconds: of all. steps, step_s: of training. evaluations: of val. memory_mib: at the peak. disk_bytes: of
            checkpoints.
        device: whose memory it is.
    """

    seconds: float
    steps: int
    step_s: float
    evaluations: float
    memory_mib: float
    disk_bytes: float
    device: torch.device

    def lines(self) -> list[str]:
        """Return it for a person, a line each."""
        steps = f"{self.steps:,} steps of {self.step_s * 1000:.1f} ms, {self.evaluations:.0f} evaluations"
        return [
            f"time     {_clock_text(self.seconds)}: {steps}",
            f"memory   {self.memory_mib:,.0f} MiB at the peak",
            f"disk     {self.disk_bytes / 2**20:,.1f} MiB in checkpoints",
        ]

    def warnings(self) -> list[str]:
        """Return a warning if the host has less memory than the run takes at its peak."""
        room = memory.free() / 2**20 + _resident_mib()
        if self.device.type != "cpu" or self.memory_mib <= room:
            return []
        return [
            f"the run takes {self.memory_mib:,.0f} MiB of memory at its peak, {room:,.0f} MiB are free here. "
            "trainer.accumulate=auto, or a smaller data.batch_size"
        ]


def forecast_lines(parts: Parts) -> list[str]:
    """Take a few steps on a copy of the model, and return the expected time, memory and disk, a line each."""
    return forecast(parts).lines()


def forecast(parts: Parts, observers: Sequence[Any] = (), budget_s: float = 2.0) -> Forecast:
    """Take steps on a copy of the model for some seconds, evaluate, and reckon the whole run from these.

    Args:
        parts: of the run; they stay as they are.
        observers: who hears the run; what they take is then part of it.
        budget_s: seconds of steps that are timed, after a warm-up; half of it goes to an evaluation.
    """
    settings = parts.settings
    fed, features_s = _fed(parts, budget_s)
    trial = dataclasses.replace(
        fed,
        settings=dataclasses.replace(
            settings, epochs=10**9, max_steps=None, compile=False, cuda_graphs=False, max_time=None, patience=None
        ),
    )
    assert parts.optimizer is not None
    trial.model, trial.optimizer = copy.deepcopy((parts.model, parts.optimizer))  # together: the optimizer holds its
    trial.scheduler = None
    for group in trial.optimizer.param_groups:
        group["lr"] = group["lr"] * 0  # without its schedule it might diverge
    clock = _Clock(budget_s, parts.device, {name: one for name, one in fed.loaders.items() if name != "train"})
    devices.synchronize(parts.device)
    trainer = trial.trainer([*observers, clock])
    began = time.perf_counter()
    trainer.fit(fed.loaders["train"])
    devices.synchronize(parts.device)
    seconds = features_s + clock.around_s(began, time.perf_counter(), trainer.times)
    train = parts.loaders["train"]
    steps = settings.total_steps(len(train))
    step_s = clock.seconds_a_step()
    seconds += steps * step_s
    every, evaluations = Duration.parse(settings.checkpoint_every), 0.0
    saves = seconds / every.value if every.unit == "time" else steps / every.steps(len(train))
    if "val" in parts.loaders:
        evaluations = max(1.0, steps / Duration.parse(settings.eval_every).steps(len(train)))
        saves = max(saves, evaluations) if settings.keep_best else saves
    for name, number in (("val", evaluations), ("test", 1.0)):
        if name in parts.loaders:
            seconds += clock.evaluations_s(name, parts.loaders[name].num_samples, number)
    logs = steps / settings.log_every + steps / len(train)
    seconds += clock.aside_s("saving", trainer.times, saves) + clock.aside_s("logging", trainer.times, logs)
    disk = _checkpoint_bytes(trial) * _num_checkpoints(trial)
    return Forecast(seconds, steps, step_s, evaluations, peak_memory_mib(parts.device), disk, parts.device)


def _fed(parts: Parts, budget_s: float) -> tuple[Parts, float]:
    """Return what a run trains on, and the seconds until it is there.

    They are the parts as they are; or, where the features of a frozen backbone are computed once, those with as many
    features as a run has, which are those of a few batches.
    """
    whole_s, found, part = 0.0, parts, 0.0
    for _ in range(2):  # a batch of each split first, then the same part of each
        few: Any = {name: _Few(loader, math.ceil(part * len(loader)) or 1) for name, loader in parts.loaders.items()}
        began = time.perf_counter()
        found = features.once(dataclasses.replace(parts, loaders=few), None, lambda text: None)
        if found.loaders is few:
            return parts, 0.0
        counts = [sum(one.num_samples for one in loaders.values()) for loaders in (parts.loaders, few)]
        whole_s = (time.perf_counter() - began) * counts[0] / counts[1]
        part = min(1.0, budget_s / max(whole_s, 1e-6))
    loaders: Any = {name: _repeated(one, parts.loaders[name].num_samples) for name, one in found.loaders.items()}
    return dataclasses.replace(found, loaders=loaders), whole_s


def _repeated(loader: Any, num_samples: int) -> ResidentLoader:
    """Return a loader of so many samples, which are those of `loader` again and again."""
    inputs, targets = (torch.cat(each) for each in zip(*loader.epoch(), strict=True))
    at = torch.arange(num_samples, device=inputs.device) % len(inputs)
    options = loader.order.options
    return ResidentLoader(
        ArrayDataset(inputs[at], targets[at]), options["batch_size"], seed=options["seed"], shuffle=options["shuffle"],
        device=loader.device,
    )  # fmt: skip


class _Clock:
    """Notes what each step took; once enough of them were timed, evaluates a few batches, and stops the trial.

    Args:
        budget_s: seconds of steps, and half of it of evaluation. loaders: of the splits that are evaluated.
    """

    watcher = False

    def __init__(self, budget_s: float, device: torch.device, loaders: Mapping[str, Any]) -> None:
        self._budget_s = budget_s
        self._device = device
        self._loaders = loaders
        self._taken = 0
        self.marks: list[tuple[float, float, int]] = []  # time, seconds of steps alone by then, steps by then
        self._aside: dict[str, list[float]] = {"saving": [], "logging": []}  # seconds spent on it by each time
        self._aside_s = (0.0, 0.0)  # at the first step, at the last
        self._evaluated: dict[str, _Evaluation] = {}
        self._left = 0.0

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
        if len(self.marks) < 3 or now - self.marks[1][0] < self._budget_s:
            return None
        for name, loader in self._loaders.items():
            self._evaluated[name] = _evaluation(event.trainer, loader, name, self._budget_s / 2)
        self._left = time.perf_counter()
        return Stop("measured")

    def on_log(self, event: Logged) -> None:
        self._aside["logging"].append(event.trainer.times["logging"])

    def on_save(self, event: Saved) -> None:
        self._aside["saving"].append(event.trainer.times["saving"])

    def aside_s(self, name: str, times: Mapping[str, float], number: float) -> float:
        """Return what so many saves or logs take; the first one imports and opens what it needs."""
        known = self._aside[name]
        if not known or number <= 0:
            return 0.0
        each = (times[name] - known[0]) / (len(known) - 1) if len(known) > 1 else known[0]
        return known[0] + max(0.0, number - 1) * each

    def around_s(self, began: float, ended: float, times: Mapping[str, float]) -> float:
        """Return what was taken before the first step and after the last, without logging and saving."""
        aside_s = sum(times[name] for name in self._aside)
        before, after = self.marks[0][0] - began - self._aside_s[0], ended - self._left
        return before + after - (aside_s - self._aside_s[1])

    def seconds_a_step(self) -> float:
        """Return the mean time of the steps after the warm-up, without logging and saving."""
        (_, before, first), (_, after, last) = self.marks[1], self.marks[-1]
        return (after - before) / (last - first)

    def evaluations_s(self, name: str, num_samples: int, number: float) -> float:
        """Return what so many evaluations of a split take, with all who hear of them."""
        one = self._evaluated[name]
        return one.first_s + number * (one.heard_s + num_samples * one.sample_s)


class _Few:
    """The first batches of a split, as a loader; all else of it is that of the whole."""

    def __init__(self, loader: Any, count: int) -> None:
        self._loader, self._count = loader, min(count, len(loader))
        self.batch_size = loader.batch_size
        self.num_samples = min(loader.num_samples, self._count * loader.batch_size)

    def __len__(self) -> int:
        return self._count

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of copying, before there is a loader
            raise AttributeError(name)
        return getattr(self._loader, name)

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[Any]:
        return itertools.islice(self._loader.epoch(number, start), self._count)


@dataclass
class _Evaluation:
    """Seconds of an evaluation: for each sample, for those who hear of it, and further ones of the first."""

    sample_s: float
    heard_s: float
    first_s: float


def _evaluation(trainer: Trainer, loader: Loader, split: str, budget_s: float) -> _Evaluation:
    """Evaluate one batch, and then as many as go into the budget."""
    count, found = 1, list[tuple[float, float, int]]()
    for _ in range(2):
        few = _Few(loader, count)
        began, before = time.perf_counter(), trainer.times["evaluation"]
        trainer.evaluate(few, split)  # its end reads the sums, and so waits for the device
        evaluated = trainer.times["evaluation"] - before
        found.append((evaluated, time.perf_counter() - began - evaluated, few.num_samples))
        count = max(1, min(len(loader), int(budget_s / max(evaluated, 1e-6))))
    (_, first_heard_s, _), (evaluated, heard_s, num_samples) = found
    return _Evaluation(evaluated / num_samples, heard_s, max(0.0, first_heard_s - heard_s))


def _resident_mib() -> float:
    """Return the memory that this process holds now, in MiB: a run's own share of it is not to be found free."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:  # not Linux
        return 0.0


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
