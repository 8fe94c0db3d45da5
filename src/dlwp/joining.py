"""Own how a process becomes one of several that train together, and what it does when another fails.

Knows nothing of what they compute, nor of who started them: torchrun, SkyPilot, Kubeflow, Ray and dlwp's own launcher
say RANK and WORLD_SIZE; srun says SLURM_*, submitit's local queue SUBMITIT_LOCAL_*.

A process that fails tells of it once, and the others end within `GRACE_S`: each looks every second whether one has.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from dlwp.errors import MachineError, PeerError

GRACE_S = 10.0
"""How long a process may take to end once another has failed."""
HANDED = "DLWP_HANDED"
"""Names the folder in which dlwp's launcher is told how it ended."""
_FAILED = "failed"
_STORE: list[Any] = []  # in which processes tell of their failure, once this is one of several


def is_one_of_many() -> bool:
    """Return whether this process was started as one of several that are to train together."""
    tasks = (os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "SUBMITIT_LOCAL_NTASKS"))
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys() or max(map(int, tasks)) > 1


def number() -> int:
    """Return which of several this process is, before it has joined them; 0 where it is alone."""
    names = ("RANK", "SLURM_PROCID", "SUBMITIT_LOCAL_GLOBALID")
    return int(next((os.environ[name] for name in names if name in os.environ), 0)) if is_one_of_many() else 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Be one of many while the block lasts; what fails in it is told by one process, and ends all.

    Raises:
        SystemExit: another process has failed, and told of it.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a peer that is gone is told of in twenty lines
    import torch
    from torch import distributed

    _take_from_queue()
    if distributed.is_initialized() or int(os.environ.get("WORLD_SIZE", 1)) == 1:  # by Ray, or alone
        yield
        return
    cards = torch.cuda.device_count()
    local = int(os.environ.get("LOCAL_RANK", 0))
    if cards:
        torch.cuda.set_device(local % cards)
    whole, rank, size = next(iter(distributed.rendezvous("env://")))
    start = _agreed(whole, rank, size)
    store = distributed.PrefixStore(start, whole)
    backend = "cpu:gloo,cuda:nccl" if cards else "gloo"
    _STORE[:] = [distributed.PrefixStore(start, whole.clone())]
    watch = _Watch()  # from here on: who does not reach the others tells those that wait for it
    watch.start()
    try:
        try:
            distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
        except RuntimeError as error:
            why = " ".join(str(error).split())[:120]
            way = "Where a host takes its own name for 127.0.0.1: GLOO_SOCKET_IFNAME=eth0, the name of its network card"
            raise MachineError(f"the {size} processes do not reach one another ({why}). {way}") from error
        yield
        distributed.barrier()  # nobody leaves while another still needs what it holds
    except BaseException as error:
        peer = of_peer(error)
        if peer is not None and HANDED in os.environ and not _fault():
            raise SystemExit(5) from error  # the launcher saw it die, and starts all again
        if not _is_first(rank, error):
            raise SystemExit(status_of(5)) from error
        if not distributed.is_initialized():
            time.sleep(3)  # the others wait, and look each second: what was told must be there, and the first holds it
        raise
    finally:
        watch.left.set()
        watch.join()  # the interpreter must not end while it asks the store
        with contextlib.suppress(RuntimeError, AssertionError):  # the latter: it never began
            distributed.destroy_process_group()


def _agreed(store: Any, rank: int, size: int) -> str:
    """Return a name that the processes of this start have in common, and those of no start before.

    torch's launchers keep the store when they start all again, and in it where those who are gone could be reached;
    they count the starts each for themselves, so that several machines have no number in common. Each process asks
    under a name of its own; the first answers whoever asks, until all have said that they heard.
    """
    name = f"dlwp/{uuid.uuid4().hex}"
    if rank:
        store.set(f"dlwp/{rank}", name)
        found = str(store.get(name).decode())
        store.set(f"{found}/{rank}", "")
        return found
    others, deadline = range(1, size), time.monotonic() + store.timeout.total_seconds()
    while not store.check([f"{name}/{one}" for one in others]):
        for one in others:
            if store.check([f"dlwp/{one}"]):
                store.set(store.get(f"dlwp/{one}").decode(), name)
        if time.monotonic() > deadline:
            raise MachineError(f"of {size} processes some did not come within {store.timeout}. Are all started?")
        time.sleep(0.05)
    return name


