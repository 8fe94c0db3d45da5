"""Own how a torture starts dlwp's commands, and when two runs count as equal."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from torture.kit import Broken, require

TIMELESS = {"time", "elapsed_s", "samples_per_s", "warnings", "dlwp", "torch", "offset", "audit", "aside"}
"""What may differ between two equal runs: times, releases, and the lengths of files whose lines hold times."""

_SUMMARY = ("exit", "step", "epoch", "best", "last", "test", "left_out", "skipped_steps", "rollbacks")

_MAIN = "import sys; from dlwp.commands.{name} import main; sys.exit(main())"


class Command:
    """A command of dlwp that runs in a process of its own.

    Args:
        words: of the command line.
        folder: where the person stands.
        fresh: a new interpreter; else a fork of this one, which has torch imported (10 times as fast to start).
        name: "train", "evaluate" or "runs".
        environment: further variables.
        before: called in the forked process first, to break something (only with fresh=False).
    """

    def __init__(
        self, *words: str, folder: Path | None = None, fresh: bool = False, name: str = "train",
        environment: dict[str, str] | None = None, before: Any = None, own_group: bool = False,
    ) -> None:  # fmt: skip
        self.words = words
        self._folder = folder or Path.cwd()
        self._log = self._folder / f".command-{time.time_ns():x}.log"
        variables = {"OMP_NUM_THREADS": "1", **(environment or {})}
        self._popen: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        if fresh:
            assert before is None
            with self._log.open("wb") as log:
                self._popen = subprocess.Popen(
                    [sys.executable, "-c", _MAIN.format(name=name), *words], cwd=self._folder, stdout=log,
                    stderr=subprocess.STDOUT, env={**os.environ, **variables}, start_new_session=own_group,
                )  # fmt: skip
            self.pid = self._popen.pid
        else:
            sys.stdout.flush()
            self.pid = os.fork()
            if self.pid == 0:
                self._become(name, variables, before, own_group)

    def _become(self, name: str, variables: dict[str, str], before: Any, own_group: bool) -> None:
        status = 99
        try:
            if own_group:
                os.setsid()
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT, 0o666)
            for stream in (1, 2):
                os.dup2(log, stream)
            os.chdir(self._folder)
            os.environ.update(variables)
            sys.argv = [f"dlwp-{name}", *self.words]
            if before is not None:
                before()
            import importlib

            status = importlib.import_module(f"dlwp.commands.{name}").main()
            sys.stdout.flush()
        finally:
            os._exit(status)

    def send(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, if it still runs, and wait for its end."""
        self.send(signal.SIGKILL)
        self.finish()

    def poll(self) -> int | None:
        """Return the exit status (negative: the signal), None while it runs."""
        if self._status is None:
            if self._popen is not None:
                self._status = self._popen.poll()
            else:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def finish(self, limit_s: float = 120.0) -> int:
        """Wait for its end and return the exit status (negative: the signal)."""
        end = time.monotonic() + limit_s
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise Broken(f"no end after {limit_s:g} s: {' '.join(self.words)}\n{self.output}")
            time.sleep(0.005)
        return status

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def succeed(*words: str, **options: Any) -> str:
    """Run a command that must end with 0, and return what it said."""
    command = Command(*words, **options)
    status = command.finish()
    require(status == 0, f"{' '.join(words)} ended with {status}: {_last(command.output)}")
    return command.output


def fail(status: int, *words: str, **options: Any) -> str:
    """Run a command that must end with `status`, in one line and no traceback, and return what it said."""
    command = Command(*words, **options)
    found = command.finish()
    require(found == status, f"{' '.join(words)} ended with {found}, expected {status}: {_last(command.output)}")
    require("Traceback" not in command.output, f"{' '.join(words)} shows a traceback: {_last(command.output)}")
    return command.output


def _last(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-4:])


def wait_for(what: Any, limit_s: float = 60.0, command: Command | None = None) -> bool:
    """Wait until `what()` holds; return whether it did before the limit and before the command's end."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if what():
            return True
        if command is not None and command.poll() is not None:
            return bool(what())
        time.sleep(0.003)
    return False


def steps_of(run: Path) -> int:
    """Return the last step that metrics.jsonl tells of, 0 where there is none."""
    found = records(run / "metrics.jsonl")
    return int(found[-1]["step"]) if found else 0


def records(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a file of JSON lines."""
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def timeless(found: Any, but: tuple[str, ...] = ()) -> Any:
    """Return nested containers without what may differ between two equal runs, nor the keys of `but`."""
    if isinstance(found, dict):
        return {key: timeless(value, but) for key, value in found.items() if key not in TIMELESS and key not in but}
    return [timeless(value, but) for value in found] if isinstance(found, list) else found


def outcome(run: Path, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return all of a run that must be equal: pointers, tensors and state behind them, metrics, audit, summary.

    Args:
        run: its folder. but: keys of state.json left out, of what two runs were told to do differently.
    """
    pointers = {
        name: (run / "checkpoints" / name).read_text().strip()
        for name in ("best", "last")
        if (run / "checkpoints" / name).exists()
    }
    hashes = {
        f"{pointer}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for pointer, folder in pointers.items()
        for path in sorted((run / "checkpoints" / folder).glob("*.safetensors"))
    }
    summary = json.loads((run / "summary.json").read_text())
    states = {
        pointer: timeless(json.loads((run / "checkpoints" / folder / "state.json").read_text()), but)
        for pointer, folder in pointers.items()
    }
    kept = {key: timeless(summary[key]) for key in _SUMMARY}
    lines = {name: timeless(records(run / f"{name}.jsonl")) for name in ("metrics", "audit")}
    return {"pointers": pointers, "hashes": hashes, **lines, "states": states, "summary": kept}
