"""`dlwp-train`: one run, a sweep, or an answer to a question about the config.

Knows nothing of how a run is done: `dlwp.api.train_config` does it.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shlex
import signal
import sys
from contextlib import redirect_stderr
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp import __version__
from dlwp.commands import entry
from dlwp.commands.entry import Flags
from dlwp.errors import ConfigError, DlwpError, RunError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dlwp.api import Run

_QUIET = [
    "hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null", "hydra.run.dir=.",
    "hydra.sweep.subdir=.",
]  # fmt: skip
"""Words that keep Hydra from writing folders and logs of its own; first, so that typed ones win."""


def main() -> int:
    """Run the command; return the exit status."""
    return entry.run(lambda: _train(sys.argv[1:]))


def _train(argv: list[str]) -> int:
    flags = entry.read(argv)
    if flags.version:
        print(f"dlwp {__version__}")
        return 0
    if flags.doctor:
        return _doctor(flags)
    if flags.help:
        from dlwp.config import help

        print(help.text(flags.words, config_dir=flags.config_dir, config_name=flags.config_name))
        return 0
    if flags.is_completion:
        return _complete(flags)
    if flags.handed_over:
        return _hand_over(flags)
    from dlwp import joining
    from dlwp.config.compose import composed

    if joining.is_one_of_many():
        return _together(flags)
    config, own = composed(
        flags.words, config_dir=flags.config_dir, config_name=flags.config_name, sweep=flags.multirun
    )
    if flags.multirun or str(own["mode"]).endswith("MULTIRUN"):
        return _sweep(flags, [str(key) for key in own["sweeper"].get("params") or ()])
    if config.values["verify_resume"]:
        if config.values["devices"] != 1:
            raise ConfigError("verify_resume=true is done by one process. devices=1")
        from dlwp.verify import verify_resume

        print(f"verify   {verify_resume(flags.words, flags.config_dir, flags.config_name)}")
        return 0
    from dlwp import api

    return api.train_config(config).exit_code


def _together(flags: Flags) -> int:
    """Train as one of several processes that somebody has started: the first composes, the others get it from there."""
    from dlwp import api, distributed, joining
    from dlwp.config.compose import compose

    if flags.multirun:
        raise ConfigError("-m is for one process, this is one of several. Leave out -m, or do not start it by torchrun")
    with joining.joined():
        config = distributed.from_first(
            lambda: compose(flags.words, config_dir=flags.config_dir, config_name=flags.config_name)
        )
        return api.train_config(config).exit_code


def _doctor(flags: Flags) -> int:
    if flags.words:
        raise ConfigError(f"--doctor takes no settings, got '{flags.words[0]}'. Write dlwp-train --doctor")
    from dlwp.commands import doctor

    print(doctor.report())
    return 0


# ------------------------------------------------------------------------------------------- questions to Hydra


def _hand_over(flags: Flags) -> int:
    """Let Hydra answer --cfg, --info and --hydra-help."""
    from dlwp.config.compose import composed

    def check() -> DictConfig:
        return composed(flags.words, config_dir=flags.config_dir, config_name=flags.config_name, sweep=flags.multirun)[
            1
        ]

    if flags.package:
        _refuse_package(flags)
    return _hydra(flags, [*flags.handed_over, *(["--multirun"] if flags.multirun else [])], [], check)


def _refuse_package(flags: Flags) -> None:
    from omegaconf import OmegaConf

    from dlwp.config.compose import composed
    from dlwp.errors import did_you_mean

    config, _ = composed(flags.words, config_dir=flags.config_dir, config_name=flags.config_name, sweep=True)
    package = str(flags.package)
    if OmegaConf.select(OmegaConf.create(config.stored), package) is None and package.split(".")[0] != "hydra":
        raise ConfigError(f"no package '{package}' (-p).{did_you_mean(package, config.values)}")


def _complete(flags: Flags) -> int:
    """Answer the shell's question, with the user's own folder that the line to be completed names."""
    line = shlex.split(os.environ.get("COMP_LINE", ""), posix=False)
    named = re.search(r"(?:--config-dir|-cd)[ =](\S+)", " ".join(line))
    folder = Path(named[1].strip("'\"")).expanduser() if named else None
    flags = Flags(**{**vars(flags), "config_dir": folder if folder and folder.is_dir() else None})
    query = any(word.startswith("query") for word in flags.handed_over)
    with redirect_stderr(io.StringIO() if query else sys.stderr):
        return _hydra(flags, list(flags.handed_over), [], lambda: None)


def _hydra(flags: Flags, options: list[str], before: list[str], check: Any) -> int:
    """Call `hydra.main` with an argument list of its own; `check` raises what explains a fault in the words."""
    import hydra

    from dlwp.config import compose, faults

    place = compose.locate(flags.words, config_dir=flags.config_dir, config_name=flags.config_name)
    words = [compose.for_hydra(word) for word in place.words]
    argv = [sys.argv[0], *options, "--config-name", place.primary]
    if "-sc" not in options:
        argv[1:1] = [*_QUIET, *before, *words]
    from dlwp.config.catalog import own_folder

    try:
        with entry.replaced(argv, HYDRA_FULL_ERROR="1"), compose.prepared(place.catalog):
            hydra.main(config_path=str(own_folder()), config_name=place.primary, **compose.VERSION_BASE)(sweep_job)()
    except SystemExit as leaving:
        return 2 if leaving.code else 0
    except faults.FAULTS as error:
        check()
        raise faults.of_files(error, place.primary, place.catalog) from error
    return 0


# ----------------------------------------------------------------------------------------------------- sweeps


def _sweep(flags: Flags, by_config: list[str]) -> int:
    """Run every combination of the values, one folder each; print the table at the end, whatever happens."""
    from dlwp.config import compose
    from dlwp.runs import files, table

    place = compose.locate(flags.words, config_dir=flags.config_dir, config_name=flags.config_name)
    if place.resume is not None:
        raise ConfigError("resume= goes on with one run; leave out -m")
    varying, total = compose.check_sweep(place)
    varying += by_config  # hydra.sweeper.params of an experiment
    if not varying:
        raise ConfigError("-m but nothing varies; e.g. seed=1,2,3")
    folder = _sweep_folder(place.words)
    files.write_atomic(folder / "sweep.json", json.dumps({"typed": place.words, "varying": varying}) + "\n")
    known = f" · {total} jobs" if total and not by_config else ""
    print(f"sweep    {folder}{known}", flush=True)
    try:
        _hydra(flags, ["--multirun"], [f"hydra.sweep.dir='{folder}'"], lambda: compose.check_choices(place))
    except Exception as error:  # any error: of submitit's those that say of a job that it is gone without a result
        if not type(error).__module__.startswith("submitit."):
            raise
        raise RunError(
            f"a job of the queue ended without a word (killed, or out of time): {folder}/.submitit/*/*_log.err. "
            f"The others go on; once they are done: dlwp-runs {folder}"
        ) from error
    finally:
        rows = table.read_runs([folder])
        if rows:
            table.write(folder, rows)
            print(f"\n{table.render(rows)}\n\ntable    {folder / 'table.md'}, {folder / 'table.csv'}", flush=True)
    return _outcome(folder)


def _sweep_folder(words: list[str]) -> Path:
    """Make the sweep's folder: run_dir where it is given, else outputs/sweeps/<date>_<time>."""
    from dlwp.runs import files

    given = [word.partition("=")[2].strip("'\"") for word in words if re.match(r"\+{0,2}run_dir=", word)]
    if given:
        path = Path(given[-1]).expanduser()
        if path.is_dir() and any(path.iterdir()):
            raise ConfigError(f"'{path}' exists and is not empty. Another run_dir=")
        path.mkdir(parents=True, exist_ok=True)
        return path
    base = Path("outputs") / "sweeps" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    base.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 10_000):
        path = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            files.make_folder(path)
        except FileExistsError:
            continue
        return path
    raise ConfigError(f"too many sweeps named '{base}'")


