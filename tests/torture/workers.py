"""Promise 11: a worker that dies, hangs or meets a bad sample never hangs the run; the sample is named, or left out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torture.commands import Command, outcome, records, succeed, wait_for
from torture.kit import Broken, Promise, Scale, Trial, once, require, require_equal

PICTURES = '''
import os, signal, time
import numpy, torch
from PIL import Image

class Pictures(torch.utils.data.Dataset):
    """Pictures in a folder, turned at random; FAULT says what is to happen at one: "kill 30", "exit 30", "stop 30".

    It happens once, or each time with FAULT_ALWAYS. A worker takes SLOW_S over each.
    """

    classes = ["a", "b", "c", "d"]

    def __init__(self, folder="pictures"):
        names = [f"{number:03}.png" for number in range(120)]  # as from an index: whether it is there is seen later
        self.samples = [(os.path.join(folder, name), int(name[:3]) % 4) for name in names]
        self.targets = [label for _, label in self.samples]
        self.fault, _, number = os.environ.get("FAULT", "").partition(" ")
        self.path = os.path.join(folder, f"{int(number or 0):03}.png")

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        path, label = self.samples[index]
        if torch.utils.data.get_worker_info() is not None:
            time.sleep(float(os.environ.get("SLOW_S", "0")))
            if self.fault and path == self.path:
                self.fail()
        with Image.open(path) as picture:
            if picture.mode != "RGB" or picture.size != (8, 8):
                raise ValueError(f"a picture of {picture.size}, {picture.mode}")
            pixels = torch.from_numpy(numpy.array(picture)).permute(2, 0, 1)
        return (pixels.flip(2) if torch.rand(()) < 0.5 else pixels), label

    def fail(self):
        try:
            os.close(os.open("faulted", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            if not os.environ.get("FAULT_ALWAYS"):
                return
        if self.fault == "exit":
            os._exit(3)
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "bus": signal.SIGBUS}[self.fault])


class Numbers(torch.utils.data.Dataset):
    classes = ["a", "b"]

    def __init__(self, count, bad):
        self.count, self.bad = count, bad
        self.targets = [index % 2 for index in range(count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count - self.bad:
            raise OSError("out of reach")
        return torch.full((8,), float(index % 7)), self.targets[index]


def numbers(count, bad):
    """COUNT samples to train with, of which the last BAD cannot be read."""
    return {"train": Numbers(count, bad), "val": Numbers(8, 0)}
'''
"""A user's own data set, to be written beside the command as own_pictures.py."""

NUM = 120
WORDS = (
    "data=dataset", "data._target_=own_pictures.Pictures", "criterion=cross_entropy", "metrics=classification",
    "data.batch_size=9", "data.loader=workers", "model=cnn", "trainer.epochs=2",
    "trainer.log_every=3", "logger.tensorboard=false", "logger.plots=false", "run_dir=run",
)  # fmt: skip
_SLOW = {"SLOW_S": "0.01"}  # a second in all: what is to come at some time of the training does


def _lay_out(folder: Path) -> None:
    """Write the data set and its pictures."""
    import numpy
    from PIL import Image

    (folder / "own_pictures.py").write_text(PICTURES)
    (folder / "pictures").mkdir()
    pixels = numpy.random.default_rng(0).integers(0, 255, (NUM, 8, 8, 3), dtype=numpy.uint8)
    for number in range(NUM):
        Image.fromarray(pixels[number]).save(folder / "pictures" / f"{number:03}.png")


def _clean() -> Path:
    def make(folder: Path) -> None:
        _lay_out(folder)
        succeed(*WORDS, "data.num_workers=2", folder=folder, environment=_SLOW)

    return once("own-pictures", make) / "run"


# ---- workers that die or hang ---------------------------------------------------------------------------------------


