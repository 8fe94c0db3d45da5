"""Promise 8: nothing that is loaded runs code, writes outside its folder, or takes memory and time without bounds.

Each hostile file is loaded by the real command in a process that dies at the first forbidden act (an audit hook),
under a cap of 2 GB above what torch maps, in 20 s; it must end in one line.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture import hostile_corpus, hostile_data, kit
from torture.commands import Command, succeed
from torture.hostile_corpus import Case
from torture.kit import Promise, Scale, Trial, require

_FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.spawn", "os.posix_spawn", "subprocess.Popen", "socket.connect",
    "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "pty.spawn", "webbrowser.open",
)  # fmt: skip
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.chmod", "os.truncate")
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

    def outside(path: Any, base: str = ".") -> bool:
        if isinstance(path, int):
            return False
        place = os.path.realpath(Path(base) / os.fsdecode(path))
        return not any(place == one or place.startswith(f"{one}/") for one in allowed)

    def leads_outside(target: Any, link: Any) -> bool:
        return outside(link) or outside(target, str(Path(os.fsdecode(link)).parent))

    def private(path: Any) -> bool:
        place = os.path.realpath(os.fsdecode(path))
        return place == "/etc/passwd" or place.startswith(f"{folder.resolve()}/keep/")

    def hook(event: str, arguments: Any) -> None:
        if event in _FORBIDDEN:
            if event != "subprocess.Popen" or arguments[0] not in ("git", "uname", "lscpu"):
                die(event, arguments)
        elif event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            if (writes and outside(path)) or (not isinstance(path, int) and private(path)):
                die(event, (path, mode))
        elif event == "os.symlink":
            if leads_outside(*arguments[:2]):
                die(event, arguments)
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
        from dlwp import downloads
        from dlwp.commands import entry

        begin()
        path = Path(archive).resolve()
        if path.name.endswith(".tar.gz"):
            status = entry.run(lambda: downloads.unpack(path, Path("unpacked"), "set"))
        else:
            status = entry.run(lambda: downloads.unpack_gzip(path, Path("unpacked/set"), 10**6))
        sys.stdout.flush()
        os._exit(status)

    return do


def loads(name: str, patch: Callable[[], None] | None = None, case: Case | None = None, breaks: str = "") -> Trial:
    """Return the try of one case of the corpus, or of another; with a patch, which breaks dlwp, a control."""

    def do(folder: Path) -> None:
        make, (command, *words), refusal = case or hostile_corpus.CASES[name]
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
            more = _WORDS if command == "train" else ()
            started = Command(*words, *more, name=command, before=before)
        try:
            status = started.finish(_SECONDS)
        finally:
            started.kill()
        said = started.output
        require(status != _CAUGHT and "FORBIDDEN" not in said, said.strip()[-300:])
        require("fault in dlwp" not in said and "Traceback" not in said, said.strip()[-300:])
        left = {path.name for path in folder.iterdir()}
        require(_MARK not in left and not Path("/tmp/EVIL").exists(), "the file has written beside its folder")
        require((folder / "keep").is_dir(), "the file has removed a folder")
        _require_ended(status, said, refusal)
        if command == "unpack" and refusal is None:
            require(any((folder / "unpacked").rglob("*")), "nothing was unpacked")

    return Trial(name, do, limit_s=60, breaks=breaks)


def _require_ended(status: int, said: str, refusal: str | None) -> None:
    """Require that a load was refused in one line for its own reason, or taken where it is harmless."""
    if refusal is None:
        require(status == 0, f"an honest twin ended with {status}: {said.strip()[-300:]}")
        return
    require(status != 0, f"it was taken: {said.strip()[-200:]}")
    require(status in (2, 3, 4), f"ended with {status}: {said.strip()[-300:]}")
    lines = [line for line in said.splitlines() if line.startswith("dlwp: error: ")]
    require(len(lines) == 1, f"{len(lines)} lines tell of it: {said.strip()[-300:]}")
    require(re.search(refusal, lines[0]), f"refused for another reason, not {refusal!r}: {lines[0]}")


def _trials(scale: Scale) -> list[Trial]:
    names = list(hostile_corpus.CASES)
    if scale.is_fast:
        honest = [name for name in names if name.startswith("honest: ")]
        names = [*honest, *scale.random("hostile").sample([name for name in names if name not in honest], 40)]
    tries = [loads(name) for name in names]
    return [*tries, loads("honest: batches, no checksum", _without_checksums, _HONEST_BATCHES)]


_HONEST_BATCHES = Case(hostile_data.batches(hostile_data.honest_batch), hostile_data.CIFAR, None)


def _without_checksums() -> None:
    from dlwp import torchvision_ops

    torchvision_ops.ensure_importable()
    from torchvision.datasets import cifar

    cifar.check_integrity = lambda *words: True


def _trust_everything() -> None:
    from dlwp.parts import Trust

    for name in ("check", "check_import", "check_call"):
        setattr(Trust, name, lambda *words: None)


def _check_no_config() -> None:
    from dlwp.config import foreign

    foreign.check = lambda *words: None  # type: ignore[assignment]


def _extract_all() -> None:
    import tarfile

    from dlwp import downloads

    def unpack(archive: Path, folder: Path, name: str) -> None:
        with tarfile.open(archive) as found:
            found.extractall(folder)

    downloads.unpack = unpack  # type: ignore[assignment]


def _without_limits() -> None:
    import gzip

    from dlwp import downloads

    downloads._RATIO = 10**9
    downloads.unpack_gzip = lambda packed, path, limit: path.write_bytes(gzip.decompress(packed.read_bytes()))  # type: ignore[assignment]


def _any_picture() -> None:
    from PIL import Image

    from dlwp.data import pictures

    pictures.MAX_PIXELS, Image.MAX_IMAGE_PIXELS = 10**12, None
    pictures._FORMATS = None  # type: ignore[assignment]


def _any_name() -> None:
    from dlwp.runs import manifest

    manifest._bytes = lambda folder, name, entries: (folder / name).read_bytes()


def _any_pointer() -> None:
    from dlwp.runs.folder import RunFolder

    def pointed(run: RunFolder, name: str) -> Path:
        return run.checkpoints / (run.checkpoints / name).read_text().strip()

    RunFolder.pointed = pointed  # type: ignore[method-assign]


def _read_what_is_told() -> None:
    from dlwp.runs import files

    files.read_regular = lambda path, limit: path.open("rb").read(limit if path.suffix == ".safetensors" else -1)


def _read_to_the_end() -> None:
    from dlwp.runs import files

    files.read_regular = lambda path, limit: path.read_bytes()


def _any_yaml() -> None:
    from dlwp.runs import plain

    plain.events = lambda text: iter(())


def _any_progress() -> None:
    from dlwp import resuming

    resuming._require_sense = lambda progress, step: None


def _controls(scale: Scale) -> list[Trial]:
    found = {
        ("os.system as data", _trust_everything): "FORBIDDEN os.system",
        ("model evil.Model", _trust_everything): "FORBIDDEN compile .*evil.py",
        ("environment", _check_no_config): "it was taken",
        ("tar with ..", _extract_all): "FORBIDDEN open .*EVIL",
        ("tar bomb", _without_limits): "it was taken",
        ("gzip bomb", _without_limits): "it was taken",
        ("PNG of 9470x9470", _any_picture): "another reason.*pictures differ: .*9470",
        ("EPS as a picture", _any_picture): "FORBIDDEN subprocess.Popen .*gs",
        ("tensors outside", _any_name): "FORBIDDEN open .*keep/x.safetensors",
        ("MANIFEST naming /etc/passwd", _any_name): "FORBIDDEN open .*/etc/passwd",
        ("batches that are pickles", _without_checksums): "FORBIDDEN os.system",
        ("pointer '../../keep/step-00000001'", _any_pointer): "FORBIDDEN open .*keep/step-00000001/",
        ("MANIFEST of a size of weights", _read_what_is_told): "MemoryError",
        ("config.yaml is /dev/zero: runs", _read_to_the_end): "no end after|MemoryError",
        ("config.yaml a pipe: runs", _read_to_the_end): "no end after",
        ("billion laughs: runs", _any_yaml): "no end after|MemoryError",
        ("nested 100,000 deep: runs", _any_yaml): "ended with -11",
        ("progress position -5", _any_progress): "fault in dlwp.*RuntimeError",
    }
    quick = [(*key, breaks) for key, breaks in found.items() if not (scale.is_fast and key[0] in _SLOW)]
    return [loads(name, patch, breaks=breaks) for name, patch, breaks in quick]


_SLOW = ("tar bomb", "gzip bomb", "PNG of 9470x9470", "config.yaml a pipe: runs", "billion laughs: runs")


PROMISES = [Promise(8, "hostile-files", "Nothing that is loaded runs code.", _trials, _controls)]
