"""Own the start of several processes on this machine, by torch's elastic launcher, and what is handed to them and back.

Knows nothing of what they compute. The launcher watches them and, where one dies, starts all again, from the last
checkpoint. Torch is imported inside the functions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from dlwp.config.compose import Config
from dlwp.errors import ConfigError, DlwpError, MachineError, RunError
from dlwp.joining import HANDED, is_one_of_many
from dlwp.runs import files

_ENDING = 120  # seconds that processes get to save and leave after a signal
_NOTED: list[Path] = []  # runs that this process has noted: no start before has


# ---- where there is nobody else yet ---------------------------------------------------------------------------------


def count(config: Config) -> int:
    """Return how many processes are to be started here: 0 where somebody else has.

    Raises:
        MachineError: more cards are asked for than there are. ConfigError: what does not go with several processes.
    """
    if is_one_of_many():
        if os.environ.get("WORLD_SIZE") != "1":
            _refuse_alone(config)
        return 0
    wanted, device = config.values["devices"], str(config.values["device"])
    if wanted == 1:
        return 0
    if wanted == "auto" and device not in ("auto", "cuda"):
        return 0
    import torch

    cards = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    found = max(1, cards) if wanted == "auto" else int(wanted)
    if cards and found > cards:
        raise MachineError(f"devices={found}, there are {cards} cards. devices={cards}, or device=cpu")
    if found > 1:
        _refuse_alone(config)
    return found if found > 1 else 0


def launch(config: Config, processes: int, run_dir: Path | None) -> Path:
    """Train in several processes on this machine, and return the run's folder.

    Args:
        config: composed; all processes get it as it is.
        processes: how many. run_dir: the run's folder, where the caller decides it.

    Raises:
        DlwpError: what one of them has failed with. RunError: one died without a word, more often than `max_restarts`.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):  # what matters is told here
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="dlwp-", ignore_cleanup_errors=True) as place:
        handed = Path(place, "config.yaml")
        handed.write_text(_text(config, run_dir))
        settings = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=Path(place).name, rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=config.values["max_restarts"],
            logs_specs=DefaultLogsSpecs(log_dir=place), shutdown_timeout=_ENDING,
            signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2",
        )  # fmt: skip
        words = [sys.executable, "-P", "-m", "dlwp.commands.work", str(handed)]
        try:
            with _environment(processes):
                elastic_launch(settings, words[0])(*words[1:])
        except SignalException as error:
            if not _noted(place, "run"):
                raise KeyboardInterrupt from error
        except ChildFailedError as error:
            if not _noted(place, "fault"):
                raise _death(error, processes, _noted(place, "run")) from None
        if text := _noted(place, "fault"):
            fault = json.loads(text)
            told = DlwpError(fault["lines"][0], fault["lines"][1:])
            told.exit_code = fault["status"]
            raise told
        return Path(_noted(place, "run"))


def _refuse_alone(config: Config) -> None:
    """Refuse what is for one process."""
    if config.values["trainer"]["cuda_graphs"]:
        raise ConfigError("trainer.cuda_graphs is for one card. devices=1, or trainer.cuda_graphs=false")
    if str((config.values["optimizer"] or {}).get("_target_")).endswith(".LeastSquares"):
        raise ConfigError("trainer=least_squares fits all samples at once, in one process. devices=1")


@contextlib.contextmanager
def _environment(processes: int) -> Iterator[None]:
    """Give each process its share of the processors, and keep torch from telling of a peer that is gone in its own way.

    What somebody has set stays.
    """
    from dlwp import devices

    wanted = {"OMP_NUM_THREADS": str(devices.usable_processors(processes)), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _death(error: Any, processes: int, run: str) -> RunError:
    number, failure = error.get_first_failure()
    code = failure.exitcode
    how = f"was killed (signal {-code}), often out of memory" if code < 0 else f"ended without a word (status {code})"
    again = f". Go on: dlwp-train resume={run}" if run else ""
    return RunError(f"process {number + 1} of {processes} {how}{again}")


def _noted(place: str, name: str) -> str:
    path = Path(place, name)
    return path.read_text() if path.exists() else ""


# ---- what one is handed ---------------------------------------------------------------------------------------------


def _text(config: Config, run_dir: Path | None) -> str:
    fields = {one.name: getattr(config, one.name) for one in dataclasses.fields(config)}
    fields["resume"] = None if config.resume is None else str(config.resume)
    return yaml.safe_dump({"config": fields, "run_dir": None if run_dir is None else str(run_dir)}, sort_keys=False)


def handed(path: Path) -> tuple[Config, Path | None]:
    """Return the config and the run's folder that the launcher has handed over."""
    found = yaml.safe_load(path.read_text())
    fields = found["config"]
    fields["resume"] = Path(fields["resume"]) if fields["resume"] else None
    os.environ[HANDED] = str(path.parent)
    return Config(**fields), Path(found["run_dir"]) if found["run_dir"] else None


def hand_back(lines: Sequence[str], status: int) -> None:
    """Tell the launcher what went wrong, for it to be told once.

    Args:
        lines: for a person. status: that the command is to end with.
    """
    files.write_atomic(Path(os.environ[HANDED], "fault"), json.dumps({"lines": lines, "status": status}))


def note_run(path: Path) -> None:
    """Note the folder of the run, for the launcher and for those who are started again in our place."""
    _NOTED.append(path)
    if (place := _shared_place()) is not None:
        files.write_atomic(place / "run", str(path.resolve()))


def begun(config: Config) -> Config:
    """Return the config as it is, or, started again after a death, so that it goes on with the run.

    Any machine that was there before knows the run: the first process may be on one that has come since.
    """
    from dlwp import distributed

    place = _shared_place()
    note = place / "run" if place is not None and not _NOTED else None
    run = distributed.any_of(note.read_text() if note is not None and note.exists() else None)
    if run is None:
        return config
    again, most = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    counted = f" ({again} of {most} times at most)" if again != "0" else ""  # another machine counts its own
    warnings = [*config.warnings, f"a process died: all were started again{counted}"]
    return dataclasses.replace(config, resume=Path(run), warnings=warnings)


def _shared_place() -> Path | None:
    """Return the folder that the processes of this launch, and those started again in their place, have."""
    if HANDED in os.environ:
        return Path(os.environ[HANDED])
    found = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(found).parents[2] if found else None
