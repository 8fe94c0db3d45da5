"""Own the faults that a torture plants: a kill at a step, and a file system that dies or lies at a chosen call."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

KILL_AT = '''
import os, signal

class KillAt:
    """Kills the process where the environment says: "step 9", "evaluation 7", "save 8", "start 0", "end 21"."""

    def __init__(self):
        self.where, _, step = os.environ.get("KILL_AT", "").partition(" ")
        self.step = int(step or 0)

    def _kill(self, where, step):
        if where == self.where and step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_start(self, event):
        self._kill("start", event.step)

    def on_step(self, event):
        self._kill("step", event.step)

    def on_evaluation_step(self, event):
        self._kill("evaluation", event.trainer.state.progress.step)

    def on_save(self, event):
        self._kill("save", event.step)

    def on_end(self, event):
        self._kill("end", event.step)
'''
"""A user's callback, to be written beside the command as kill_at.py: +callbacks.kill._target_=kill_at.KillAt"""


def write_kill_at(folder: Path) -> None:
    """Lay the callback beside the command."""
    (folder / "kill_at.py").write_text(KILL_AT)


class FaultyDisk:
    """Stands in for `os` in `dlwp.runs.files`, the one door for writes: counts the calls, and fails at one.

    Args:
        at: the number of the call (from 1) that fails; 0 only counts.
        how: "kill" (the process ends as if by SIGKILL), "half" (writes half, then ends), or the name of an errno
            ("ENOSPC"), which is raised.
        after: do the call first, then fail.
        lasting: all calls from `at` on fail.
        only: the calls that count; None: all that write.
        within: part of the path that a call must have to count (calls on descriptors always count).
    """

    CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "ftruncate", "symlink")

    def __init__(
        self, at: int = 0, how: str = "kill", *, after: bool = False, lasting: bool = False,
        only: tuple[str, ...] | None = None, within: str = "",
    ) -> None:  # fmt: skip
        self.at, self.how, self.after, self.lasting = at, how, after, lasting
        self.only = only or self.CALLS
        self.within = within
        self.count = 0
        self.log: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.CALLS:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            on_path = not isinstance(arguments[0], int)
            if name not in self.only or (on_path and self.within not in str(arguments[0])):
                return real(*arguments, **options)
            self.count += 1
            due = self.at and (self.count >= self.at if self.lasting else self.count == self.at)
            if due and not self.after:
                self._fail(name, real, arguments)
            found = real(*arguments, **options)
            self.log.append((name, *arguments))
            if due and self.after:
                self._fail(name, real, arguments)
            return found

        return call

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
