"""Own the machine that computes: which device, which precision, which memory format, and why.

Knows nothing of models but what `Traits` says, and nothing of data.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlwp import distributed
from dlwp.errors import ConfigError, MachineError, did_you_mean

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
_KINDS = ("auto", "cpu", "cuda", "mps")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


@dataclass(frozen=True)
class Traits:
    """What matters of a model for choosing precision and memory format."""

    convolutions: bool
    attention: bool

    @classmethod
    def of(cls, model: nn.Module) -> Traits:
        """Look at the modules of a model."""
        modules = list(model.modules())
        return cls(
            convolutions=any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in modules),
            attention=any(isinstance(module, nn.MultiheadAttention | nn.TransformerEncoderLayer) for module in modules)
            or any("attention" in type(module).__name__.lower() for module in modules),
        )


def resolve(name: str) -> tuple[torch.device, str]:
    """Return the device that `name` means here, and the reason.

    Args:
        name: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: no such kind of device.
        MachineError: the machine, or this build of torch, has none.
    """
    kind, _, number = name.partition(":")
    if kind not in _KINDS or (number and not number.isdigit()):
        raise ConfigError(
            f"unknown device '{name}'.{did_you_mean(kind, _KINDS) or ' There are: auto, cpu, cuda, cuda:N, mps'}"
        )
    if kind == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device()), "the first CUDA device"
        if torch.backends.mps.is_available():
            return torch.device("mps"), "no CUDA device here, but MPS"
        return torch.device("cpu"), "no CUDA device here"
    if kind == "cuda":
        _require_cuda(name, int(number or 0))
        return torch.device("cuda", int(number) if number else torch.cuda.current_device()), "as asked"
    if kind == "mps" and not torch.backends.mps.is_available():
        raise MachineError("no MPS on this machine. device=cpu or device=auto")
    return torch.device(kind), "as asked"


def _require_cuda(name: str, number: int) -> None:
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        why = "no driver or card was found" if built else f"this torch ({torch.__version__}) is built without CUDA"
        raise MachineError(f"no CUDA device: {why}. device=cpu or device=auto")
    if number >= torch.cuda.device_count():
        there = ", ".join(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        raise MachineError(f"no device {name}; there are {there}")


def choose_precision(setting: str, device: torch.device, traits: Traits, task: str) -> tuple[str, str]:
    """Return the precision for `setting` ("auto" or a name in DTYPES), and the reason.

    bf16 is chosen where it is known to be both fast and as accurate: networks of convolutions or attention that
    classify (samples, pixels, or what comes next in a text), on a card of compute capability 8 or a processor with
    AVX512-BF16 or AMX. On one with AVX2 alone a bf16 product is emulated, hundreds of times slower than in fp32.

    Raises:
        MachineError: the precision asked for does not work on this device.
    """
    if setting != "auto":
        if setting == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise MachineError(
                f"{device} ({torch.cuda.get_device_name(device)}) has no bf16. trainer.precision=fp16 or fp32"
            )
        if setting == "fp64" and device.type == "mps":
            raise MachineError("MPS has no fp64. trainer.precision=fp32 or device=cpu")
        return setting, "as asked"
    if not (traits.convolutions or traits.attention):
        return "fp32", "neither convolutions nor attention"
    if task not in ("classification", "sequence", "segmentation", "multilabel"):
        return "fp32", f"task is {task}"
    fast, why = _bf16_is_fast(device)
    return ("bf16" if fast else "fp32"), why


def _bf16_is_fast(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return capability >= (8, 0), f"compute capability {capability[0]}.{capability[1]}"
    if device.type != "cpu":
        return False, f"bf16 was not measured on {device.type}"
    features = torch.cpu.get_capabilities()
    for feature, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")):
        if features.get(feature):
            return True, f"processor has {name}"
    return False, f"processor has {torch.backends.cpu.get_cpu_capability()} without bf16 products"


def choose_channels_last(
    setting: bool | str, device: torch.device, traits: Traits, input_shape: tuple[int, ...]
) -> tuple[bool, str]:
    """Return whether pictures and filters lie in memory as (B, H, W, C), and the reason."""
    if str(setting).lower() != "auto":
        return str(setting).lower() == "true", "as asked"
    if not traits.convolutions or len(input_shape) != 3:
        return False, "no convolutions over pictures"
    if device.type == "mps":
        return False, "not measured on MPS"
    return True, "convolutions"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which matrix products and convolutions run in `precision`; for fp32 and fp64, none."""
    if precision in ("bf16", "fp16"):
        return torch.autocast(device.type, DTYPES[precision])
    return contextlib.nullcontext()


def describe(device: torch.device) -> str:
    """Return the device in a few words: "cpu, 2 threads", "cuda:0, NVIDIA H100 80GB HBM3"."""
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu, {threads} thread{'s' if threads != 1 else ''}"
    return str(device)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device; on CUDA the host does not wait for what the card has yet to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def usable_processors(among: int = 1) -> int:
    """Return how many processors this process may use: those it is bound to, or fewer by a container's quota.

    Args:
        among: processes that share them: then those of one, at least 1.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _quota(Path("/sys/fs/cgroup/cpu.max")))) // among)


def _quota(path: Path) -> float:
    """Return the processors that a control group grants, infinity where it sets no bound (cgroup v2: quota, period)."""
    try:
        quota, period = path.read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):  # not Linux, or no control group of its own
        return math.inf


def limit_threads() -> None:
    """Let torch use no more threads than this process has processors: it sees a machine's, not a container's quota."""
    most = usable_processors(distributed.local_size())
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > most:
        torch.set_num_threads(most)


def keep_freed_memory(most: int = 2**31 - 1) -> None:
    """Let the C library keep what the steps free for the next one, as torch's allocator does on a card.

    Else glibc gives large blocks back to the system and asks for them anew, and the system clears each page: a step of
    a ResNet-20 takes thousands of page faults, and none so. Other C libraries are left alone.

    Args:
        most: bytes kept.
    """
    libc = ctypes.CDLL(None)
    if platform.libc_ver()[0] == "glibc":
        libc.mallopt(_TRIM_THRESHOLD, most)
        libc.mallopt(_MMAP_THRESHOLD, 2**25)  # the most that it takes


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which sums are kept: float64, or float32 on MPS, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the device's memory, or the host's, did not suffice."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def use_deterministic_algorithms() -> None:
    """Make torch choose algorithms that give the same bits each time, or raise where there is none."""
    import os

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """Differentiate in forward mode in this block without the warning of torch's own code, which still uses its jit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        yield
