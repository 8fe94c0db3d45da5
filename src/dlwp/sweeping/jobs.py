"""Own one job of a sweep: its folder, what is recorded of it, and doing it, from its beginning or where it was cut.

Knows nothing of which jobs there are, nor of how many run at once.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp import failures
from dlwp.errors import ConfigError, DlwpError
from dlwp.runs import files, history
from dlwp.runs.folder import RunFolder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dlwp.api import Run
    from dlwp.config.compose import Config

PLAN = "sweep.json"
_HERE = ("basic", "processes")
"""Launchers whose jobs end with the command."""
_RECORDS = "jobs.jsonl"
_DYING_S = 60
"""Seconds that a job whose sweep was killed may take to save."""


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        number: from 0. name: the words that tell it from the others. words: all its words, as Hydra has them.
        place: its run's folder.
    """

    number: int
    name: str
    words: list[str]
    place: Path

    @property
    def is_finished(self) -> bool:
        """Whether its run came to an end, of itself or by a rule: nothing of it is left to do."""
        exit = str(RunFolder(self.place).read_summary().get("exit", "running"))
        return exit not in ("running", "failed") and not exit.startswith("stopped:")

    @property
    def best(self) -> float:
        """The best value of the monitored metric, NaN where there is none."""
        found = RunFolder(self.place).read_summary().get("best") or {}
        return next((float(value) for key, value in found.items() if key != "step" and value is not None), math.nan)


def read_plan(folder: Path) -> dict[str, Any]:
    """Return what a sweep's sweep.json says: its words, what varies, how it is searched."""
    found = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def records(folder: Path) -> list[dict[str, Any]]:
    """Return what is recorded of the jobs: a line where one began, and one with its `exit_code` where it ended."""
    return history.read(folder / _RECORDS)


def ends(folder: Path) -> dict[int, dict[str, Any]]:
    """Return how each job ended, by its number; one that has begun again since is not there."""
    last = {line["number"]: line for line in records(folder)}
    return {number: line for number, line in last.items() if "exit_code" in line}


def record(folder: Path, job: Job, **values: Any) -> None:
    """Add a line on a job."""
    line = {"number": job.number, "name": job.name, "folder": str(job.place), "words": job.words, **values}
    files.append_line(folder / _RECORDS, json.dumps(line))


def recorded(folder: Path, line: dict[str, Any]) -> Job:
    """Return the job that a record is of; its run lies in the sweep's folder, wherever that is now."""
    return Job(line["number"], line["name"], line.get("words", []), folder / Path(line["folder"]).name)


def of(folder: Path, number: int, words: list[str]) -> Job:
    """Return the job of some words: the one that was begun with them, else a new one."""
    plan = read_plan(folder)
    changed = [re.sub(r"\\(.)", r"\1", word.lstrip("+~")) for word in words]  # Hydra writes "5\ steps"
    changed = [word for word in changed if word.partition("=")[0].partition("@")[0] in plan["varying"]]
    for line in records(folder):
        if line.get("words") == words and (line["number"] == number or "search" not in plan):
            return recorded(folder, line)
    name = " ".join(changed) or "default"
    return Job(number, name, words, folder / f"{number}_{slug(changed or [name])}")