def dies(
    fault: str, number: int, workers: int = 2, *, before: Callable[[], None] | None = None, fresh: bool = False
) -> Trial:
    """Return the try of a worker that dies once at a picture: told, replaced, the result that of the clean run."""

    def do(folder: Path) -> None:
        expected = outcome(_clean())
        _lay_out(folder)
        command = Command(
            *WORDS,
            f"data.num_workers={workers}",
            environment={"FAULT": f"{fault} {number}"},
            before=before,
            fresh=fresh,
        )
        status = command.finish()
        require(status == 0, f"ended with {status}: {command.output[-400:]}")
        require((folder / "faulted").exists(), "no worker died")
        told = next((line for line in command.output.splitlines() if "started anew" in line), "")
        require(f"pictures/{number:03}.png" in told, f"the warning does not name the picture: {told or 'none'}")
        require(fault != "bus" or "/dev/shm" in told, f"the warning does not name what is full: {told}")
        require_equal(outcome(folder / "run"), expected, "with a worker replaced")

    return Trial(f"one of {workers} workers dies ({fault}) at picture {number}", do)


def killed_from_outside(share: float, which: int = 0, *, before: Callable[[], None] | None = None) -> Trial:
    """Return the try of a worker that is killed, whatever it does: told, replaced, the result that of the clean run.

    Args:
        share: of the time that the clean run trains, after the first worker's start; up to 0.6 there is more to read.
        which: of the workers that there are then.
    """

    def do(folder: Path) -> None:
        expected = outcome(_clean())
        training_s = max(record["time"] for record in records(_clean() / "metrics.jsonl") if record["split"] == "train")
        _lay_out(folder)
        command = Command(*WORDS, "data.num_workers=2", environment=_SLOW, before=before)
        wait_for(lambda: _workers(command.pid), 30, command)
        time.sleep(share * training_s)
        there = _workers(command.pid)
        require(there, f"no worker was there to be killed: {command.output[-400:]}")
        os.kill(there[which % len(there)], signal.SIGKILL)
        status = command.finish()
        require(status == 0, f"ended with {status}: {command.output[-400:]}")
        require("all workers were started anew" in command.output, f"it is not told: {command.output[-400:]}")
        require_equal(outcome(folder / "run"), expected, "with a worker killed")

    return Trial(f"a worker is killed after {share:.2f} of the training", do)


def _workers(pid: int) -> list[int]:
    """Return a run's data workers, which torch names so; a run has other children too, for a moment."""
    found = []
    with contextlib.suppress(OSError):
        for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{word}/comm").read_text().strip() == "pt_data_worker":
                found.append(int(word))
    return found


def ends(fault: str, number: int, says: str, before: Callable[[], None] | None = None) -> Trial:
    """Return the try of what cannot be mended: the run ends soon with 5, names the picture, leaves no process."""

    def do(folder: Path) -> None:
        _lay_out(folder)
        environment = {"FAULT": f"{fault} {number}", "FAULT_ALWAYS": "1"}
        command = Command(
            *WORDS, "data.num_workers=2", "data.timeout_s=2", environment=environment, before=before, own_group=True,
            fresh=before is None,  # a fork leaves without what ends workers that are idle
        )  # fmt: skip
        try:
            status = command.finish(40)
        except Broken:
            os.killpg(command.pid, signal.SIGKILL)  # stopped workers too
            raise
        require(status == 5, f"ended with {status}, expected 5: {command.output[-400:]}")
        line = next((line for line in command.output.splitlines() if line.startswith("dlwp: error")), "")
        require(says in line, f"does not say {says!r}: {line}")
        require(f"pictures/{number:03}.png" in line, f"does not name the picture: {line}")
        time.sleep(0.05)
        left = _group_of(command.pid)
        require(not left, f"{len(left)} processes are left")

    return Trial(f"{fault} at picture {number}, always: ends", do)


