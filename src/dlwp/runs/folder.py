"""Own a run's folder: its name, its lock, its summary, and the pointers to its checkpoints.

Knows nothing of training, nor of what is inside a checkpoint.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from dlwp.errors import ConfigError, DataError, MachineError, nearest
from dlwp.runs import files, heartbeat, history, locks
from dlwp.runs.heartbeat import Heartbeat

_STEP = re.compile(r"step-\d{8,}")
_PARTED = ("best", "last", "test", "time")  # what of summary.json has values by name
_LARGEST = 64 * 2**20


class RunFolder:
    """A run's folder. `RunFolder(path)` only reads; `create` and `open` hold its lock until `close`.

    Attributes:
        path: the folder. unlocked: what to know where the file system has no locks, else None.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.overrides = self.path / "overrides.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.log = self.path / "run.log"
        self.tensorboard = self.path / "tensorboard"
        self.plots = self.path / "plots"
        self.checkpoints = self.path / "checkpoints"
        self.unlocked: str | None = None
        self._descriptor: int | None = None
        self._heartbeat: Heartbeat | None = None

    @classmethod
    def create(cls, path: Path, *, given: bool = False) -> RunFolder:
        """Make a run's folder that no other run has, and take its lock.

        Args:
            path: its name; where it is taken, "-2", "-3"... is added.
            given: a person named it: then it may exist if it is empty, and is never renamed.

        Raises:
            ConfigError: it was given and is not empty.
            MachineError: it cannot be written.
        """
        path = Path(path)
        try:
            files.make_folders(path.parent)
            run = cls(path if given else _make_unused(path))
            if given:
                _make_given(path)
            files.fsync_folder(path.parent)
            run._lock()
            if given:
                _require_empty(path)
            files.probe(run.path)
            for folder in (run.checkpoints, run.plots):
                files.make_folders(folder)
            run.update_summary(exit="running", step=0, epoch=0)
        except OSError as error:
            raise _unwritable(path, error) from error
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Take the lock of a run that exists, to go on with it, and remove what a killed process left half-done.

        Raises:
            ConfigError: another process is using it; host and process are named.
            MachineError: it cannot be written.
        """
        run = cls(path)
        try:
            run._lock()
            files.probe(run.path)
            for folder in (run.checkpoints, run.plots):
                files.make_folders(folder)
            files.sweep(run.path)
            files.sweep(run.checkpoints)
        except OSError as error:
            raise _unwritable(run.path, error) from error
        return run

    def close(self) -> None:
        """Release the lock."""
        if self._heartbeat is not None:
            self._heartbeat.release()
            self._heartbeat = None
        if self._descriptor is not None:
            locks.release(self._descriptor)
            self._descriptor = None

    def discard(self) -> None:
        """Remove the folder of a run that never began, and those above it that this leaves empty."""
        self.close()
        files.remove_tree(self.path)
        for parent in self.path.parents[:2]:
            try:
                parent.rmdir()
            except OSError:  # not empty, or not ours
                return

    def read_summary(self) -> dict[str, Any]:
        """Return what summary.json holds, {} where there is none that can be read."""
        try:
            found = json.loads(files.read_regular(self.summary, _LARGEST))
        except (OSError, ValueError, RecursionError):
            return {}
        found = found if isinstance(found, dict) else {}
        return {name: value for name, value in found.items() if name not in _PARTED or isinstance(value, dict | None)}

    def update_summary(self, **values: Any) -> None:
        """Replace values of summary.json, atomically; numbers that are not finite become null."""
        found = history.finite({**self.read_summary(), **values})
        files.write_atomic(self.summary, json.dumps(found, indent=1, allow_nan=False) + "\n")

    def point(self, name: str, target: str | None) -> None:
        """Let checkpoints/`name` ("last", "best") name a checkpoint such as "step-00001200", or nothing (None)."""
        if target is None:
            files.remove(self.checkpoints / name)
            return
        if not _STEP.fullmatch(target):
            raise ValueError(f"{target!r} is not the name of a checkpoint")
        files.write_atomic(self.checkpoints / name, target + "\n")

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation that summary.json tells of."""
        best = self.read_summary().get("best")
        step = best.get("step") if isinstance(best, dict) else None
        return step if isinstance(step, int) else None

    def pointed(self, name: str) -> Path | None:
        """Return the checkpoint that checkpoints/`name` names, None where it names none that is there.

        Raises:
            DataError: it holds something else than the name of a checkpoint.
        """
        pointer = self.checkpoints / name
        try:
            target = files.read_regular(pointer, 1000).decode().strip()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{pointer} cannot be read ({getattr(error, 'strerror', None) or error})") from error
        if not _STEP.fullmatch(target):
            raise DataError(f"{pointer} is damaged: it should hold a name such as step-00001200")
        return self.checkpoints / target if (self.checkpoints / target).is_dir() else None

    def saved(self) -> list[Path]:
        """Return the checkpoints that are there, the lowest step first."""
        found = [path for path in self.checkpoints.glob("step-*") if _STEP.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=lambda path: int(path.name[5:]))

    def holder(self) -> str | None:
        """Return who holds the run's lock ("host n1, process 4711"), None if nobody does."""
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_holder(descriptor)
        except OSError:
            return heartbeat.holder(self.path / ".heartbeat")
        finally:
            os.close(descriptor)
        return None

    def _lock(self) -> None:
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        is_ours = locks.take(descriptor)
        if is_ours is False:
            holder = _read_holder(descriptor)
            os.close(descriptor)
            raise ConfigError(f"{self.path} is running on {holder}")
        if is_ours is None:
            self._take_heartbeat(descriptor)
        locks.hold(descriptor)
        self._descriptor = descriptor

    def _take_heartbeat(self, descriptor: int) -> None:
        taken = Heartbeat.take(self.path / ".heartbeat", locks.this_process())
        if isinstance(taken, str):
            os.close(descriptor)
            free = f"no locks here: free once {self.path / '.heartbeat'} is {heartbeat.FREE_AFTER_S:.0f} s old"
            raise ConfigError(f"{self.path} is running on {taken} ({free})")
        self._heartbeat = taken
        self.unlocked = (
            f"the file system of {self.path} has no locks: a heartbeat file stands in, and after a crash the run "
            f"stays taken for {heartbeat.FREE_AFTER_S:.0f} s"
        )


