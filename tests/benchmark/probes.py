"""Parts that a measurement names in a config: a data set and callbacks; what these found stays in their class."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy


class Stopwatch:
    """A callback: seconds of each epoch, from before its first batch to after its last step."""

    epochs: ClassVar[list[float]] = []

    def __init__(self) -> None:
        self._began = 0.0

    def on_start(self, event: Any) -> None:
        """Begin the first epoch."""
        self._steps = event.steps_per_epoch
        self._began = time.perf_counter()

    def on_step(self, event: Any) -> None:
        """Note the end of an epoch's last step."""
        if event.step % self._steps == 0:
            self.epochs.append(time.perf_counter() - self._began)

    def on_settled(self, event: Any) -> None:
        """Begin the next epoch; this callback is asked before the run is saved."""
        self._began = time.perf_counter() if event.epoch_ended else self._began


class Mapped:
    """A data set of one's own: rows of a file that is mapped into memory, not read."""

    classes: ClassVar[list[str]] = [str(number) for number in range(10)]

    def __init__(self, path: str = "rows.npy") -> None:
        self.rows = numpy.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[numpy.ndarray, int]:
        return self.rows[index].copy(), index % len(self.classes)


class Scales:
    """A callback: the memory of its own that the process and its workers hold, in MiB, as the run goes on."""

    found: ClassVar[list[float]] = []

    def on_step(self, event: Any) -> None:
        """Weigh now and then."""
        if event.step % 10 == 0:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            self.found.append(sum(_own_memory(process) for process in ["self", *children]))


def _own_memory(process: str) -> float:
    """Return the MiB that a process holds beside the pages of files, which the kernel takes back when it needs them."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) / 1024
