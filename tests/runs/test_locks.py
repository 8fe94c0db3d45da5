"""A lock is free once its holder is gone, however it went."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from dlwp.runs import locks
from dlwp.runs.locks import Lock

HOLD = """
import os, sys, time
from pathlib import Path
from dlwp.runs.locks import Lock
held = Lock.take(Path("locks/one"))
reader, writer = os.pipe()
if os.fork() == 0:  # as a worker that loads data
    os.write(writer, b"1")
    time.sleep(30)
    os._exit(0)
os.read(reader, 1)  # it is there, and has let go of what is not its own
print("held", flush=True)
time.sleep(30)
"""


def test_a_lock_is_held_by_one_and_free_once_its_holder_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert Lock.take(Path("locks/one")) is None
        assert f"process {process.pid}" in locks.holder(Path("locks/one"))
        process.kill()
        process.wait()
        lock = Lock.take(Path("locks/one"))  # its worker lives on, and has it not
        assert lock is not None
        lock.release()
        with locks.waited_for(Path("locks/one")):
            assert Lock.take(Path("locks/one")) is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()  # type: ignore[union-attr]
