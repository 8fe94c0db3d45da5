"""Own the process of one job among several: it takes its job from its input, and saves and ends when its parent dies.

Knows nothing of the other jobs.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from pathlib import Path
from typing import Any


def main() -> int:
    """Do the job that comes through the standard input; return its status."""
    from dlwp.config import compose
    from dlwp.config.catalog import Catalog
    from dlwp.sweeping import jobs

    for name in (signal.SIGINT, signal.SIGTERM):  # until the run listens itself: nothing is there to be saved
        signal.signal(name, lambda received, frame: os._exit(128 + received))
    context, number, words = pickle.load(sys.stdin.buffer)  # from the process that started this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with compose.prepared(Catalog()):
            _do(context, number, words)
    except KeyboardInterrupt:
        return 130
    folder = context[2].hydra.sweep.dir
    last = jobs.ends(Path(folder)).get(number)
    return int(last["exit_code"]) if last else 5


def _do(context: tuple[Any, Any, Any], number: int, words: list[str]) -> None:
    """Do what Hydra's own launcher does of a job."""
    from hydra import version
    from hydra.core.utils import run_job, setup_globals
    from omegaconf import open_dict

    from dlwp.config import compose

    hydra_context, task, config = context
    setup_globals()
    if compose.VERSION_BASE:
        version.setbase(compose.VERSION_BASE["version_base"])
    composed = hydra_context.config_loader.load_sweep_config(config, words)
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
    done = run_job(
        hydra_context=hydra_context, task_function=task, config=composed,
        job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
    )  # fmt: skip
    assert done.return_value is not None  # raises what the job raised: it should not


def _end_with_parent() -> None:
    """Wait for the end of the input, which comes when the parent is gone, and stop as at a signal: saved."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
