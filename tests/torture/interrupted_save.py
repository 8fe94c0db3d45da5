"""Promise 3: whatever call a save dies at, the last complete checkpoint loads; nothing half-written is taken for one.

Three ways to die: killed at every call that dlwp makes itself, killed by strace at every system call of the process,
and the power gone, with what was not synced kept, lost or zero.
"""

from __future__ import annotations

import ctypes
import functools
import os
import pickle
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture import kit, power_loss
from torture.commands import Command, outcome, succeed
from torture.faults import Call, FaultyDisk
from torture.kit import Promise, Scale, Skipped, Trial, require, require_equal
from torture.small_run import (
    Teller,
    clean_weights,
    forked,
    is_whole,
    killed,
    require_nothing_left,
    require_resumable,
    require_whole,
    run,
    told,
)  # fmt: skip

COMMAND = (
    "data=synthetic", "data.num_train=20", "data.num_val=10", "data.num_test=10", "data.shape=[3,8,8]",
    "data.batch_size=10", "model=linear", "trainer.epochs=3", "trainer.checkpoint_every=2 steps", "trainer.keep_last=2",
    "trainer.log_every=1", "trainer.keep_best=false", "logger.tensorboard=false", "logger.plots=false",
    "+callbacks.tell._target_=torture.small_run.Teller", "+callbacks.tell.path=told", "run_dir=run",
)  # fmt: skip
SYSTEM_CALLS = ("openat", "write", "fsync", "close", "mkdir", "rename")
_OF_THE_MAIN_THREAD = ("unlink,unlinkat,rmdir", "ftruncate", "flock")  # those that save make none

_TRUST = "trust=[torture]"  # a run that was rebuilt elsewhere is nobody's

Patch = Callable[[], None]


# ------------------------------------------------------------------------------------------ killed at every own call


def killed_at_each_call(how: str, start: int = 1, stride: int = 1, patch: Patch | None = None) -> Trial:
    """Return the try of the small run, killed at call start, start + stride... until one is left alone."""

    def do(folder: Path) -> int:
        expected = clean_weights(folder)
        at, tries = start, 0
        while True:
            path, notes = folder / f"run-{at}", folder / f"told-{at}"

            def job(at: int = at, path: Path = path, notes: Path = notes) -> None:
                if patch is not None:
                    patch()
                FaultyDisk(at, how).install()
                run(path, [Teller(notes)])

            was_killed = killed(forked(job))
            try:
                require_whole(path, expected, told(notes))
                require_resumable(path, expected)
            except kit.Broken as error:
                raise kit.Broken(f"{how} at call {at}: {error}") from error
            shutil.rmtree(path)
            if not was_killed:
                require(tries, "no call was met: nothing is shown")
                return tries
            tries += 1
            at += stride

    return Trial(f"{how} at each call from {start}" + (f", every {stride}" if stride > 1 else ""), do, 1800)


def command_killed_at(start: int, stride: int, how: str = "kill", patch: Patch | None = None) -> Trial:
    """Return the try of dlwp-train, killed at call start, start + stride...; then resumed by dlwp-train."""

    def break_disk(at: int) -> None:
        if patch is not None:
            patch()
        FaultyDisk(at, how).install()

    def do(folder: Path) -> int:
        at, tries = start, 0
        while True:
            place = folder / f"{at}"
            place.mkdir()
            command = Command(*COMMAND, folder=place, before=functools.partial(break_disk, at))
            was_killed = killed(command.finish())
            _require_good_command(place, told(place / "told"), f"{how} at call {at}")
            shutil.rmtree(place)
            if not was_killed:
                require(tries, "no call was met: nothing is shown")
                return tries
            tries += 1
            at += stride

    return Trial(f"dlwp-train: {how} at every {stride}. call from {start}", do, 3600)


def _clean_command() -> Path:
    return kit.once("interrupted-clean", lambda folder: succeed(*COMMAND, folder=folder) and None) / "run"


