"""Promise 5: a disk that fills costs no checkpoint and leaves no junk, is named, and training goes on.

Faults are raised at dlwp's own calls, and made by a true disk, a small one in memory.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torture import kit, mounts
from torture.commands import Command, outcome, records, succeed
from torture.faults import FaultyDisk
from torture.kit import Promise, Scale, Trial, require, require_equal
from torture.small_run import (
    clean_weights,
    forked,
    require_nothing_left,
    require_resumable,
    require_whole,
    run,
    weights,
)

FULL = ("ENOSPC", "EDQUOT", "EFBIG")
RUN = (
    "data=synthetic", "data.num_train=20", "data.num_val=10", "data.num_test=10", "data.shape=[3,8,8]",
    "data.batch_size=10", "model=linear", "trainer.epochs=5", "trainer.checkpoint_every=2 steps", "trainer.log_every=1",
    "trainer.keep_best=false",
)  # fmt: skip

Patch = Callable[[], None]


class During:
    """Calls `begin` before step `first` and `end` after step `last`, and looks at metrics.jsonl after each step."""

    def __init__(self, path: Path, first: int, last: int, begin: Callable[[], Any], end: Callable[[], Any]) -> None:
        self._metrics = path / "metrics.jsonl"
        self._first, self._last = first, last
        self._begin, self._end = begin, end

    def on_step(self, event: Any) -> None:
        if event.step == self._first:
            _wait_for_saves()
            self._begin()
        data = self._metrics.read_bytes() if self._metrics.exists() else b""
        require(data[-1:] in (b"", b"\n"), f"metrics.jsonl is torn: {data[-80:]!r}")

    def on_epoch(self, event: Any) -> None:
        if event.step == self._last:
            _wait_for_saves()
            self._end()


def _wait_for_saves() -> None:
    """Wait for the save that is being written, so that it meets the whole of a fault or nothing of it."""
    for thread in threading.enumerate():
        if thread.name == "saving":
            thread.join()


def ended(folder: Path, path: Path, observers: list[Any], **options: Any) -> tuple[int, str, int]:
    """Train in a fork; return its status, all that it warned of and raised, and how many saves were told of."""
    said, saved = folder / "said", folder / "saved"
    for file in (said, saved):
        file.unlink(missing_ok=True)

    class Told:
        def warn(self, text: str) -> None:
            with said.open("a") as file:
                file.write(text + "\n")

        def on_save(self, event: Any) -> None:
            with saved.open("a") as file:
                file.write(f"{event.step}\n")

    told = Told()

    def job() -> None:
        from dlwp.errors import DlwpError

        try:
            run(path, [told, *observers], **options)
        except DlwpError as error:
            told.warn(str(error))
            os._exit(error.exit_code)
        except kit.Broken as error:  # of an observer that looks on
            told.warn(str(error))
            raise

    status = forked(job)
    count = len(saved.read_text().split()) if saved.exists() else 0
    return status, said.read_text() if said.exists() else "", count


def failing(how: str, *, lasting: bool, start: int = 1, stride: int = 1, patch: Patch | None = None) -> Trial:
    """Return the try of the small run whose disk fails at call start, start + stride... of steps 3 to 6.

    What `patch` breaks of dlwp is broken only after the clean run.
    """

    def do(folder: Path) -> int:
        expected = clean_weights(folder, epochs=5)
        if patch is not None:
            patch()
        at, tries = start, 0
        while True:
            path, met = folder / "run", folder / "met"
            disk = FaultyDisk(at, how, lasting=lasting, only=("open", "write", "fsync", "mkdir", "rename", "replace"))

            def end(disk: FaultyDisk = disk, met: Path = met, at: int = at) -> None:
                disk.remove()
                met.write_text(str(int(disk.count >= at)))

            during = During(path, 3, 6, disk.install, end)
            try:
                status, said, saved = ended(folder, path, [during], epochs=5)
                was_met = met.read_text() == "1" if met.exists() else True
                _require_survived(path, expected, status, said, saved, how)
                require(was_met or not said, f"no fault, but: {said}")
            except kit.Broken as error:
                raise kit.Broken(f"{how}{' from' if lasting else ' at'} call {at}: {error}") from error
            shutil.rmtree(path)
            met.unlink()
            tries += 1
            if not was_met:
                require(tries > 1, "no call was met: nothing is shown")
                return tries
            at += stride

    kind = "lasting" if lasting else "once"
    return Trial(f"{how}, {kind}, at every {stride}. call from {start}", do, 1800)


def _require_survived(
    path: Path, expected: dict[str, str], status: int, said: str, saved: int, how: str | None
) -> None:
    require(status == 0, f"the run ended with {status}: {said}")
    require_whole(path, expected, 10)
    require_nothing_left(path)
    require_equal(weights(path)["step-00000010"], expected["step-00000010"], "the weights at the end")
    steps = [record["step"] for record in records(path / "metrics.jsonl")]
    require_equal(steps, list(range(1, 11)), "steps in metrics.jsonl")
    if saved < 5:
        require("not saved" in said, f"{5 - saved} saves failed without a word: {said!r}")
        _require_named(said, path, how)


def _require_named(said: str, path: Path, how: str | None) -> None:
    require(str(path) in said, f"the path is not named: {said}")
    require("last good: " in said, f"the last good step is not named: {said}")
    if how is None or how in ("ENOSPC", "EFBIG", "short"):
        require("disk of" in said and "GB" in said and "needed" in said, f"needed and free are not named: {said}")
    elif how == "EDQUOT":
        require("quota" in said, f"the quota is not named: {said}")
    else:
        require(os.strerror(getattr(errno, how)).lower() in said, f"the reason is not named: {said}")


def three_in_a_row(how: str) -> Trial:
    """Return the try of a disk that fails from step 3 on for ever: training goes on until three saves have failed."""

    def do(folder: Path) -> int:
        expected = clean_weights(folder, epochs=8)
        path = folder / "run"
        disk = FaultyDisk(1, how, lasting=True, only=("write", "mkdir"))
        during = During(path, 3, 99, disk.install, disk.remove)
        status, said, _ = ended(folder, path, [during], epochs=8)
        require(status == 5, f"ended with {status}: {said}")
        require("3 saves in a row" in said, f"it does not say why it ended: {said}")
        require(said.count("not saved") >= 3, f"not each failed save was told: {said}")
        _require_named(said, path, how)
        require_whole(path, expected, 2)
        require_nothing_left(path)
        require_resumable(path, expected, epochs=8)
        return 1

    return Trial(f"{how} for ever", do)


# ------------------------------------------------------------------------------------------------------ true disks


def true_disk(points: int) -> Trial:
    """Return the try of a small disk that fills at `points` places spread over the bytes of a save."""

    def do(folder: Path) -> int:
        mounts.own_mounts()
        width = 20_000
        disk = mounts.small_disk(folder / "disk", 6 * 2**20)
        expected = clean_weights(folder, epochs=5, width=width)
        one = sum(file.stat().st_size for file in (folder / "clean" / "checkpoints" / "step-00000010").iterdir())
        for point in range(points):
            path, free = disk / "run", one * point // points
            during = During(
                path, 3, 6, lambda free=free: mounts.fill(disk, free), lambda: (disk / "filler").unlink()
            )  # fmt: skip
            try:
                status, said, saved = ended(folder, path, [during], epochs=5, width=width)
                _require_survived(path, expected, status, said, saved, None)
                require(saved < 5, "every save had room: nothing is shown")
            except kit.Broken as error:
                raise kit.Broken(f"{free:,} bytes free of the {one:,} of a save: {error}") from error
            shutil.rmtree(path)
        return points

    return Trial(f"a disk that fills at {points} places of a save", do, 600)


FILL = '''
import os
from pathlib import Path

class Fill:
    """Leaves FREE bytes of the disk from step 3 to step LAST."""

    def __init__(self, free, last):
        self.free, self.last = free, last

    def on_step(self, event):
        from torture import disk, mounts

        if event.step == 3:
            disk._wait_for_saves()
            mounts.fill(Path(os.environ["DISK"]), self.free)
        if event.step == self.last:
            disk._wait_for_saves()
            Path(os.environ["DISK"], "filler").unlink()
'''


def watched(free: list[int], last: int) -> Trial:
    """Return the try of dlwp-train with all its watchers on a disk that has so few bytes left from step 3 to `last`."""
    words = (*RUN, "logger.tensorboard=true", "logger.plots=true", "+callbacks.fill._target_=fill.Fill")

    def do(folder: Path) -> int:
        mounts.own_mounts()

        def make(place: Path) -> None:
            (place / "fill.py").write_text(FILL)
            fills = ("+callbacks.fill.free=0", "+callbacks.fill.last=0", "run_dir=run")
            succeed(*words, *fills, folder=place, before=_no_filler, environment={"DISK": str(place)})

        expected = outcome(kit.once("watched", make) / "run")
        for number, left in enumerate(free):
            disk = mounts.small_disk(folder / f"disk-{number}", 8 * 2**20)
            (folder / "fill.py").write_text(FILL)  # and what the command says does not lie on the full disk
            fills = (f"+callbacks.fill.free={left}", f"+callbacks.fill.last={last}", f"run_dir={disk}/run")
            there = {"DISK": str(disk)}
            command = Command(*words, *fills, environment=there)
            status = command.finish()
            where = f"{left:,} bytes left until step {last}"
            require("Traceback" not in command.output, f"{where}: a traceback is shown: {command.output}")
            if last <= 10:
                require(status == 0, f"{where}: it ended with {status}: {command.output}")
                told = json.loads((disk / "run" / "summary.json").read_text())["warnings"]
                require(any(str(disk / "run") in text for text in told), f"{where}: summary.json does not tell: {told}")
            else:
                require(status == 5, f"{where}: it ended with {status}: {command.output}")
                require(str(disk / "run") in command.output.strip().splitlines()[-1], f"{where}: {command.output}")
                (disk / "filler").unlink()
                succeed(f"resume={disk}/run", before=_no_filler, environment=there)
            found = outcome(disk / "run")
            require_equal({**found, "summary": None}, {**expected, "summary": None}, where)
            require_nothing_left(disk / "run")
        return len(free)

    return Trial(f"watchers and keepers on a disk full until step {last}", do, 600)


def _no_filler() -> None:
    from torture import mounts

    mounts.fill = lambda folder, free: (folder / "filler").touch()  # type: ignore[assignment,return-value]


def warned_at_the_start() -> Trial:
    """Return the try of a disk with no room for the checkpoints to come: the run says so before it trains."""

    def do(folder: Path) -> int:
        mounts.own_mounts()
        disk = mounts.small_disk(folder / "disk", 2**20)
        words = [word for word in RUN if not word.startswith("data.shape")]
        command = Command(*words, "data.shape=[3,64,64]", "run_dir=run", "logger.tensorboard=false", folder=disk)
        command.finish()
        said = command.output
        require("checkpoints of" in said and "need" in said, f"no warning at the start: {said}")
        require(said.index("checkpoints of") < said.find("epoch 1/5") or "epoch 1/5" not in said, "warned too late")
        return 1

    return Trial("too little room for the checkpoints to come", do)


# --------------------------------------------------------------------------------------------------------- controls


def keep_junk() -> None:
    """Break dlwp: what a failed save leaves is not removed; all else is."""
    from dlwp.runs import files

    def sparing(remove: Callable[[Path], None]) -> Callable[[Path], None]:
        return lambda path: None if path.name.startswith(".tmp-") else remove(path)

    files.remove_tree = sparing(files.remove_tree)
    files.remove = sparing(files.remove)


def torn() -> None:
    """Break dlwp: a line that was written by half is left so."""
    from dlwp.runs import files

    def append_line(path: Path, text: str, at: int | None = None) -> int:
        descriptor = files.os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        files.os.write(descriptor, text.encode() + b"\n")
        files.os.close(descriptor)
        return path.stat().st_size

    files.append_line = append_line


def last_chance() -> None:
    """Break dlwp: the first failed save ends the run."""
    from dlwp.observers.saving import Saving

    Saving.__init__.__kwdefaults__["max_failed_saves"] = 1  # type: ignore[index]


def patched(trial: Trial, name: str, patch: Patch, breaks: str) -> Trial:
    """Return a try with something of dlwp broken first, as a control; `breaks` is what it must break with."""

    def do(folder: Path) -> int | None:
        patch()
        return trial.do(folder)

    return Trial(name, do, trial.limit_s, breaks)


def control(name: str, patch: Patch, breaks: str, how: str = "ENOSPC", **options: int) -> Trial:
    """Return the try of a failing disk with something of dlwp broken after the clean run, as a control."""
    return replace(failing(how, lasting=False, patch=patch, **options), name=name, breaks=breaks)


# -------------------------------------------------------------------------------------------------------- the whole


def _full_trials(scale: Scale) -> list[Trial]:
    if scale.is_fast:
        tries = [failing("ENOSPC", lasting=False, start=1 + scale.seed % 8, stride=8)]
        return [*tries, failing("short", lasting=False, stride=9), three_in_a_row("ENOSPC"), warned_at_the_start()]
    stride = 1 if scale.is_full else 5
    tries = [failing(how, lasting=lasting, stride=stride) for how in FULL for lasting in (False, True)]
    tries += [failing("short", lasting=False, stride=stride), *map(three_in_a_row, FULL), warned_at_the_start()]
    tries.append(true_disk(scale.count(2, 10, 50)))
    free = [4096 * number for number in range(scale.count(1, 2, 10))]
    return [*tries, watched(free, 6), watched([free[0], free[-1] + 8 * 4096], 99)]


def _full_controls(scale: Scale) -> list[Trial]:
    return [
        control("junk is left", keep_junk, r"left behind: \[.*\.tmp-", start=12, stride=2),
        control("one failed save ends the run", last_chance, "the run ended with 5: ", start=12, stride=2),
        control("half a line is left", torn, "metrics.jsonl is torn", how="short"),
    ]


PROMISES = [
    Promise(
        5,
        "full-disk",
        "A disk that fills loses no checkpoint, leaves no junk, is named, and training goes on until 3 saves failed.",
        _full_trials,
        _full_controls,
    ),
]
