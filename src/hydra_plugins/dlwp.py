"""Own what Hydra looks for under this name: dlwp's sweeper (`hydra/sweeper=optuna`) and its launcher (`jobs=2`).

Knows nothing of trials and processes: `dlwp.sweeping` does. Every Hydra application imports this file, so it is light.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper


class Search(Sweeper):
    """Ask Optuna for the values of the next job, and tell it what came of them."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Take what Hydra knows of the sweep."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that are left."""
        from pathlib import Path

        from dlwp.sweeping import search

        search.run(Path(self.config.hydra.sweep.dir), self.launcher)


class Processes(Launcher):
    """Run several jobs at once, each in a process of its own on this machine."""

    def __init__(self, jobs: int, cards: bool = True) -> None:
        self.jobs, self.cards = jobs, cards

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Take what Hydra knows of the sweep."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run the jobs; what came of them stands in their folders."""
        from dlwp.sweeping import pool

        self.stream(pool.numbered(job_overrides, initial_job_idx), lambda number: None)
        return [JobReturn(overrides=list(words), status=JobStatus.COMPLETED) for words in job_overrides]

    def stream(self, source: Any, ended: Any) -> None:
        """Run what `source()` gives, (number, words), as soon as there is room, until it gives None."""
        from pathlib import Path

        from dlwp.sweeping import pool

        context = (self.hydra_context, self.task_function, self.config)
        pool.run(Path(self.config.hydra.sweep.dir), context, self.jobs, self.cards, source, ended)