def _require_good_command(place: Path, committed: int, where: str, *words: str) -> None:
    """Require that what was left of `COMMAND` holds the promise, and that the command goes on to the clean end.

    Args:
        place: where the person stands.
        committed: the last step that was said to be saved: `last` names this or a later one.
        where: the process died, or the power went. words: further ones of the command that goes on.
    """
    checkpoints = place / "run" / "checkpoints"
    try:
        for folder in checkpoints.glob("step-*"):
            require(is_whole(folder), f"{folder.name} is not whole")
        last = checkpoints / "last"
        require(last.exists() or not committed, f"step {committed} was saved, but nothing is named by 'last'")
        if last.exists():
            name = last.read_text().strip()
            require(is_whole(checkpoints / name), f"'last' names {name!r}, which is not whole")
            require(int(name[5:]) >= committed, f"step {committed} was saved, but 'last' names {name}")
        if not (place / "run" / "config.yaml").exists():
            return  # it died before there was anything to go on with; a run's first file is its config
        succeed("resume=run", *words, folder=place)
        require_nothing_left(place / "run")
        require_equal(outcome(place / "run"), outcome(_clean_command()), "outcome")
    except kit.Broken as error:
        raise kit.Broken(f"{where}: {error}") from error


# ------------------------------------------------------------------------------------------ killed at system calls


class Tracer:
    """Stands in for `os` in dlwp's one door for writes; lets strace kill a thread at its k-th system call from there.

    Args:
        which: 0 for the main thread, from its first write (the run's folder); n for the n-th other thread that writes.
        inject: strace's expression, such as "inject=write:signal=SIGKILL:when=3".
    """

    def __init__(self, which: int, inject: str) -> None:
        self._which = which
        self._inject = inject
        self._threads = [threading.get_ident()]
        self._attached = False

    def install(self) -> None:
        """Let dlwp write through this, in this process."""
        from dlwp.runs import files

        files.os = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in FaultyDisk.CALLS:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            me = threading.get_ident()
            if me not in self._threads or threading.current_thread().name != "MainThread":
                self._note()
            if not self._attached and self._current() == self._which:
                self._attached = True
                _attach(threading.get_native_id(), self._inject)
            return real(*arguments, **options)

        return call

    def _note(self) -> None:
        name = threading.get_native_id()
        if name not in self._threads:
            self._threads.append(name)

    def _current(self) -> int:
        if threading.current_thread() is threading.main_thread():
            return 0
        return self._threads.index(threading.get_native_id())


def _attach(thread: int, inject: str) -> None:
    """Let strace follow one thread of this process, and go on when it does."""
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1 & 0xFFFFFFFFFFFFFFFF), 0, 0, 0)  # whoever asks may trace
    call = inject.partition("=")[2].partition(":")[0]
    words = ["strace", "-qq", "-o", "/dev/null", "-p", str(thread), "-e", f"trace={call}", "-e", inject]
    subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status = Path(f"/proc/self/task/{thread}/status")
    end = time.monotonic() + 10
    while "TracerPid:\t0\n" in status.read_text():
        if time.monotonic() > end:
            os._exit(97)
        time.sleep(0.002)
    time.sleep(0.02)  # it has seized the thread; it stops it for the first time now


@functools.cache
def _require_strace() -> None:
    if shutil.which("strace") is None:
        raise Skipped("no strace here")
    done = subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, timeout=20)
    if done.returncode:
        raise Skipped("strace may not trace here (ptrace is not allowed)")


def killed_by_strace(call: str, thread: int, start: int = 1, stride: int = 1) -> Trial:
    """Return the try of dlwp-train killed at a thread's k-th system call, for all k = start, start + stride..."""

    def do(folder: Path) -> int:
        _require_strace()
        at, tries = start, 0
        while True:
            place = folder / f"{at}"
            place.mkdir()
            tracer = Tracer(thread, f"inject={call}:signal=SIGKILL:when={at}")
            command = Command(*COMMAND, folder=place, before=tracer.install)
            status = command.finish()
            require(status != 97, "strace did not attach")
            was_killed = killed(status)
            _require_good_command(place, told(place / "told"), f"SIGKILL at {call} {at} of thread {thread}")
            shutil.rmtree(place)
            if not was_killed:
                require(tries, "nobody was killed: nothing is shown")
                return tries
            tries += 1
            at += stride

    return Trial(f"strace: {call}, thread {thread}, every {stride}. from {start}", do, 3600)


# ------------------------------------------------------------------------------------------------------- power loss


