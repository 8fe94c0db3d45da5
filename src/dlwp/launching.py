"""Own how a run comes to have several processes: started here, or by somebody who has told each its number.

Knows nothing of what they compute. Here it is torch's elastic launcher that starts them, watches them and, where one
dies, starts all again. torchrun, SkyPilot, Kubeflow and Ray say RANK and WORLD_SIZE; srun says SLURM_*.

A process that fails tells of it once, and the others end within `GRACE_S`: each looks every second whether one has
failed. Torch is imported inside the functions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dlwp.config.compose import Config
from dlwp.errors import ConfigError, DlwpError, MachineError, RunError
from dlwp.runs import files

if TYPE_CHECKING:
    from torch.distributed import Store

GRACE_S = 10.0
"""How long a process may take to end once another has failed."""
_FAILED = "failed"
_HANDED = "DLWP_HANDED"
_ENDING = 120  # seconds that processes get to save and leave after a signal


# ---- where there is nobody else yet ---------------------------------------------------------------------------------


def count(config: Config) -> int:
    """Return how many processes are to be started here: 0 where somebody else has.

    Raises:
        MachineError: more cards are asked for than there are. ConfigError: what does not go with several processes.
    """
    if is_one_of_many():
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
    return found if found > 1 else 0


def launch(config: Config, processes: int, run_dir: Path | None) -> Path:
    """Train in several processes on this machine, and return the run's folder.

    Args:
        config: composed; all processes get it as it is.
        processes: how many. run_dir: the run's folder, where the caller decides it.

    Raises:
        DlwpError: what one of them has failed with. RunError: one died without a word, more often than `max_restarts`.
    """
    _refuse_alone(config)
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
            signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
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
    if config.values["trainer"]["cuda_graphs"]:
        raise ConfigError("trainer.cuda_graphs is for one card. devices=1, or trainer.cuda_graphs=false")


@contextlib.contextmanager
def _environment(processes: int) -> Iterator[None]:
    """Give each process its share of the processors, and keep torch from telling of a peer that is gone in its own way.

    What somebody has set stays.
    """
    from dlwp import devices

    threads = max(1, devices.usable_processors() // processes)
    wanted = {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR"}
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
    how = f"was killed (signal {-code})" if code < 0 else f"ended with {code}"
    again = f". Go on: dlwp-train resume={run}" if run else ""
    return RunError(f"process {number + 1} of {processes} {how}, often out of memory{again}")


def _noted(place: str, name: str) -> str:
    path = Path(place, name)
    return path.read_text() if path.exists() else ""


# ---- as one of many -------------------------------------------------------------------------------------------------


def is_one_of_many() -> bool:
    """Return whether this process was started as one of several that are to train together."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys() or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Be one of many while the block lasts; what fails in it is told by one process, and ends all.

    Raises:
        SystemExit: another process has failed, and told of it.
    """
    import torch
    from torch import distributed

    _take_from_slurm()
    if distributed.is_initialized() or int(os.environ.get("WORLD_SIZE", 1)) == 1:  # by Ray, or alone
        yield
        return
    cards = torch.cuda.device_count()
    local = int(os.environ.get("LOCAL_RANK", 0))
    if cards:
        torch.cuda.set_device(local % cards)
    whole, rank, size = next(iter(distributed.rendezvous("env://")))
    # the launcher keeps the store when it starts all again, and in it where those who are gone could be reached
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if os.environ.get("GROUP_WORLD_SIZE") == "1" else "0"
    store = distributed.PrefixStore(f"dlwp/{again}", whole)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if cards else "gloo", store=store, rank=rank, world_size=size
    )
    _Watch(distributed.PrefixStore(f"dlwp/{again}", whole.clone())).start()
    try:
        yield
        distributed.barrier()  # nobody leaves while another still needs what it holds
    except BaseException as error:
        by_peer = _is_of_a_peer(error)
        if by_peer and _HANDED in os.environ and not _has_failed(store):
            raise SystemExit(5) from error  # the launcher saw it die, and starts all again
        if not _is_first(store, rank, error):
            raise SystemExit(_status(5)) from error
        if by_peer:
            raise RunError("another process died without a word (killed; often: out of memory)") from error
        raise
    finally:
        with contextlib.suppress(RuntimeError):
            distributed.destroy_process_group()


def _is_first(store: Store, rank: int, error: BaseException) -> bool:
    """Note a failure; return whether no other process has failed before."""
    code = error.exit_code if isinstance(error, DlwpError) else 5
    own = f"{rank} {code}"
    try:
        return store.compare_set(_FAILED, "", own).decode() == own
    except Exception:  # any error: who held the store is gone, and has told why
        return False


def _has_failed(store: Store) -> bool:
    try:
        return store.check([_FAILED])
    except Exception:  # any error: who held the store is gone
        return False


def _is_of_a_peer(error: BaseException) -> bool:
    """Return whether an error is that of a collective whose other side is gone."""
    from torch import distributed

    text = str(error)
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in text or "Connection closed by peer" in text)
    )


class _Watch(threading.Thread):
    """Ends this process once another has failed, or turns the end of who started it into SIGTERM."""

    def __init__(self, store: Any) -> None:
        super().__init__(name="watch", daemon=True)
        self._store = store
        self._parent = os.getppid()

    def run(self) -> None:
        orphaned = False
        while True:
            time.sleep(1.0)
            if _has_failed(self._store):
                time.sleep(GRACE_S)
                os._exit(_status(5))
            if os.getppid() != self._parent and not orphaned:
                orphaned = True
                os.kill(os.getpid(), signal.SIGTERM)


def _status(code: int) -> int:
    """Return the status to leave with: 0 where it is handed back otherwise, so that nobody starts it all again."""
    return 0 if _HANDED in os.environ else code


def _take_from_slurm() -> None:
    """Say in torch's words what srun says in its own."""
    if "RANK" in os.environ or "SLURM_PROCID" not in os.environ:
        return
    environment = os.environ
    names = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST") or "localhost"
    job = int(environment.get("SLURM_JOB_ID", 0)) + int(environment.get("SLURM_STEP_ID", 0))
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = environment["SLURM_STEP_NUM_TASKS"]
    environment["LOCAL_RANK"] = environment.get("SLURM_LOCALID", "0")
    environment.setdefault("MASTER_ADDR", first_host(names))
    environment.setdefault("MASTER_PORT", str(20_000 + job % 20_000))


