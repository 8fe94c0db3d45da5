"""Own the profile of a run: a trace of a few steps that opens in a browser, and the ten costliest operations.

Knows nothing of what the run trains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlwp.runs import files


class Profiling:
    """Profile steps 6 to 10 with torch.profiler; write `trace.json` (chrome://tracing, Perfetto) and `operations.txt`.

    Args:
        folder: where the two files go; made if it is not there.
    """

    watcher = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._profiler: Any = None

    def on_start(self, event: Any) -> None:
        """Begin to count steps."""
        import torch

        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=4, warmup=1, active=5, repeat=1),
            on_trace_ready=self._write,
            acc_events=True,
        )
        self._profiler.start()

    def on_step(self, event: Any) -> None:
        """Tell the profiler that a step is over."""
        if self._profiler is not None:
            self._profiler.step()

    def on_end(self, event: Any) -> None:
        """Stop, if the run was too short for a trace of five steps."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _write(self, profiler: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._folder / "trace.json"))
        table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=10)
        files.write_atomic(self._folder / "operations.txt", table + "\n")