def sweep_job(config: DictConfig) -> float:
    """Do one job of a sweep in its own folder, and return the best value it reached, NaN where it failed.

    It never raises but to end the sweep: its failure is told when it happens, and the others go on. Where a launcher
    starts several processes for a job, each comes here.
    """
    from hydra.core.hydra_config import HydraConfig

    own = HydraConfig.get()
    folder, number, words = Path(own.sweep.dir), int(own.job.num), [str(word) for word in own.overrides.task]
    varying = json.loads((folder / "sweep.json").read_text())["varying"]
    changed = [re.sub(r"\\(.)", r"\1", word.lstrip("+~")) for word in words]  # Hydra writes "5\ steps"
    changed = [word for word in changed if word.partition("=")[0].partition("@")[0] in varying]
    name = " ".join(changed)
    place = folder / f"{number}_{slug(changed)}"
    print(f"\njob {number}    {name}", flush=True)
    status, message, value, tells = 0, "", math.nan, True
    queue = {one: signal.getsignal(one) for one in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        run, tells = _job(config, words, place)
        value, status = _best(run), run.exit_code
        message = _pass_on(run.exit, queue)
    except DlwpError as error:
        status, message = entry.tell(error, f"job {number} ({name}): "), error.message
    except Exception as error:  # any error: the other jobs of the sweep go on
        status, message = entry.tell(error, f"job {number} ({name}): "), f"{type(error).__name__}: {error}"
    from dlwp.runs import files

    record = {"number": number, "name": name, "folder": str(place), "exit_code": status, "error": message}
    if tells:
        files.append_line(folder / "jobs.jsonl", json.dumps(record))
    if own.runtime.choices["hydra/launcher"] != "basic":  # the other jobs are not this process's to end
        return value
    if status == 130:
        raise KeyboardInterrupt
    if status == 143:
        raise SystemExit(143)
    return value


def _job(config: DictConfig, words: list[str], place: Path) -> tuple[Run, bool]:
    """Train; return the run, and whether this process is the one to tell of it."""
    from hydra.core.hydra_config import HydraConfig

    from dlwp import api, distributed, joining
    from dlwp.config import compose
    from dlwp.runs.folder import is_run

    own = HydraConfig.get()
    folder = next((source.path for source in own.runtime.config_sources if source.provider == "dlwp-user"), None)

    def composed() -> compose.Config:
        if is_run(place):  # a queue has started the job again
            return compose.compose([f"resume={place}"])
        return compose.of_job(config, dict(own.runtime.choices), words, Path(folder) if folder else None)

    if not joining.is_one_of_many():
        return api.train_config(composed(), run_dir=place), True
    with joining.joined():
        return api.train_config(distributed.from_first(composed), run_dir=place), distributed.is_main()


def _best(run: Run) -> float:
    best = [value for key, value in (run.summary.get("best") or {}).items() if key != "step"]
    return float(best[0]) if best else math.nan


def _pass_on(exit: str, queue: dict[signal.Signals, Any]) -> str:
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


def slug(words: list[str]) -> str:
    """Return overrides as a part of a folder name: no '=', spaces or slashes, at most 80 characters.

    >>> slug(["optimizer.lr=0.1", "trainer.eval_every=5 steps"])
    'optimizer.lr-0.1,trainer.eval_every-5_steps'
    """
    text = ",".join(word.lstrip("+~") for word in words).replace("=", "-")
    return re.sub(r"[^\w.,+-]+", "_", text)[:80].strip("._,") or "run"


def _outcome(folder: Path) -> int:
    """Say which jobs failed, and return the status of the sweep: theirs where all failed alike."""
    path = folder / "jobs.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    jobs = sorted({record["number"]: record for record in records}.values(), key=lambda job: int(job["number"]))
    failed = [job for job in jobs if job["exit_code"]]
    if not failed:
        return 0
    said = [f"#{job['number']} {job['name']} (exit {job['exit_code']}: {job['error']}, {_log(job)})" for job in failed]
    print(f"dlwp: error: {len(failed)} of {len(jobs)} jobs failed: {said[0]}", file=sys.stderr)
    for line in said[1:]:
        print(f"    {line}", file=sys.stderr)
    statuses = {job["exit_code"] for job in jobs}
    return int(statuses.pop()) if len(statuses) == 1 else 5


def _log(job: dict[str, Any]) -> str:
    log = Path(job["folder"]) / "run.log"
    return str(log if log.is_file() else Path(job["folder"]))
