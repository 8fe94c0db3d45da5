"""Own a search: Optuna's study in the sweep's folder, the trials that are begun, gone on with and told of.

Knows nothing of how a trial is run. The study is a file of lines that only grows (Optuna's journal), behind a lock that
the system lets go when a process dies: a killed search loses no more than the line it was writing, and several
processes may share it. (SQLite would hold as well, but costs each job 1.4 s more to import and open.)
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from dlwp.config import compose
from dlwp.errors import MachineError
from dlwp.observers.pruning import Pruning
from dlwp.runs import locks
from dlwp.runs.folder import RunFolder
from dlwp.settings import Duration
from dlwp.sweeping import jobs, space
from dlwp.sweeping.space import Dimension

if TYPE_CHECKING:
    import optuna

STUDY = "study.jsonl"
_NAME, _LOCKS = "search", ".locks"
_HOPELESS = 3
"""Trials that failed, with none that did not, after which a search gives up."""


def require(sampler: str) -> None:
    """Import Optuna, and what a sampler needs.

    Raises:
        MachineError: one is not there, or too old.
    """
    try:
        import optuna
    except ImportError:
        raise MachineError("hydra/sweeper=optuna needs the package optuna: pip install 'dlwp[optuna]'") from None
    if int(optuna.__version__.split(".")[0]) < 4:
        raise MachineError(f"optuna is {optuna.__version__}, 4 is needed: pip install 'dlwp[optuna]'")
    if sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise MachineError("hydra.sweeper.sampler=cmaes needs the package cmaes: pip install cmaes")


class _JournalLock:
    """The lock of the journal, as Optuna wants one; who takes it cuts off a line that a killed process left torn."""

    def __init__(self, path: Path) -> None:
        self._path, self._guard = path, path.parent / _LOCKS / "study"
        self._lock: locks.Lock | None = None

    def acquire(self) -> bool:
        """Wait for it."""
        self._lock = locks.wait_for(self._guard)
        data = self._path.read_bytes()
        if not data.endswith(b"\n") and data:
            os.truncate(self._path, data.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let it go."""
        if self._lock is not None:
            self._lock.release()


def study_of(folder: Path) -> tuple[optuna.Study, Any]:
    """Return the study of a search, made where there is none, and its storage."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = jobs.read_plan(folder)["search"]
    guard: Any = _JournalLock(folder / STUDY)
    with locks.waited_for(folder / _LOCKS / "new"):
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / STUDY), lock_obj=guard))
        is_new = not optuna.get_all_study_names(storage)
        study = optuna.create_study(
            storage=storage, study_name=_NAME, load_if_exists=True, pruner=_pruner(plan["settings"]),
            direction="maximize" if plan["mode"] == "max" else "minimize",
        )  # fmt: skip
        if is_new and plan["settings"]["sampler"] == "grid":
            study.enqueue_trial({})  # the default comes first
            dimensions = _space(plan)
            for values in itertools.product(*(one.listed() for one in dimensions)):
                study.enqueue_trial({one.key: value for one, value in zip(dimensions, values)})
    return study, storage


def _space(plan: Mapping[str, Any]) -> list[Dimension]:
    return [Dimension(**values) for values in plan["space"]]


def _id(storage: Any, number: int) -> int:
    found: int = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(_NAME), number)
    return found


def _pruner(settings: dict[str, Any]) -> Any:
    from optuna import pruners

    if settings["pruner"] == "none":
        return pruners.NopPruner()
    if settings["pruner"] == "hyperband":
        return pruners.HyperbandPruner(min_resource=max(1, settings["warmup"]))
    return pruners.MedianPruner(n_warmup_steps=settings["warmup"])


def _sampler(settings: dict[str, Any], number: int) -> Any:
    """Return the sampler for one trial, seeded by its number: a search that was stopped goes on as it would have."""
    from optuna import samplers

    seed = settings["seed"]
    if settings["sampler"] == "tpe":
        return samplers.TPESampler(seed=seed + number)
    if settings["sampler"] == "cmaes":
        return samplers.CmaEsSampler(seed=seed + number)
    if settings["sampler"] == "qmc":
        return samplers.QMCSampler(seed=seed, scramble=True)  # its sequence is counted in the study
    return samplers.RandomSampler(seed=seed + number)


def observer(folder: str | Path, number: int) -> Pruning:
    """Return what tells a trial's evaluations to the study, and ends it where the pruner says so."""
    folder = Path(folder)
    study, storage = study_of(folder)
    plan, trial_id = jobs.read_plan(folder)["search"], _id(storage, number)

    def report(evaluation: int, value: float) -> bool:
        # not by optuna.Trial: to make one asks the sampler anew
        if evaluation not in storage.get_trial(trial_id).intermediate_values:
            storage.set_trial_intermediate_value(trial_id, evaluation, value)
        is_default = number == 0  # which runs to its end: the others are held against it
        return not is_default and study.pruner.prune(study, storage.get_trial(trial_id))

    return Pruning(report, plan["monitor"], plan["mode"])