def default_path(outputs: Path, data_name: str, model_name: str, now: datetime) -> Path:
    """Return `outputs`/<data>-<model>/<date>_<time>.

    >>> str(default_path(Path("outputs"), "cifar10", "resnet", datetime(2026, 11, 23, 20, 15, 3)))
    'outputs/cifar10-resnet/2026-11-23_20-15-03'
    """
    plain = re.sub(r"[^\w.+-]+", "_", f"{data_name}-{model_name}").strip("._") or "run"
    return Path(outputs) / plain / f"{now:%Y-%m-%d_%H-%M-%S}"


def point_latest(run: Path, outputs: Path = Path("outputs")) -> None:
    """Let `outputs`/latest be a link to `run`; a convenience, so it is left out where that cannot be."""
    if not outputs.is_dir():
        return
    target = run.resolve()
    inside = target.is_relative_to(outputs.resolve())
    try:
        files.replace_link(outputs / "latest", str(target.relative_to(outputs.resolve()) if inside else target))
    except OSError:
        return


def is_run(folder: Path) -> bool:
    """Return whether a folder looks like a run's."""
    try:
        if (folder / "summary.json").is_file():
            return True
        return (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir()
    except PermissionError:
        return False


def find_runs(folder: Path) -> list[Path]:
    """Return the run folders in `folder` (itself, if it is one), oldest first. Links are not followed."""
    if is_run(folder):
        return [folder]
    found = []
    for place, inner, _ in os.walk(folder):
        runs = [name for name in inner if is_run(Path(place, name)) and not Path(place, name).is_symlink()]
        found += [Path(place, name) for name in runs]
        inner[:] = [name for name in inner if name not in runs and not name.startswith(".")]
    return sorted(found, key=lambda run: (_made(run), str(run)))


def find_run(text: str, outputs: Path = Path("outputs")) -> tuple[Path, Path | None]:
    """Return (run folder, checkpoint folder or None) for "last", a run folder, a checkpoint folder or a pointer to one.

    Raises:
        ConfigError: there is no such run; the nearest and the newest are named.
        DataError: a pointer is damaged.
    """
    path = Path(os.path.expanduser(text))  # noqa: PTH111 (of an account that is not there the text stays)
    if text == "last" and not path.exists():
        path = (outputs / "latest").resolve() if (outputs / "latest").exists() else _newest(outputs, text)
        path = Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path
    if is_run(path):
        return path, None
    if _STEP.fullmatch(path.name) and path.is_dir():
        return (path.parent.parent if path.parent.name == "checkpoints" else path.resolve().parents[1]), path
    if path.parent.name == "checkpoints" and is_run(path.parent.parent) and path.is_file():
        checkpoint = RunFolder(path.parent.parent).pointed(path.name)
        if checkpoint is None:
            raise ConfigError(f"'{text}' names a checkpoint that is not there. resume={path.parent.parent}")
        return path.parent.parent, checkpoint
    raise ConfigError(_no_run(text, outputs))


def note_own(run: Path, config_text: str) -> None:
    """Note in the account's state folder that this account began `run`, so that it needs no `trust` later."""
    noted = {"path": str(run.resolve()), "config": _digest(config_text.encode()), "time": round(time.time())}
    try:
        _notebook().parent.mkdir(parents=True, exist_ok=True)
        files.append_line(_notebook(), json.dumps(noted))
    except OSError:
        return  # a home that cannot be written: such a run asks for `trust`, no more


def is_own(folder: Path) -> bool:
    """Return whether this account began a run, or that of a checkpoint, with the config.yaml in the folder now."""
    try:
        digest = _digest(files.read_regular(folder / "config.yaml", _LARGEST))
    except OSError:
        return False
    whole = folder.resolve()
    path = str(whole.parents[1] if _STEP.fullmatch(whole.name) else whole)
    return any(noted.get("path") == path and noted.get("config") == digest for noted in history.read(_notebook()))


def state_folder() -> Path:
    """Return where this account's own runs are noted: XDG_STATE_HOME/dlwp, else ~/.local/state/dlwp."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "dlwp"


def _notebook() -> Path:
    return state_folder() / "runs.jsonl"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_holder(descriptor: int) -> str:
    """Return who wrote the lock's file, given a moment to write it: it is taken first and written then."""
    holder = ""
    for _ in range(20):
        time.sleep(0.05)
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
        if holder:
            break
    return holder or "another process"


def _make_unused(path: Path) -> Path:
    number = 1
    while True:
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            files.make_folder(candidate)
            return candidate
        except FileExistsError:
            number += 1


def _make_given(path: Path) -> None:
    try:
        files.make_folder(path)
    except FileExistsError:
        _require_empty(path)


def _require_empty(path: Path) -> None:
    if path.is_dir() and _never_began(path):
        return
    if not path.is_dir() or any(entry.name not in (".lock", ".heartbeat") for entry in path.iterdir()):
        go_on = f"resume={shlex.quote(str(path))}, or another" if is_run(path) else "Another"
        raise ConfigError(f"'{path}' exists and is not {'empty' if path.is_dir() else 'a folder'}. {go_on} run_dir=")


def _never_began(path: Path) -> bool:
    """Return whether a folder is that of a run whose process died before it wrote what it is to be: its config.yaml."""
    inside = {entry.relative_to(path).as_posix() for entry in path.rglob("*")}
    ours = {".lock", ".heartbeat", "summary.json", "run.log", "checkpoints", "plots"}
    died = RunFolder(path).read_summary().get("exit") == "running"
    return died and all(name in ours or Path(name).name.startswith((".tmp-", ".probe-")) for name in inside)


def _unwritable(path: Path, error: OSError) -> MachineError:
    return MachineError(f"{files.fault(error, path)}. run_dir=FOLDER")


def _made(run: Path) -> float:
    try:
        return (run / "config.yaml").stat().st_mtime
    except OSError:
        return 0.0


def _newest(outputs: Path, text: str) -> Path:
    runs = find_runs(outputs)
    if not runs:
        raise ConfigError(_no_run(text, outputs))
    return runs[-1]


def _no_run(text: str, outputs: Path) -> str:
    places = {outputs, Path(text).expanduser().parent}
    known = sorted({run for place in places if place.is_dir() for run in find_runs(place)}, key=_made)
    if not known:
        return f"no run '{text}', and none in '{outputs}'. Start one: dlwp-train"
    near = [name for name in nearest(str(text), [str(run) for run in known], 1) if name != str(known[-1])]
    return f"no run '{text}'." + (f" Did you mean '{near[0]}'?" if near else "") + f" Newest: {known[-1]}"
