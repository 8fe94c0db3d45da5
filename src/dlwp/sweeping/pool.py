"""Own several jobs at once: a new process for each, its share of the cores and cards, signals, and a line for each end.

Knows nothing of what a job does, nor of where jobs come from.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlwp.runs import files, table
from dlwp.runs.folder import RunFolder
from dlwp.sweeping import jobs
from dlwp.sweeping.jobs import Job

_POLL_S = 0.1
_STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)
"""Statuses of a process that a signal of ours ended."""

Source = Callable[[], "tuple[int, Sequence[str]] | None"]


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    began: float
    slot: int


def share(count: int, cards: bool) -> tuple[int, list[str]]:
    """Return the threads that each of `count` jobs gets, and the cards that they are dealt, none where there is one."""
    import torch

    from dlwp import devices

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    found = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count() if cards else 0)]
    return devices.usable_processors(count), found if cards and len(found) > 1 else []


def run(folder: Path, context: Any, count: int, cards: bool, source: Source, ended: Callable[[int], None]) -> None:
    """Run jobs, `count` at once, until `source` gives None and all have ended.

    A Ctrl-C ends each job saved; a second one at once. SIGTERM and SIGHUP do as to a single run.

    Args:
        folder: the sweep's. context: Hydra's, the task and the config, as a launcher gets them.
        cards: whether each job gets one of several cards.
        source: gives the number and the words of the next job. ended: hears the number of each that has ended.

    Raises:
        KeyboardInterrupt, SystemExit: a signal came, and all that ran is saved.
    """
    threads, dealt = share(count, cards)
    files.make_folders(folder / "logs")
    free = list(range(count))
    running: list[_Running] = []
    with _signals(running) as received:
        while True:
            while free and not received and (given := source()) is not None:
                job = jobs.of(folder, given[0], list(given[1]))
                if job.is_finished:
                    ended(given[0])
                    continue
                slot = free.pop(0)
                environment = _environment(threads, dealt[slot % len(dealt)] if dealt else None)
                running.append(_begin(folder, context, job, given[0], slot, environment))
            if not running:
                break
            time.sleep(_POLL_S)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                free.append(one.slot)
                free.sort()
                _tell_end(folder, one)
                ended(one.job.number)
    if received:
        raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(143)


def _environment(threads: int, card: str | None) -> dict[str, str]:
    found = {"OMP_NUM_THREADS": str(threads), **os.environ}
    return found | ({"CUDA_VISIBLE_DEVICES": card} if card is not None else {})


def _begin(folder: Path, context: Any, job: Job, number: int, slot: int, environment: dict[str, str]) -> _Running:
    print(f"job {job.number:<4} start  {jobs.shortened(job.name)}", flush=True)
    jobs.record(folder, job)
    with (folder / "logs" / f"{job.number}.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dlwp.sweeping.child"], stdin=subprocess.PIPE, stdout=log, stderr=log,
            env=environment, start_new_session=True,  # the terminal's Ctrl-C comes to us alone, to them once
        )  # fmt: skip
    assert process.stdin is not None
    try:
        pickle.dump((context, number, job.words), process.stdin)
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it died at once: told when it is waited for
    return _Running(job, process, time.monotonic(), slot)


def _tell_end(folder: Path, one: _Running) -> None:
    """Print a line on what came of a job; where it left no word of its end, record that."""
    status, name = one.process.returncode, jobs.shortened(one.job.name)
    assert one.process.stdin is not None
    one.process.stdin.close()
    last = jobs.ends(folder).get(one.job.number)
    if last is None and status not in _STOPPED:
        last = {"exit_code": 5, "error": _died(folder, one)}
        jobs.record(folder, one.job, **last)
    if last is not None and last["exit_code"] not in (0, *_STOPPED):
        print(f"job {one.job.number:<4} failed {name}: {last['error']}", flush=True)
        return
    summary = RunFolder(one.job.place).read_summary()
    found = [value for value in (summary.get("best") or {}).items() if value[0] != "step"]
    best = "".join(f" · {key} {table.quantity(key, value)}" for key, value in found if value is not None)
    word = "stopped" if last is None or last["exit_code"] else str(summary.get("exit", "done"))
    print(
        f"job {one.job.number:<4} {word:<6} {name}{best} · {table.duration(time.monotonic() - one.began)}", flush=True
    )


def _died(folder: Path, one: _Running) -> str:
    status = one.process.returncode
    if status < 0:
        name = signal.Signals(-status).name
        return f"its process was ended by {name}" + (" (no memory left?)" if name == "SIGKILL" else "")
    lines = (folder / "logs" / f"{one.job.number}.txt").read_text(errors="replace").strip().splitlines()
    return f"its process ended with status {status}: {lines[-1] if lines else 'it said nothing'}"


@contextmanager
def _signals(running: list[_Running]) -> Iterator[list[int]]:
    """Pass signals on to the jobs; the list given holds those that came."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        passed = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        if number == signal.SIGINT and len(received) == 1 and running:
            print("stopping: each job saves (again Ctrl-C: leave at once)", flush=True)
        for one in list(running):
            if one.process.poll() is None:
                one.process.send_signal(passed)

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield received
    finally:
        for number, before in former.items():
            signal.signal(number, before)


def numbered(overrides: Sequence[Sequence[str]], first: int) -> Source:
    """Return a source of jobs that are all known beforehand."""
    queue = zip(itertools.count(first), overrides)
    return lambda: next(queue, None)
