"""dlwp: train PyTorch models from one command, or from Python.

Importing it is light: torch is imported by the function that needs it.

    import dlwp
    run = dlwp.train("model=resnet", "data=digits")
    print(run.summary["test"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dlwp.api import Run, evaluate, export, load, train
    from dlwp.errors import DlwpError
    from dlwp.settings import TrainerSettings
    from dlwp.training.trainer import Trainer

_HOMES = {
    "DlwpError": "dlwp.errors",
    "Run": "dlwp.api",
    "Trainer": "dlwp.training.trainer",
    "TrainerSettings": "dlwp.settings",
    "evaluate": "dlwp.api",
    "export": "dlwp.api",
    "load": "dlwp.api",
    "train": "dlwp.api",
}

__all__ = ["DlwpError", "Run", "Trainer", "TrainerSettings", "__version__", "evaluate", "export", "load", "train"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dlwp' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
