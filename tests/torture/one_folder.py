"""Promise 7: runs started in the same instant get different folders; of two resumes of one run exactly one goes on."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from torture import faults, kit
from torture.commands import Command, outcome, records, steps_of, succeed
from torture.exact_resume import TINY
from torture.kit import Promise, Scale, Trial, require, require_equal

_NOW = datetime(2026, 11, 23, 20, 15, 3)


def barrier(number: int, job: Callable[[int], int]) -> list[int]:
    """Let forks of this process do a job in the same instant; return their exit statuses."""
    reader, writer = os.pipe()
    pids = []
    for index in range(number):
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                os.close(writer)
                os.read(reader, 1)  # ends for all of them at once, when the writer is closed
                status = job(index)
            finally:
                os._exit(status)
        pids.append(pid)
    os.close(reader)
    time.sleep(0.02)
    os.close(writer)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def folders(number: int, times: int, patch: Callable[[], None] | None = None) -> Trial:
    """Return the try that processes at a barrier, which would all take the same name, get a folder each."""

    def do(folder: Path) -> int:
        from dlwp.runs.folder import RunFolder, default_path

        if patch is not None:
            patch()
        for turn in range(times):
            path = default_path(folder / f"{turn}", "digits", "mlp", _NOW)

            def make(index: int, path: Path = path) -> int:
                run = RunFolder.create(path)
                run.update_summary(owner=index)
                return 0

            require((ended := barrier(number, make)) == [0] * number, f"ended with {ended}")
            owners = [json.loads(one.read_text())["owner"] for one in path.parent.glob("*/summary.json")]
            require(len(owners) == number, f"{len(owners)} folders for {number} processes")
            require_equal(sorted(owners), list(range(number)), "owners of folders")
        return times

    return Trial(f"{times} x {number} processes at a barrier", do)


def _unfinished() -> Path:
    """Return a folder with a run that was killed at step 9, and the outcome of the same run left alone."""

    def make(folder: Path) -> None:
        faults.write_kill_at(folder)
        succeed(*TINY[:-1], "run_dir=clean", folder=folder)
        command = Command(*TINY, folder=folder, environment={"KILL_AT": "step 9"})
        require(command.finish() == -signal.SIGKILL, command.output)

    return kit.once("one-folder", make)


def _copy(folder: Path) -> None:
    import shutil

    shutil.copytree(_unfinished(), folder, dirs_exist_ok=True)


_TRUST = "trust=[kill_at]"  # the copied run is nobody's


def resumes(number: int, fresh: bool, patch: Callable[[], None] | None = None) -> Trial:
    """Return the try of several resumes of one run at once: one goes on, the others name host and process."""

    def do(folder: Path) -> None:
        _copy(folder)
        started = [Command("resume=run", _TRUST, fresh=fresh, before=patch) for _ in range(number)]
        try:
            ended = [command.finish() for command in started]
        finally:
            for command in started:
                command.kill()
        winners = [command for command, status in zip(started, ended, strict=True) if status == 0]
        finished = [one for one in winners if "is finished" in one.output]  # began after the winner had ended
        require(len(winners) - len(finished) == 1, f"{len(winners) - len(finished)} went on: {ended}")
        for command, status in zip(started, ended, strict=True):
            if status != 0:
                named = re.search(r"is running on host (\S+), process (\d+)", command.output)
                require(status == 2 and named is not None, f"ended with {status}: {command.output[-200:]}")
                assert named is not None
                require(named[1] == socket.gethostname(), f"names host {named[1]}")
                require(int(named[2]) in [one.pid for one in winners], f"names process {named[2]}")
        require_equal(outcome(folder / "run"), outcome(folder / "clean"), "the run")

    return Trial(f"{number} resumes at once{', fresh' if fresh else ''}", do)


def killed_holder(how: tuple[str, ...] = (), patch: Callable[[], None] | None = None) -> Trial:
    """Return the try that the holder of a run is killed, and the next resume gets in without a hand."""

    def do(folder: Path) -> None:
        _copy(folder)
        holder = Command("resume=run", _TRUST, *how, environment={"KILL_AT": "step 15"}, before=patch)
        require(holder.finish() == -signal.SIGKILL, f"not killed: {holder.output[-200:]}")
        require(steps_of(folder / "run") >= 9, "it did not go on")
        succeed("resume=run", _TRUST)
        require_equal(outcome(folder / "run"), outcome(folder / "clean"), "the run")

    return Trial(f"killed holder {' '.join(how)}", do)


def sweep(jobs: int) -> Trial:
    """Return the try of runs launched together from one folder: by a sweep, and by as many commands at once."""

    def do(folder: Path) -> None:
        words = ("data=digits", "model=linear", "trainer.max_steps=3", "logger.tensorboard=false", "logger.plots=false")
        succeed("-m", f"seed=range({jobs})", *words)
        rows = [path.parent for path in (folder / "outputs" / "sweeps").glob("*/*/summary.json")]
        require(len(rows) == jobs, f"{len(rows)} folders of {jobs} jobs")
        started = [Command(*words, f"seed={seed}") for seed in range(jobs)]
        require(all(command.finish(300) == 0 for command in started), "a run failed")
        found = list((folder / "outputs" / "digits-linear").glob("*/config.yaml"))
        seeds = sorted(int(re.findall(r"^seed: (\d+)", path.read_text(), re.MULTILINE)[0]) for path in found)
        require_equal(seeds, list(range(jobs)), "seeds of the folders")
        require(all(records(path.parent / "metrics.jsonl") for path in found), "a folder without records")

    return Trial(f"{jobs} jobs launched together", do, limit_s=900)


def no_locks(number: int, patch: Callable[[], None] | None = None) -> Trial:
    """Return the try of a file system without locks: a heartbeat stands in, and is free when it is old."""

    def do(folder: Path) -> None:
        from dlwp.errors import ConfigError
        from dlwp.runs.folder import RunFolder

        _without_flock()
        if patch is not None:
            patch()
        RunFolder.create(folder / "run").close()

        def hold(index: int) -> int:
            try:
                run = RunFolder.open(folder / "run")
            except ConfigError as error:
                return 2 if re.search(r"is running on host \S+, process \d+", str(error)) else 3
            time.sleep(1.0)
            return 0 if "has no locks" in (run.unlocked or "") else 4  # ends like a killed one: nothing is released

        ended = barrier(number, hold)
        require(sorted(ended) == [0] + [2] * (number - 1), f"ended with {ended}")
        require(hold(0) == 2, "a heartbeat that is still young was not respected")
        beat = folder / "run" / ".heartbeat"
        old = time.time() - 61
        os.utime(beat, (old, old))
        require(hold(0) == 0, "a dead process's heartbeat still holds")

    return Trial(f"{number} resumes where there are no locks", do)


def _without_flock() -> None:
    from dlwp.runs import locks

    class NoLocks:
        LOCK_EX = LOCK_NB = LOCK_SH = 0

        @staticmethod
        def flock(*words: Any) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    locks.fcntl = NoLocks  # type: ignore[assignment]


def _blind_locks() -> None:
    from dlwp.runs import locks

    locks.fcntl.flock = lambda *words: None  # type: ignore[attr-defined]


def _shared_folders() -> None:
    """Take a folder that is there already for one's own; the lock, which would refuse the others, is off as well."""
    from dlwp.runs import folder

    def make(path: Path) -> Path:
        path.mkdir(exist_ok=True)
        return path

    folder._make_unused = make
    folder.RunFolder._lock = lambda self: None  # type: ignore[method-assign]