def _group_of(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


# ---- bad pictures ---------------------------------------------------------------------------------------------------


def _picture(mode: str, size: tuple[int, int], form: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert(mode).save(buffer, form)
    return buffer.getvalue()


def _bomb() -> bytes:
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + bytes(64)


def _broken_crc(data: bytes) -> bytes:
    at = data.index(b"IDAT") + 8
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


BAD: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "text": lambda data: b"not found\n",
    "truncated PNG": lambda data: data[: len(data) * 2 // 3],
    "HTML": lambda data: b"<!DOCTYPE html><html><body>503</body></html>",
    "CMYK": lambda data: _picture("CMYK", (8, 8), "JPEG"),
    "16 bit": lambda data: _picture("I", (8, 8), "PNG"),
    "bomb": lambda data: _bomb(),
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: random.Random(0).randbytes(len(data)),
    "broken CRC": _broken_crc,
    "header alone": lambda data: data[:33],
    "one byte": lambda data: data[:1],
    "grey": lambda data: _picture("L", (8, 8), "PNG"),
    "palette": lambda data: _picture("P", (8, 8), "GIF"),
    "another size": lambda data: _picture("RGB", (9, 8), "PNG"),
    "truncated JPEG": lambda data: _picture("RGB", (64, 64), "JPEG")[:900],
    "truncated TIFF": lambda data: _picture("RGB", (8, 8), "TIFF")[:90],
}  # fmt: skip
_ODD = ("missing", "a folder", "a dangling link", "a circle of links")


def _spoil(path: Path, kind: str) -> None:
    data = path.read_bytes()
    if kind in BAD:
        path.write_bytes(BAD[kind](data))
        return
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind != "missing":
        path.symlink_to(path.name if kind == "a circle of links" else "nowhere")


def bad_is_named(kind: str, number: int, workers: int, before: Callable[[], None] | None = None) -> Trial:
    """Return the try of a bad picture with on_error=error: the run ends with one error that names its file."""

    def do(folder: Path) -> None:
        _lay_out(folder)
        _spoil(folder / "pictures" / f"{number:03}.png", kind)
        command = Command(*WORDS, f"data.num_workers={workers}", before=before)
        status = command.finish(60)
        require(status in (3, 5), f"ended with {status}, expected 3 (or 5, from the data set's own check)")
        require(f"pictures/{number:03}.png" in command.output, f"does not name it: {command.output[-300:]}")

    return Trial(f"a picture that is {kind}, {workers} workers", do)


def bad_is_left_out(kinds: list[str], numbers: list[int], before: Callable[[], None] | None = None) -> Trial:
    """Return the try of bad pictures with on_error=skip: told once each, and the result the same for any workers."""

    def do(folder: Path) -> int:
        found = []
        for workers in (0, 1, 2):
            place = folder / str(workers)
            place.mkdir()
            _lay_out(place)
            for kind, number in zip(kinds, numbers, strict=True):
                _spoil(place / "pictures" / f"{number:03}.png", kind)
            succeed(*WORDS, f"data.num_workers={workers}", "data.on_error=skip", folder=place, before=before)
            found.append(outcome(place / "run"))
            _listed_once(place / "run", numbers)
        for other in found[1:]:
            require_equal(other, found[0], "with another number of workers")
        return 3

    return Trial(f"{', '.join(kinds)}: left out", do)


def _listed_once(run: Path, numbers: list[int]) -> None:
    lines = [json.dumps(record) for record in records(run / "left_out.jsonl")]
    for number in numbers:
        count = sum(f"pictures/{number:03}.png" in line for line in lines)
        require(count == 1, f"left_out.jsonl has picture {number} {count} times")
    require(len(lines) == len(numbers), f"left_out.jsonl has {len(lines)} lines, expected {len(numbers)}")
    summary = json.loads((run / "summary.json").read_text())
    told = summary.get("left_out")
    count = told if isinstance(told, int) else len(told or ())
    require(count == len(numbers), f"summary.json says left_out: {told!r}, expected {len(numbers)}")


_NUMBERS = (
    "data=dataset", "data._target_=own_pictures.numbers", "data.mean=null", "data.std=null", "data.loader=workers",
    "data.on_error=skip", "criterion=cross_entropy", "metrics=classification", "model=mlp", "trainer.epochs=1",
    "logger.tensorboard=false", "logger.plots=false",
)  # fmt: skip


def too_many_left_out(count: int, limit: int, workers: int = 2, before: Callable[[], None] | None = None) -> Trial:
    """Return the try of on_error=skip with `limit` bad samples of `count`, which go through, and one more, which ends.

    The limit is 1% of the samples, or 100 where that is more, but never half of them.
    """

    def do(folder: Path) -> int:
        (folder / "own_pictures.py").write_text(PICTURES)
        typed = (*_NUMBERS, f"+data.count={count}", f"data.batch_size={count // 10}", f"data.num_workers={workers}")
        succeed(*typed, f"+data.bad={limit}", "run_dir=run", before=before)
        found = json.loads((folder / "run" / "summary.json").read_text())["left_out"]
        require(found == limit, f"left_out is {found}, expected {limit}")
        command = Command(*typed, f"+data.bad={limit + 1}", "run_dir=more", before=before)
        status = command.finish()
        require(status == 3, f"{limit + 1} are bad: ended with {status}, expected 3: {command.output[-400:]}")
        says = f"{limit + 1:,} of {count:,} samples cannot be read, too many for data.on_error=skip"
        require(says in command.output, f"does not say {says!r}: {command.output[-400:]}")
        return 2

    return Trial(f"{limit} of {count} samples are left out, not {limit + 1}", do)


# ---- the promise ----------------------------------------------------------------------------------------------------


def _trials(scale: Scale) -> list[Trial]:
    draw = scale.random("workers")

    def number() -> int:
        return draw.randrange(1, NUM)

    kinds = [*BAD, *_ODD]
    some = kinds if scale.is_full else draw.sample(kinds, scale.count(1, 5, len(kinds)))
    deaths = scale.count(1, 3, 10)
    trials = [dies("kill", number(), fresh=not scale.is_fast and turn == 0) for turn in range(deaths)]
    trials += [dies("exit", number()) for _ in range(deaths)]
    if not scale.is_fast:
        trials += [dies("bus", number()), dies("kill", number(), 5)]
        outside = scale.count(0, 3, 10)
        trials += [killed_from_outside(0.0, turn) for turn in range(outside)]
        trials += [killed_from_outside(draw.uniform(0, 0.6), draw.randrange(4)) for _ in range(outside)]
        trials += [too_many_left_out(40, 19), too_many_left_out(400, 100, 0), too_many_left_out(20_000, 200)]
        trials += [ends("kill", number(), "twice")]
        trials += [ends("stop", 90, "no answer from the data workers for 2 s")] * 2  # read ahead, as an epoch begins
    trials += [ends("stop", number(), "no answer from the data workers for 2 s") for _ in range(scale.count(1, 2, 10))]
    for kind in some:
        trials += [bad_is_named(kind, number(), workers) for workers in ((2,) if scale.is_fast else (0, 2))]
    if scale.is_full:
        trials += [bad_is_left_out([kind], [number()]) for kind in kinds]
    trials.append(bad_is_left_out(some[:4], draw.sample(range(1, NUM), len(some[:4]))))
    return trials


def _without_replacement() -> None:
    from dlwp.data.streaming import StreamingLoader
    from dlwp.errors import RunError

    found = StreamingLoader._worker_fault

    def fault(self: Any, *arguments: Any) -> Any:
        told = found(self, *arguments)
        return RunError(str(told)) if type(told).__name__ == "_Death" else told

    StreamingLoader._worker_fault = fault  # type: ignore[method-assign]


def _without_places() -> None:
    from dlwp.data import reading

    reading.get_worker_info = lambda: None  # type: ignore[assignment]


def _drawn_from_the_process() -> None:
    from dlwp import randomness

    derive = randomness.derive

    def drawn(seed: int, purpose: str, *counters: int) -> int:
        return derive(os.getpid() if purpose == "replacement" else seed, purpose, *counters)

    randomness.derive = drawn


def _controls(scale: Scale) -> list[Trial]:
    return [
        dies("kill", 30, before=_without_replacement),
        replace(killed_from_outside(0.3, before=_without_replacement), breaks="ended with 5"),
        ends("stop", 30, "no answer", before=_without_places),
        bad_is_left_out(["text"] * 4, [11, 42, 63, 84], before=_drawn_from_the_process),
    ]


PROMISES = [
    Promise(
        11, "workers", "A worker that dies, hangs or meets a bad sample never hangs the run; the sample is named.",
        _trials, _controls,
    )
]  # fmt: skip