def _note_told(disk: FaultyDisk) -> Any:
    class Note:
        def on_save(self, event: Any) -> None:
            disk.log.append(Call("told", (event.step,), None))

    return Note()


def recorded(folder: Path, patch: Patch | None = None, left_out: tuple[str, ...] = ()) -> list[Call]:
    """Return the calls that the small run makes in `folder`."""

    def job() -> None:
        if patch is not None:
            patch()
        disk = FaultyDisk(left_out=left_out).install()
        run(folder / "outputs" / "run", [_note_told(disk)])
        (folder.parent / "calls").write_bytes(pickle.dumps([tuple(call) for call in disk.log]))

    folder.mkdir()
    require(forked(job) == 0, "the run failed")
    return [Call(*found) for found in pickle.loads((folder.parent / "calls").read_bytes())]


def _steps_told(calls: list[Call]) -> tuple[dict[int, int], list[Call]]:
    """Return number of the call -> step for each that was told to be saved; and calls of which these do nothing."""
    steps = {number: call.arguments[0] for number, call in enumerate(calls, 1) if call.name == "told"}
    return steps, [Call("told", ("/",), None) if call.name == "told" else call for call in calls]


def power_lost(seed: int, patch: Patch | None = None, left_out: tuple[str, ...] = (), stride: int = 1) -> Trial:
    """Return the try of every disk that a power loss may leave behind, at each call of the small run."""

    def do(folder: Path) -> int:
        expected = clean_weights(folder)
        calls = recorded(folder / "disk", patch, left_out)
        steps, calls = _steps_told(calls)
        tries = 0
        for number, what, state in power_loss.states(calls, folder / "disk", seed):
            tries += 1
            committed = max((step for at, step in steps.items() if at < number), default=0)
            _require_good_state(folder, state, expected, committed, tries % stride == 0, f"after call {number}, {what}")
        return tries

    return Trial(f"the power goes, chance {seed}", do, 1800)


def _require_good_state(
    folder: Path, state: dict[str, bytes | None], expected: dict[str, str], committed: int, resume: bool, where: str
) -> None:
    place = folder / "lost"
    place.mkdir()
    power_loss.rebuild(state, place)
    path = place / "outputs" / "run"
    try:
        if committed or path.exists():
            require_whole(path, expected, committed)
            if resume:
                require_resumable(path, expected)
    except kit.Broken as error:
        raise kit.Broken(f"{where}: {error}") from error
    shutil.rmtree(place)


def command_power_lost(seed: int) -> Trial:
    """Return the same of dlwp-train, which then goes on by dlwp-train."""

    def do(folder: Path) -> int:
        (folder / "disk").mkdir()

        def record() -> None:
            disk = FaultyDisk().install()
            Teller.also = lambda step: disk.log.append(Call("told", (step,), None))
            original = os._exit

            def leave(status: int) -> None:
                (folder / "calls").write_bytes(pickle.dumps([tuple(call) for call in disk.log]))
                original(status)

            os._exit = leave  # type: ignore[assignment]

        succeed(*COMMAND, folder=folder / "disk", before=record)
        calls = [Call(*found) for found in pickle.loads((folder / "calls").read_bytes())]
        steps, calls = _steps_told([_absolute(call, folder / "disk") for call in calls])
        require(steps, "no step was told to be saved")
        tries = 0
        for number, what, state in power_loss.states(calls, folder / "disk", seed):
            place = folder / "lost"
            place.mkdir()
            power_loss.rebuild(state, place)
            committed = max((step for at, step in steps.items() if at < number), default=0)
            if committed or (place / "run").exists():
                _require_good_command(place, committed, f"after call {number}, {what}", _TRUST)
            shutil.rmtree(place)
            tries += 1
        return tries

    return Trial(f"dlwp-train: the power goes, chance {seed}", do, 3600)


def _absolute(call: Call, folder: Path) -> Call:
    paths = [str(folder / found) if isinstance(found, str | Path) else found for found in call.arguments]
    return Call(call.name, tuple(paths), call.found)


# --------------------------------------------------------------------------------------------------------- controls