def sweep_job(config: DictConfig) -> float:
    """Do one job of a sweep in its own folder, and return the best value it reached, NaN where it failed.

    A job that is done stays as it is. It never raises but to end the sweep: its failure is told when it happens, and
    the others go on. Where a launcher starts several processes for a job, each comes here.
    """
    from hydra.core.hydra_config import HydraConfig

    from dlwp import joining

    own = HydraConfig.get()
    folder, words = Path(own.sweep.dir), [str(word) for word in own.overrides.task]
    job = of(folder, int(own.job.num), words)
    if job.is_finished:
        return job.best
    if joining.number() == 0:
        print(f"\njob {job.number}    {job.name}", flush=True)
        record(folder, job)
    status, message, tells = 0, "", True
    queue = {one: signal.getsignal(one) for one in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        run, tells = _do(job, config, folder)
        status, message = run.exit_code, _passed_on(run.exit, queue)
    except DlwpError as error:
        status, message = failures.tell(error, f"job {job.number} ({job.name}): "), error.message
    except Exception as error:  # any error: the other jobs of the sweep go on
        status = failures.tell(error, f"job {job.number} ({job.name}): ")
        message = f"{type(error).__name__}: {error}"
    if tells:
        record(folder, job, exit_code=status, error=message)
    if own.runtime.choices["hydra/launcher"] not in _HERE:  # the other jobs are not this process's to end
        return job.best
    if status == 130:
        raise KeyboardInterrupt
    if status == 143:
        raise SystemExit(143)
    return job.best


def _do(job: Job, config: DictConfig, folder: Path) -> tuple[Run, bool]:
    """Go on with the job's run where it has a checkpoint, else begin it.

    Returns:
        The run, and whether this process is the one to tell of it.
    """
    from hydra.core.hydra_config import HydraConfig

    from dlwp import joining
    from dlwp.config import compose

    own, run = HydraConfig.get(), RunFolder(job.place)
    user = next((source.path for source in own.runtime.config_sources if source.provider == "dlwp-user"), None)
    heard_by = {"_target_": "dlwp.sweeping.search.observer", "folder": str(folder), "number": job.number}

    def composed() -> tuple[Config, Path | None]:
        _wait_for(run)
        if run.config.exists() and run.saved():
            return compose.compose([f"resume={job.place}"]), None
        files.remove_tree(job.place)  # cut before its first checkpoint
        return compose.of_job(config, dict(own.runtime.choices), job.words, Path(user) if user else None), job.place

    with joining.joined() if joining.is_one_of_many() else contextlib.nullcontext():
        from dlwp import api, distributed  # not before torch has been told how much to say

        found, place = distributed.from_first(composed)
        found.hearing = [heard_by] if "search" in read_plan(folder) else []
        return api.train_config(found, run_dir=place), distributed.is_main()


def _passed_on(exit: str, queue: dict[signal.Signals, Any]) -> str:
    """Hand a signal that has stopped the run, which is saved, to the queue's own handler: it starts the job again.

    It does not return then. Return why the job is over where the queue gives it no further time, else "".
    """
    for number, handler in queue.items():
        if exit == f"stopped:{number.name}" and callable(handler):
            try:
                handler(number, None)
            except Exception as error:  # any error: it is submitit's word for "no more time"
                return f"{exit}. {error}"
    return ""


def _wait_for(run: RunFolder) -> None:
    """Wait until nobody runs a run: the job of a sweep that was killed saves, and is gone soon.

    Raises:
        ConfigError: it is not.
    """
    until = time.monotonic() + _DYING_S
    while (holder := run.holder()) is not None:
        if time.monotonic() > until:
            raise ConfigError(f"{run.path} is running on {holder}")
        time.sleep(0.1)


def slug(words: list[str]) -> str:
    """Return overrides as a part of a folder name: no '=', spaces or slashes, at most 80 characters.

    >>> slug(["optimizer.lr=0.1", "trainer.eval_every=5 steps"])
    'optimizer.lr-0.1,trainer.eval_every-5_steps'
    """
    text = ",".join(shortened(word.lstrip("+~")) for word in words).replace("=", "-")
    return re.sub(r"[^\w.,+-]+", "_", text)[:80].strip("._,") or "run"


def shortened(text: str) -> str:
    """Return a text with its long decimal numbers at four digits.

    >>> shortened("optimizer.lr=0.00123456789")
    'optimizer.lr=0.001235'
    """
    return re.sub(r"\d+\.\d{5,}(e-?\d+)?", lambda found: f"{float(found[0]):.4g}", text)