def _is_first(rank: int, error: BaseException) -> bool:
    """Note a failure; return whether no other process has failed before."""
    own = f"process {rank + 1}: {' '.join(str(error).split())}"
    try:
        return _STORE[0].compare_set(_FAILED, "", own).decode() == own
    except Exception:  # any error: who held the store is gone, and has told why
        return False


def _fault() -> str:
    """Return what another process has told of its failure, "" where none has."""
    try:
        return _STORE[0].get(_FAILED).decode() if _STORE[0].check([_FAILED]) else ""
    except Exception:  # any error: who held the store is gone
        return ""


def of_peer(error: BaseException) -> PeerError | None:
    """Return what to tell of an error of a collective whose other side is gone; None of any other error."""
    import torch

    if isinstance(error, PeerError):
        return error
    signs = ("gloo", "Connection closed by peer")
    of_collective = isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    of_collective = of_collective or isinstance(error, torch.distributed.DistError)
    if not of_collective or not torch.distributed.is_initialized():
        return None
    return PeerError(_fault() or "another process died without a word (killed; often: out of memory)")


class _Watch(threading.Thread):
    """Ends this process once another has failed, or turns the end of who started it into SIGTERM."""

    def __init__(self) -> None:
        super().__init__(name="watch", daemon=True)
        self.left = threading.Event()  # whether this process has done its part
        self._parent = os.getppid()

    def run(self) -> None:
        orphaned = False
        while not self.left.wait(1.0):
            if _fault() and not self.left.wait(GRACE_S):
                os._exit(status_of(5))
            if os.getppid() != self._parent and not orphaned:
                orphaned = True
                os.kill(os.getpid(), signal.SIGTERM)


def status_of(code: int) -> int:
    """Return the status to leave with: 0 where it is handed back otherwise, so that nobody starts it all again."""
    return 0 if HANDED in os.environ else code


def _take_from_queue() -> None:
    """Say in torch's words what srun, or submitit where it plays the queue on one machine, says in its own."""
    environment = os.environ
    if "RANK" in environment:
        return
    if "SLURM_PROCID" in environment:
        rank, size, local = "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"
        names = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST") or "localhost"
        job = int(environment.get("SLURM_JOB_ID", 0)) + int(environment.get("SLURM_STEP_ID", 0))
        environment.setdefault("LOCAL_WORLD_SIZE", str(sharing_tasks(environment)))
    elif "SUBMITIT_LOCAL_GLOBALID" in environment:
        rank, size, local = "SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID"
        names, job = "localhost", int(environment["SUBMITIT_LOCAL_JOB_ID"])
    else:
        return
    environment["RANK"] = environment[rank]
    environment["WORLD_SIZE"] = environment[size]
    environment["LOCAL_RANK"] = environment.get(local, "0")
    environment.setdefault("MASTER_ADDR", first_host(names))
    environment.setdefault("MASTER_PORT", str(12_000 + job % 20_000))  # below those that systems give away


def sharing_tasks(told: Mapping[str, str]) -> int:
    """Return how many tasks of this machine have the same processors: 1 where srun has bound each to its own.

    >>> four = {"SLURM_STEP_TASKS_PER_NODE": "2(x3),4", "SLURM_NODEID": "3", "SLURM_CPU_BIND_LIST": "0x1,0x2,0x4,0x8"}
    >>> sharing_tasks(four), sharing_tasks(four | {"SLURM_CPU_BIND_LIST": "0xf"}), sharing_tasks({})
    (1, 4, 1)
    """
    runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", told.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    tasks = [int(count) for count, nodes in runs for _ in range(int(nodes or 1))]
    masks = set(told.get("SLURM_CPU_BIND_LIST", "").split(","))
    return max(1, tasks[int(told.get("SLURM_NODEID", 0))] // len(masks))


def first_host(names: str) -> str:
    """Return the first host of Slurm's list.

    >>> first_host("gpu[003-006,9],login1"), first_host("a1,a2"), first_host("rack[1-2]n[07,9]")
    ('gpu003', 'a1', 'rack1n07')
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", names)
    assert first is not None
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])