def pointer_first() -> None:
    """Break dlwp: `last` names the new checkpoint before anything of it is there."""
    from dlwp.runs import files

    original = files.make_folder

    def make_folder(path: Path) -> None:
        if path.name.startswith(".tmp-step-"):
            files.write_atomic(path.parent / "last", path.name[5:18] + "\n")
        original(path)

    files.make_folder = make_folder


def delete_first() -> None:
    """Break dlwp: old checkpoints are deleted before the new one is there."""
    from dlwp.runs import files

    original = files.make_folder

    def make_folder(path: Path) -> None:
        if path.name.startswith(".tmp-step-"):
            for old in path.parent.glob("step-*"):
                files.remove_tree(old)
        original(path)

    files.make_folder = make_folder


def delete_all_first() -> None:
    """Break dlwp: nothing is left, not even the pointer, when a new checkpoint is begun; each step of it is atomic."""
    from dlwp.runs import files

    original = files.make_folder

    def make_folder(path: Path) -> None:
        if path.name.startswith(".tmp-step-"):
            for old in (path.parent / "last", *path.parent.glob("step-*")):
                if old.exists():
                    files.rename(old, path.parent / f".trash-{old.name}")
        original(path)

    files.make_folder = make_folder


def in_place() -> None:
    """Break dlwp: checkpoints are written under their final name."""
    from dlwp.runs import files

    def final(path: Path) -> Path:
        names = [name[5:18] if name.startswith(".tmp-step-") else name for name in path.parts]
        return Path(*names)

    rename, remove_tree = files.rename, files.remove_tree
    make_folder, write_synced, fsync_folder = files.make_folder, files.write_synced, files.fsync_folder
    files.make_folder = lambda path: make_folder(final(path))
    files.write_synced = lambda path, data: write_synced(final(path), data)
    files.fsync_folder = lambda path: fsync_folder(final(path))
    files.remove_tree = lambda path: remove_tree(final(path))
    files.rename = lambda source, target: None if final(source) == target else rename(source, target)


# -------------------------------------------------------------------------------------------------------- the whole


def _trials(scale: Scale) -> list[Trial]:
    if scale.is_fast:
        return [killed_at_each_call("kill", 1 + scale.seed % 7, 7), power_lost(scale.seed, stride=16)]
    parts = 4
    stride = 1 if scale.is_full else 3
    tries = [killed_at_each_call("kill", 1, stride), killed_at_each_call("half", stride, stride)]
    tries.append(power_lost(scale.seed, stride=stride))
    if not scale.is_full:
        chance = scale.random("interrupted-save")
        tries.append(command_killed_at(chance.randint(1, 12), 12))
        return tries + [
            killed_by_strace(call, thread, chance.randint(1, reach), 20 if call == "openat" else 8)
            for call in ("openat", "write", "rename")
            for thread, reach in ((0, 4), (2, 2 if call == "rename" else 4))
        ]
    tries += [power_lost(scale.seed + number) for number in range(1, 4)] + [command_power_lost(scale.seed)]
    tries += [command_killed_at(start, parts, how) for how in ("kill", "half") for start in range(1, parts + 1)]
    # the main thread, and that of each of the three saves: of the first only what follows the folder
    tries += [killed_by_strace(call, 0) for call in (*SYSTEM_CALLS, *_OF_THE_MAIN_THREAD)]
    return tries + [killed_by_strace(call, thread) for call in SYSTEM_CALLS for thread in (1, 2, 3)]


def _controls(scale: Scale) -> list[Trial]:
    start, stride = (40, 3) if scale.is_fast else (1, 1)
    tries = {
        "without fsync": power_lost(scale.seed, left_out=("fsync",), stride=10**6),
        "pointer first": killed_at_each_call("kill", start, stride, pointer_first),
        "old ones deleted first": killed_at_each_call("kill", 2 * start, stride, delete_first),
        "all deleted first by dlwp-train": command_killed_at(180, 10, patch=delete_all_first),
        "no rename": killed_at_each_call("kill", start, stride, in_place),
    }
    return [Trial(name, found.do, found.limit_s) for name, found in tries.items()]


PROMISES = [
    Promise(
        3,
        "interrupted-save",
        "Whatever call a save dies at, the last complete checkpoint loads; nothing half-written is taken for one.",
        _trials,
        _controls,
    )
]
