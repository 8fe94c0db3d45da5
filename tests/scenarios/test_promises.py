"""Each promise of a run, tried in its fast form by the command that tries it at length: `scripts/torture`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torture.__main__ import promises

NAMES = [promise.name for promise in promises()]


def environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout / "src"), str(checkout / "tests")])}


@pytest.mark.parametrize("name", NAMES)
def test_promise_is_kept_and_its_negative_controls_break(name: str, checkout: Path) -> None:
    words = [sys.executable, "-m", "torture", name, "--fast", "--workers", "1"]
    found = subprocess.run(words, env=environment(checkout), capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
