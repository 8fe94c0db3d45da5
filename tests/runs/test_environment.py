"""What the report of where a run ran promises: versions without imports, the commit, and no failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from dlwp.runs import environment


def test_the_report_is_json_with_versions_machine_and_what_was_given() -> None:
    found = json.loads(json.dumps(environment.collect(device="cpu", threads=2)))
    assert found["packages"]["torch"]
    assert (found["device"], found["threads"]) == ("cpu", 2)
    assert found["processors"] >= 1
    assert found["processor"]
    assert found["git"] is None


def test_nothing_slow_is_imported() -> None:
    program = (
        "from dlwp.runs import environment, folder, history, table, files; environment.collect()\n"
        "import sys; slow = {'torch', 'numpy', 'hydra', 'omegaconf'} & set(sys.modules); assert not slow, slow"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_commit_is_told_and_whether_the_tree_was_clean(own_place: Path) -> None:
    def git(*words: str) -> str:
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *name, *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    Path("a").touch()
    git("add", "a")
    git("commit", "-qm", "a")
    assert environment.git_state(own_place) == {"commit": git("rev-parse", "HEAD"), "clean": True}
    Path("b").touch()
    assert environment.git_state(own_place) == {"commit": git("rev-parse", "HEAD"), "clean": False}


def test_other_work_is_what_other_processes_do_and_not_ones_own() -> None:
    found = environment.OtherWork()
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        pass
    own = found.busy()
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        found = environment.OtherWork()
        time.sleep(1.5)
        crowded = found.busy()
    finally:
        for other in others:
            other.kill()
            other.wait()
    if sys.platform == "linux":
        assert crowded > own - 0.5 and crowded > 0.5
    assert environment.OtherWork().busy() == 0
