"""Own `dlwp-train --doctor`: what a report of a fault should say of the machine, as lines to be pasted.

Knows nothing of configs and runs. It shows no host, account or secret: paths begin with ~, and of the environment only
variables that are known to be harmless are shown with their values.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dlwp
from dlwp.runs import environment
from dlwp.runs.folder import state_folder

_BAR = " · "
_FURTHER = (
    "scipy", "pillow", "onnx", "onnxruntime", "torchcodec", "pyarrow", "datasets", "optuna", "triton",
    "hydra-submitit-launcher", "hydra-ray-launcher", "hydra-optuna-sweeper",
)  # fmt: skip
"""Packages that a fault may come from, though no result depends on them."""
_FAST = re.compile("avx|amx|neon|sve|bf16|i8mm")
"""Features of processors on which the speed of a step depends."""
_SHOWN = (
    *environment.VARIABLES, "CUBLAS_WORKSPACE_CONFIG", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "DLWP_CACHE_DIR",
    "DLWP_DEBUG", "HF_HOME", "HF_HUB_OFFLINE", "HYDRA_FULL_ERROR", "KMP_AFFINITY", "MPLBACKEND", "MPLCONFIGDIR",
    "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED", "PYTHONWARNINGS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ENABLE_MPS_FALLBACK", "TORCH_HOME", "WORLD_SIZE", "XDG_CACHE_HOME", "XDG_STATE_HOME",
)  # fmt: skip
"""Variables that are shown with their values."""
_NAMED = re.compile(
    r"(?:DLWP|HYDRA|PYTHON|TORCH|PYTORCH|CUDA|CUBLAS|CUDNN|NVIDIA|NCCL|GLOO|OMP|MKL|KMP|HF|HUGGING_?FACE|LD)_?.*"
    r"|(?:HTTPS?|ALL|NO)_PROXY",
    re.IGNORECASE,
)
"""Variables of which only the names are told, where they are set."""


def report() -> str:
    """Return the report, a line a fact; what cannot be found out is told as such, and nothing makes it fail."""
    told = environment.collect()
    parts: list[tuple[str, Callable[[], Iterator[str]]]] = [
        ("dlwp", lambda: _versions(told)),
        ("machine", lambda: _machine(told)),
        ("torch", _torch),
        ("auto", _choices),
        ("places", _places),
        ("variables", lambda: _variables(told)),
    ]
    lines = []
    for name, part in parts:
        texts: list[str] = []
        try:
            texts.extend(part())  # what comes before an error is kept
        except Exception as error:  # any error: a broken installation is what the report is for
            texts.append(f"the rest cannot be told: {type(error).__name__}: {' '.join(str(error).split())}")
        lines += [f"{name if not number else '':<10}{_plain(text)}" for number, text in enumerate(texts)]
    return "\n".join(lines)


def _versions(told: dict[str, Any]) -> Iterator[str]:
    folder = Path(dlwp.__file__).parent
    installed = "site-packages" in folder.parts
    git = None if installed else environment.git_state(folder)
    commit = f", commit {git['commit'][:12]}{'' if git['clean'] else ', changed'}" if git else ""
    kind = "installed" if installed else "a checkout"
    yield f"{dlwp.__version__}, {kind} in {folder}{commit}"
    yield f"python {told['python']}, {told['executable']}"
    found = environment.versions((*environment.PACKAGES, *_FURTHER))
    yield _BAR.join(f"{name} {version}" for name, version in found.items() if name != "dlwp")


def _machine(told: dict[str, Any]) -> Iterator[str]:
    from dlwp import devices, memory

    yield told["platform"]
    usable, there = devices.usable_processors(), os.cpu_count()
    yield f"{told['processor']}, {usable} of {there} processors usable"
    yield f"memory: {memory.free() / 2**30:.1f} of {memory.whole() / 2**30:.1f} GiB free"
    shared = Path("/dev/shm")
    if shared.is_dir():
        yield f"shared memory, for workers: {shutil.disk_usage(shared).free / 2**30:.1f} GiB free in {shared}"


def _torch() -> Iterator[str]:
    import torch

    from dlwp import devices, torchvision_ops

    features = [name for name, has in torch.cpu.get_capabilities().items() if has is True and _FAST.match(name)]
    uses = torch.backends.cpu.get_cpu_capability()
    yield f"{torch.__version__}, {devices.describe(torch.device('cpu'))}, uses {uses} ({', '.join(features)})"
    yield f"built for CUDA {torch.version.cuda or '(none)'}{_driver()}, {torch.cuda.device_count()} CUDA devices"
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        free, whole = torch.cuda.mem_get_info(device)
        major, minor = torch.cuda.get_device_capability(device)
        memory = f"{free / 2**30:.1f} of {whole / 2**30:.1f} GiB free"
        yield f"{devices.describe(device)}: compute capability {major}.{minor}, {memory}"
    yield f"MPS: {'there' if torch.backends.mps.is_available() else 'none'}"
    operators = torchvision_ops.ensure_importable()
    fit = "fit this torch" if operators == "compiled" else "do not fit this torch; dlwp works without them"
    yield f"torchvision's operators {fit} ({operators})"
    __import__("torchvision")


def _driver() -> str:
    try:
        found = re.search(r"Module\s+(?:for \S+\s+)?([\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:  # no NVIDIA driver, or another system
        return ""
    return f", driver {found[1]}" if found else ""


def _choices() -> Iterator[str]:
    """Yield what each `auto` of the machine comes to, with its reason."""
    from dlwp import devices
    from dlwp.data.streaming import default_workers

    device, reason = devices.resolve("auto")
    yield f"device={device} ({reason})"
    pictures, others = devices.Traits(True, False), devices.Traits(False, False)
    precision, reason = devices.choose_precision("auto", device, pictures, "classification")
    other, why = devices.choose_precision("auto", device, others, "classification")
    yield f"trainer.precision={precision} for convolutions or attention that classify ({reason}), else {other} ({why})"
    last, reason = devices.choose_channels_last("auto", device, pictures, (3, 32, 32))
    yield f"trainer.channels_last={str(last).lower()} for pictures ({reason}), else false"
    workers, reason = default_workers()
    yield f"data.num_workers={workers} ({reason}) for data that is not held in memory"


def _places() -> Iterator[str]:
    """Yield where things lie and how much room there is."""
    from dlwp import zoo
    from dlwp.data.pictures import cache_folder

    places = {
        "runs": Path("outputs").absolute(),
        "data": Path(os.environ.get("DLWP_DATA_ROOT") or "data").expanduser().absolute(),
        "decoded pictures": cache_folder(),
        "notes of own runs": state_folder(),
        "weights of torch.hub": zoo.hub_folder(),
        "weights of Hugging Face": zoo.huggingface_folder(),
        "temporary files": Path(tempfile.gettempdir()),
    }
    for name, path in places.items():
        there = next(one for one in (path, *path.parents) if one.exists())
        state = "" if there == path else ", not there yet"
        state += "" if os.access(there, os.W_OK) else ", not writable"
        yield f"{name}: {path}, {shutil.disk_usage(there).free / 2**30:.1f} GiB free{state}"


def _variables(told: dict[str, Any]) -> Iterator[str]:
    shown = {**told["variables"], **{name: os.environ[name] for name in _SHOWN if name in os.environ}}
    yield _BAR.join(f"{name}={value}" for name, value in sorted(shown.items())) or "none that matters is set"
    named = [name for name in sorted(os.environ) if name not in shown and _NAMED.fullmatch(name)]
    if named:
        yield f"set too, values not shown: {', '.join(named)}"


def _plain(text: str) -> str:
    """Return a line without the home folder's name, and without an account in an address."""
    homes = {str(Path.home()), str(Path.home().resolve())} - {"/"}
    for home in sorted(homes, key=len, reverse=True):
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    return re.sub(r"(:/+)[^/@\s]+@", r"\1…@", text)