def _no_heartbeat() -> None:
    from dlwp.runs import files, heartbeat

    heartbeat._living = lambda *words: None  # type: ignore[assignment]
    heartbeat._SETTLE_S = 0.0
    files.sweep = lambda folder: None  # type: ignore[assignment]  # else they sweep away each other's and end of that


def _trials(scale: Scale) -> list[Trial]:
    found = [folders(scale.count(8, 20, 20), scale.count(1, 10, 100)), no_locks(3)]
    found += [resumes(2, fresh=False) for _ in range(scale.count(1, 8, 90))]
    found += [resumes(2, fresh=True) for _ in range(scale.count(0, 1, 10))]
    found += [killed_holder() for _ in range(scale.count(1, 4, 16))]
    found += [killed_holder(("data.loader=workers", "data.num_workers=2")) for _ in range(scale.count(0, 1, 4))]
    return found + ([] if scale.is_fast else [sweep(scale.count(0, 6, 50))])


def _controls(scale: Scale) -> list[Trial]:
    return [
        replace(folders(8, 1, _shared_folders), breaks="^1 folders for 8 processes"),
        # both come in: both end, or one finds the other's files half-done or gone; with a lock it would end with 2
        replace(resumes(2, False, _blind_locks), breaks="^([02] went on|ended with [345]: )"),
        replace(no_locks(3, _no_heartbeat), breaks=r"^ended with \[.*0.*0|still young was not respected"),
    ]


PROMISES = [Promise(7, "one-folder", "A run has its own folder, and one process at a time.", _trials, _controls)]
