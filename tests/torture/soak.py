"""Promise 14: memory, open files, threads, processes and disk do not grow with steps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torture.commands import Command
from torture.kit import Promise, Scale, Trial, require

MEASURE = '''
import gc, json, os, threading, tracemalloc

class Measure:
    """Writes after every tenth epoch what the process holds; memory of Python only where TRACE is set."""

    def on_start(self, event):
        if os.environ.get("TRACE"):
            tracemalloc.start()

    def on_settled(self, event):
        if not event.epoch_ended or event.epoch % 10:
            return
        gc.collect()
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = len(file.read().split())
        checkpoints = [name for name in os.listdir("run/checkpoints") if name.startswith(("step", ".tmp", ".trash"))]
        found = {"epoch": event.epoch, "step": event.step, "handles": len(os.listdir("/proc/self/fd")),
                 "threads": threading.active_count(), "children": children, "resident": resident,
                 "traced": tracemalloc.get_traced_memory()[0], "checkpoints": len(checkpoints)}
        with open("measured.jsonl", "a") as file:
            file.write(json.dumps(found) + chr(10))
'''
WORDS = (
    "data=synthetic", "data.num_val=8", "data.num_test=0", "data.shape=[6]", "data.batch_size=8",
    "model=mlp", "trainer.checkpoint_every=5 epochs", "trainer.log_every=2",
    "+callbacks.measure._target_=measure.Measure", "run_dir=run",
)  # fmt: skip


def stays_flat(
    epochs: int, *words: str, trace: bool, limit_s: float, before: Callable[[], None] | None = None,
    epoch_steps: int = 2,
) -> Trial:  # fmt: skip
    """Return the try of many epochs, all of which are done, in which what the process holds is measured."""

    def do(folder: Path) -> None:
        (folder / "measure.py").write_text(MEASURE)
        shared = len(list(Path("/dev/shm").iterdir()))
        length = (f"data.num_train={8 * epoch_steps}", f"trainer.epochs={epochs}")
        all_words = (*WORDS, *length, f"trainer.max_time={limit_s - 60:.0f} s", *words)
        command = Command(*all_words, environment={"TRACE": "1" if trace else ""}, before=before)
        status = command.finish(limit_s)
        require(status == 0, f"ended with {status}: {command.output[-300:]}")
        summary = json.loads((folder / "run" / "summary.json").read_text())
        ended, expected = (summary["exit"], summary["step"]), ("done", epochs * epoch_steps)
        require(ended == expected, f"ended as {ended}, expected {expected}")
        found = [json.loads(line) for line in (folder / "measured.jsonl").read_text().splitlines()]
        _compare(found, trace)
        require(len(list(Path("/dev/shm").iterdir())) <= shared, "/dev/shm holds more than before")

    return Trial(f"{epochs * epoch_steps:,} steps in {epochs:,} epochs {' '.join(words)}", do, limit_s + 10)


def _compare(found: list[dict[str, Any]], trace: bool) -> None:
    start, last = found[len(found) // 6], found[-1]
    for name in ("handles", "threads", "children"):
        require(last[name] <= start[name], f"{name}: {start[name]} at epoch {start['epoch']}, {last[name]} at the end")
    require(
        max(one["checkpoints"] for one in found) <= 4, "more than keep_last + best + 1 checkpoints, and one on its way"
    )
    if trace:
        grown = last["traced"] - start["traced"]
        require(grown < 200_000, f"Python's memory grew by {grown:,} bytes in {last['epoch'] - start['epoch']} epochs")
    rest = found[len(found) // 10 :]
    steps = [one["step"] for one in rest]
    mean = sum(steps) / len(steps)
    level = sum(one["resident"] for one in rest) / len(rest)
    spread = sum((step - mean) ** 2 for step in steps)
    slope = sum((one["step"] - mean) * (one["resident"] - level) for one in rest) / max(spread, 1)
    grown = slope * max(100_000, steps[-1] - steps[0]) if steps[-1] > 20_000 else slope * (steps[-1] - steps[0])
    allowed = 1e6 * max(1, (steps[-1] - steps[0]) / 100_000) if steps[-1] > 20_000 else 8e6
    require(grown < allowed, f"resident memory grows by {grown / 1e6:.1f} MB, allowed are {allowed / 1e6:.1f}")


def _trials(scale: Scale) -> list[Trial]:
    plain = ("logger.plots=false",)
    if scale.is_fast:
        return [stays_flat(300, *plain, "logger.tensorboard=false", trace=True, limit_s=240)]
    workers = (*plain, "data.loader=workers", "data.num_workers=2")
    if not scale.is_full:
        return [stays_flat(1000, *plain, trace=True, limit_s=300), stays_flat(100, *workers, trace=False, limit_s=240)]
    return [
        stays_flat(5000, *plain, trace=False, limit_s=2400, epoch_steps=20),  # 100,000 steps: 5 minutes of a core
        stays_flat(5000, *workers, trace=False, limit_s=2400),
    ]


def _leak() -> None:
    from dlwp.observers.console import Console

    kept: list[Any] = []
    told = Console.on_epoch

    def on_epoch(self: Any, event: Any) -> None:
        kept.append((os.open("/dev/null", os.O_RDONLY), bytearray(10_000)))
        told(self, event)

    Console.on_epoch = on_epoch  # type: ignore[method-assign]


def _controls(scale: Scale) -> list[Trial]:
    words = ("logger.plots=false", "logger.tensorboard=false")
    return [replace(stays_flat(60, *words, trace=True, limit_s=100, before=_leak), breaks="^handles: ")]


PROMISES = [Promise(14, "week-long", "What a run holds does not grow with its steps.", _trials, _controls)]
