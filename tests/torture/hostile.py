"""Promise 8: nothing that is loaded runs code, writes outside its folder, or takes memory and time without bounds.

Each hostile file is loaded by the real command in a process that dies at the first forbidden act (an audit hook),
under a cap of 2 GB above what torch maps, in 20 s; it must end in one line.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture import hostile_corpus, kit
from torture.commands import Command, succeed
from torture.kit import Promise, Scale, Trial, require

_FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.spawn", "os.posix_spawn", "subprocess.Popen", "socket.connect",
    "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "pty.spawn", "webbrowser.open",
)  # fmt: skip
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate")
_MARK = "EVIL"
_CAUGHT = 66
_CAP = 2 * 2**30
_SECONDS = 20.0
_WORDS = ("trainer.epochs=2", "trainer.max_steps=6", "logger.tensorboard=false", "logger.plots=false", "device=cpu")


def run_of_a_stranger() -> Path:
    """Return a folder that holds a run which no account here has begun."""

    def make(folder: Path) -> None:
        words = ("data=synthetic", "data.num_train=40", "data.num_val=8", "data.num_test=8", "data.shape=[3,8,8]",
                 "data.batch_size=10", "model=cnn", "model.channels=[4]", "trainer.epochs=1",
                 "run_dir=run")  # fmt: skip
        succeed(*words, *_WORDS[2:], folder=folder)

    return kit.once("stranger", make) / "run"


def guard(folder: Path) -> Callable[[], None]:
    """Return what lets a process die at the first act that no load may do."""
    allowed = [str((folder / name).resolve()) for name in ("run", "outputs", "unpacked")]
    allowed += [os.environ[f"XDG_{name}_HOME"] for name in ("STATE", "CONFIG", "CACHE")] + ["/dev/null"]

    def die(event: str, arguments: Any) -> None:
        os.write(1, f"FORBIDDEN {event} {str(arguments)[:200]}\n".encode())
        os._exit(_CAUGHT)

    def outside(path: Any) -> bool:
        if isinstance(path, int):
            return False
        place = os.path.realpath(os.fsdecode(path))
        return not any(place == one or place.startswith(f"{one}/") for one in allowed)

    def hook(event: str, arguments: Any) -> None:
        if event in _FORBIDDEN:
            if event != "subprocess.Popen" or arguments[0] not in ("git", "uname", "lscpu"):
                die(event, arguments)
        elif event == "open":
            path, mode, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND) and outside(path):
                die(event, (path, mode))
        elif event in _CHANGES:
            if any(outside(one) for one in arguments[:2] if isinstance(one, str | bytes | os.PathLike)):
                die(event, arguments)
        elif (
            (event == "compile" and _MARK in str(arguments[0]))
            or (event == "ctypes.dlopen" and str(folder) in str(arguments[0]))
            or (event == "exec" and str(folder) in getattr(arguments[0], "co_filename", ""))
        ):
            die(event, arguments)

    def begin() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _CAP,) * 2)
        sys.path.insert(0, "")  # as `python -m`: where the person stands is importable
        sys.addaudithook(hook)

    return begin


def _unpack(archive: str, begin: Callable[[], None]) -> Callable[[], None]:
    def do() -> None:
        from dlwp.commands import entry
        from dlwp.data import downloads

        begin()
        path = Path(archive).resolve()
        if path.name.endswith(".tar.gz"):
            status = entry.run(lambda: downloads.unpack(path, Path("unpacked"), "set"))
        else:
            status = entry.run(lambda: downloads.unpack_gzip(path, Path("unpacked/set"), 10**6))
        sys.stdout.flush()
        os._exit(status)

    return do


def loads(name: str, patch: Callable[[], None] | None = None) -> Trial:
    """Return the try of one hostile file."""

    def do(folder: Path) -> None:
        make, (command, *words) = hostile_corpus.CASES[name]
        shutil.copytree(run_of_a_stranger(), folder / "run")
        for other in ("outputs", "unpacked", "keep"):
            (folder / other).mkdir()
        (folder / "outputs" / "another").mkdir()
        make()
        begin = guard(folder)

        def before() -> None:
            if patch is not None:
                patch()
            begin()

        if command == "unpack":
            started = Command(*words, before=_unpack(words[0], before))
        else:
            more = _WORDS if command == "train" else ("device=cpu",)
            started = Command(*words, *(word for word in more if command == "train"), name=command, before=before)
        try:
            status = started.finish(_SECONDS)
        finally:
            started.kill()
        said = started.output
        require(status != _CAUGHT and "FORBIDDEN" not in said, said.strip()[-300:])
        require(status in (0, 2, 3, 4), f"ended with {status}: {said.strip()[-300:]}")
        require("fault in dlwp" not in said and "Traceback" not in said, said.strip()[-300:])
        left = {path.name for path in folder.iterdir()}
        require(_MARK not in left and not Path("/tmp/EVIL").exists(), "the file has written beside its folder")
        require((folder / "keep").is_dir(), "the file has removed a folder")
        require(status != 0 or name in HARMLESS, f"it was taken: {said.strip()[-200:]}")

    return Trial(name, do, limit_s=60)


HARMLESS = ("summary.json nested", "metrics.jsonl nested", "offset beyond")
"""What is left aside as damaged, the rest being honest."""


def _trials(scale: Scale) -> list[Trial]:
    names = list(hostile_corpus.CASES)
    return [loads(name) for name in (scale.random("hostile").sample(names, 60) if scale.is_fast else names)]


def _trust_everything() -> None:
    from dlwp.parts import Trust

    for name in ("check", "check_import", "check_call"):
        setattr(Trust, name, lambda *words: None)


def _check_no_config() -> None:
    from dlwp.config import foreign

    foreign.check = lambda *words: None  # type: ignore[assignment]


def _extract_all() -> None:
    import tarfile

    from dlwp.data import downloads

    def unpack(archive: Path, folder: Path, name: str) -> None:
        with tarfile.open(archive) as found:
            found.extractall(folder)

    downloads.unpack = unpack  # type: ignore[assignment]


def _controls(scale: Scale) -> list[Trial]:
    return [
        loads("os.system as data", _trust_everything), loads("model evil.Model", _trust_everything),
        loads("environment", _check_no_config), loads("tar with ..", _extract_all),
    ]  # fmt: skip


PROMISES = [Promise(8, "hostile-files", "Nothing that is loaded runs code.", _trials, _controls)]
