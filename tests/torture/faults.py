"""Own the faults that a torture plants: a kill at a step, and a file system that dies or lies at a chosen call."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any, NamedTuple

KILL_AT = '''
import os, pathlib, signal, time
import torch

class KillAt:
    """Kills the process where the environment says: "step 9", "evaluation 7", "test 21", "save 8", "start 0", "end 21".

    KILL_WITH names another signal. The file `.training` says that the training has begun; time.monotonic() is in
    `.signalled` when the signal is sent, and in `.tested`, once the test is done, when its last batch had begun.
    """

    def __init__(self):
        self.where, _, step = os.environ.get("KILL_AT", "").partition(" ")
        self.step = int(step or 0)
        self.number = getattr(signal, os.environ.get("KILL_WITH", "SIGKILL"))
        self.began = 0.0

    def _kill(self, where, step):
        if where == self.where and step == self.step:
            self.where = ""
            pathlib.Path(".signalled").write_text(str(time.monotonic()))
            os.kill(os.getpid(), self.number)

    def on_start(self, event):
        pathlib.Path(".training").touch()
        self._kill("start", event.step)

    def on_step(self, event):
        self._kill("step", event.step)

    def on_evaluation_step(self, event):
        if event.split == "test" and event.done == event.total:
            pathlib.Path(".tested").write_text(str(self.began))
        self.began = time.monotonic()
        self._kill("evaluation" if event.split == "val" else event.split, event.trainer.state.progress.step)

    def on_save(self, event):
        self._kill("save", event.step)

    def on_end(self, event):
        self.began = time.monotonic()
        self._kill("end", event.step)


class PlantNaN:
    """Augments: a picture as dark as few are becomes NaN, and so does the loss of its step."""

    def __call__(self, inputs, targets, generator):
        inputs = inputs.float()
        dark = inputs.flatten(1).mean(1) < inputs.mean() - 1.8 * inputs.flatten(1).mean(1).std()
        return torch.where(dark[:, None, None, None], torch.nan, inputs), targets


class Unreadable(torch.utils.data.Dataset):
    """97 samples, of which four cannot be read."""

    classes = ["even", "odd"]

    def __len__(self):
        return 97

    def __getitem__(self, index):
        if index % 30 == 7:
            raise OSError(5, "Input/output error", f"sample-{index}")
        return torch.randn(8, generator=torch.Generator().manual_seed(index)) + index % 2, index % 2
'''
"""A user's code, to be written beside the command as kill_at.py: +callbacks.kill._target_=kill_at.KillAt"""


def write_kill_at(folder: Path) -> None:
    """Lay the user's code beside the command."""
    (folder / "kill_at.py").write_text(KILL_AT)


class Call(NamedTuple):
    """A call that was made: "write", what it was given (as bytes where they were written), what it returned."""

    name: str
    arguments: tuple[Any, ...]
    found: Any


class FaultyDisk:
    """Stands in for `os` in `dlwp.runs.files`, the one door for writes: counts the calls, and fails at one.

    Args:
        at: the number of the call (from 1) that fails; 0 only counts.
        how: "kill" (the process ends as if by SIGKILL), "half" (writes half, then ends), "short" (a write takes half
            and says so), or the name of an errno ("ENOSPC"), which is raised.
        after: do the call first, then fail.
        lasting: all calls from `at` on fail.
        only: the calls that count; None: all that write.
        within: part of the path that a call must have to count; calls on a descriptor have that of its file.
        left_out: calls that are not made at all, to see what they are for.

    Attributes:
        count: of the calls so far. log: the calls that were made.
    """

    CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate", "symlink")

    def __init__(
        self, at: int = 0, how: str = "kill", *, after: bool = False, lasting: bool = False,
        only: tuple[str, ...] | None = None, within: str = "", left_out: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.at, self.how, self.after, self.lasting = at, how, after, lasting
        self.only = only or self.CALLS
        self.within = within
        self.left_out = left_out
        self.count = 0
        self.log: list[Call] = []
        self._paths: dict[int, str] = {}
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.CALLS:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            with self._lock:  # the log has the order in which the calls were made, whatever the thread
                return numbered(*arguments, **options)

        def numbered(*arguments: Any, **options: Any) -> Any:
            path = self._paths.get(arguments[0], "") if isinstance(arguments[0], int) else str(arguments[0])
            if name in self.left_out:
                return None
            if name not in self.only or self.within not in path:
                return self._done(name, arguments, real(*arguments, **options))
            self.count += 1
            due = self.at and (self.count >= self.at if self.lasting else self.count == self.at)
            if due and self.how == "short":
                arguments = (
                    (arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2]) if name == "write" else arguments
                )
            elif due and not self.after:
                self._fail(name, real, arguments)
            found = self._done(name, arguments, real(*arguments, **options))
            if due and self.after and self.how != "short":
                self._fail(name, real, arguments)
            return found

        return call

    def _done(self, name: str, arguments: tuple[Any, ...], found: Any) -> Any:
        if name == "open":
            self._paths[found] = str(arguments[0])
        if name == "write":
            arguments = (arguments[0], bytes(arguments[1])[:found])
        self.log.append(Call(name, arguments, found))
        return found

    def _fail(self, name: str, real: Any, arguments: tuple[Any, ...]) -> None:
        if self.how == "half" and name == "write":
            real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
        if self.how in ("kill", "half"):
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.how)
        raise OSError(number, os.strerror(number))

    def install(self) -> FaultyDisk:
        """Let dlwp write through this from now on, in this process."""
        from dlwp.runs import files

        files.os = self  # type: ignore[assignment]
        return self

    def remove(self) -> None:
        """Let dlwp write as it would."""
        from dlwp.runs import files

        files.os = os