def first_host(names: str) -> str:
    """Return the first host of Slurm's list.

    >>> first_host("gpu[003-006,9],login1"), first_host("a1,a2")
    ('gpu003', 'a1')
    """
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", names)
    assert found is not None
    return f"{found[1]}{found[2] or ''}{found[3]}"


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
    os.environ[_HANDED] = str(path.parent)
    return Config(**fields), Path(found["run_dir"]) if found["run_dir"] else None


def hand_back(lines: Sequence[str], status: int) -> None:
    """Tell the launcher what went wrong, for it to be told once.

    Args:
        lines: for a person. status: that the command is to end with.
    """
    files.write_atomic(Path(os.environ[_HANDED], "fault"), json.dumps({"lines": lines, "status": status}))


def note_run(path: Path) -> None:
    """Note the folder of the run, for the launcher and for those who are started again in our place."""
    if (place := _shared_place()) is not None:
        files.write_atomic(place / "run", str(path.resolve()))


def begun(config: Config) -> Config:
    """Return the config as it is, or, started again after a death, so that it goes on with the run."""
    place, again = _shared_place(), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if place is None or again == "0" or not (place / "run").exists():
        return config
    note = f"a process died: all were started again ({again} of {os.environ['TORCHELASTIC_MAX_RESTARTS']} times at most)"
    return dataclasses.replace(
        config, resume=Path((place / "run").read_text()), warnings=[*config.warnings, note]
    )


def _shared_place() -> Path | None:
    """Return the folder that the processes of this launch, and those started again in their place, have."""
    if _HANDED in os.environ:
        return Path(os.environ[_HANDED])
    found = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(found).parents[2] if found else None