class Search:
    """The trials of a search, as this process begins and ends them.

    Args:
        folder: the sweep's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._plan = jobs.read_plan(folder)["search"]
        self._settings = self._plan["settings"]
        self._space = _space(self._plan)
        self._study, self._storage = study_of(folder)
        self._held: dict[int, locks.Lock] = {}
        self._told = False
        timeout = self._settings["timeout"]
        self._until = math.inf if timeout is None else time.monotonic() + Duration.parse(timeout).value

    def next(self) -> tuple[int, list[str]] | None:
        """Return number and words of the next trial: one that was cut and that nobody runs, else a new one, or None."""
        from optuna.trial import TrialState

        with locks.waited_for(self._folder / _LOCKS / "ask"):
            trials = self._study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state == TrialState.RUNNING and self._take(trial.number):
                    return trial.number, self._words(trial)
            begun = [trial for trial in trials if trial.state != TrialState.WAITING]
            if self._is_over(begun) or (self._settings["sampler"] == "grid" and len(begun) == len(trials)):
                return None
            number = len(begun)
            self._study.sampler = _sampler(self._settings, number)
            asked_for = self._space if number else []  # the default's values are known when it has run
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the state of Optuna's own parts
                asked = self._study.ask({one.key: one.distribution() for one in asked_for})
            self._take(asked.number)
            return asked.number, self._words(asked)

    def end(self, number: int) -> None:
        """Tell the study what came of a trial; one that was stopped stays open."""
        from optuna.trial import TrialState

        job = jobs.of(self._folder, number, self._words(self._study.get_trials(deepcopy=False)[number]))
        last = jobs.ends(self._folder).get(number, {})
        lock = self._held.pop(number)
        try:
            if not job.is_finished and last.get("exit_code", 130) in (130, 143):
                return
            has_value = job.is_finished and math.isfinite(job.best)
            if not has_value or (number == 0 and not self._note_default(job)):
                self._study.tell(number, state=TrialState.FAIL)
            elif RunFolder(job.place).read_summary().get("exit") == "pruned":
                self._study.tell(number, state=TrialState.PRUNED)
            else:
                self._study.tell(number, job.best)
        finally:
            lock.release()

    def close(self) -> None:
        """Leave the trials that have not ended to whoever goes on with the search."""
        for lock in self._held.values():
            lock.release()
        self._held.clear()

    def _note_default(self, job: jobs.Job) -> bool:
        """Set the default's values, as its run decided them, in its trial; return False where the space has them not.

        Then the study cannot learn from it, and what it came to is read from its run alone.
        """
        config, origin = OmegaConf.load(RunFolder(job.place).config), compose.Origin.read(RunFolder(job.place).config)
        choices = origin.choices if origin is not None else {}
        found = space.defaults(self._space, OmegaConf.to_container(config), choices)
        if found is None:
            return False
        for one in self._space:
            distribution = one.distribution()
            value = distribution.to_internal_repr(found[one.key])
            self._storage.set_trial_param(_id(self._storage, 0), one.key, value, distribution)
        return True

    def _is_over(self, begun: Sequence[Any]) -> bool:
        ends = jobs.ends(self._folder)
        codes = [ends[number]["exit_code"] for number in range(len(begun)) if number in ends]
        if len(codes) >= _HOPELESS and all(code not in (0, 130, 143) for code in codes):
            if not self._told:
                print(f"search   given up: the first {len(codes)} trials failed", flush=True)
            self._told = True
            return True
        return len(begun) >= self._settings["n_trials"] or time.monotonic() >= self._until

    def _take(self, number: int) -> bool:
        if number in self._held:
            return False
        lock = locks.Lock.take(self._folder / _LOCKS / f"trial-{number}")
        if lock is not None:
            self._held[number] = lock
        return lock is not None

    def _words(self, trial: Any) -> list[str]:
        """Return a trial's words; of the default those that do not vary."""
        words: list[str] = list(self._plan["fixed"])
        if trial.number:
            words += [compose.for_hydra(one.word(trial.params[one.key])) for one in self._space]
        return words


def run(folder: Path, launcher: Any) -> None:
    """Run the trials that are left, as many at once as the launcher does."""
    search = Search(folder)
    try:
        if hasattr(launcher, "stream"):
            launcher.stream(search.next, search.end)
        else:
            _run_batches(search, launcher, jobs.read_plan(folder)["jobs"] or 1)
    finally:
        search.close()


def _run_batches(search: Search, launcher: Any, count: int) -> None:
    """Run trials by a launcher that numbers its jobs from a first one and waits for all of them."""
    given = search.next()
    while given is not None:
        batch, follower = [given], None
        while len(batch) < count and (follower := search.next()) is not None and follower[0] == batch[-1][0] + 1:
            batch.append(follower)
            follower = None
        launcher.launch([words for _, words in batch], initial_job_idx=batch[0][0])
        for number, _ in batch:
            search.end(number)
        given = follower or search.next()
