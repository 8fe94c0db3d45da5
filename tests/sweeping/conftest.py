"""Own what the tests of sweeps stand on: the command in this process, and in one of its own that is cut at a moment."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlwp.commands import train

CODE = "import sys; sys.argv[0] = 'dlwp-train'\nfrom dlwp.commands.train import main\nraise SystemExit(main())"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that types words behind `dlwp-train -m`."""

    def type_in(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["dlwp-train", "-m", *words])
        return train.main()

    return type_in


@pytest.fixture
def cut() -> Callable[..., tuple[int, str]]:
    """Return a function that starts `dlwp-train -m WORDS`, cuts it by a signal when a condition holds, and returns
    its status and what it printed.
    """

    def run(words: list[str], when: Callable[[], bool], number: signal.Signals) -> tuple[int, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            until = time.monotonic() + 120
            while not when():
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < until
                time.sleep(0.02)
            process.send_signal(number)
            return process.wait(60), process.communicate()[0]
        finally:
            process.kill()
            process.wait()

    return run


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of JSON lines, none where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def has_saved(folder: Path, *numbers: int) -> Callable[[], bool]:
    """Return a function that tells whether the runs of these numbers have a checkpoint."""

    def asked() -> bool:
        found = {path.parts[-3].partition("_")[0] for path in folder.glob("*/checkpoints/last")}
        return {str(number) for number in numbers} <= found

    return asked


def exits(folder: Path) -> dict[str, str]:
    """Return the exit of each run in a sweep's folder, by its number."""
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/summary.json")}
    return {name.partition("_")[0]: summary["exit"] for name, summary in sorted(found.items())}
