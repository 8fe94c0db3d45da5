"""Own what weights a model begins with: published ones, those of a file, or those of a run.

Knows nothing of how a model is built or trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dlwp import checkpoint
from dlwp.errors import ConfigError
from dlwp.models.pretrained import Weights, read_file
from dlwp.runs.folder import RunFolder, find_run
from dlwp.settings import ModelKeys

USUAL = {"image_size": 224, "resize": 256, "interpolation": "bilinear", "fit": "crop"}
"""How pictures come where no weights say it, as most networks of ImageNet were trained."""


def chosen(target: Any, section: Mapping[str, Any], keys: ModelKeys) -> Weights | None:
    """Return the weights that the keys of a model ask for, None for none.

    Args:
        target: the class, or the function that makes the model. section: its arguments.

    Raises:
        ConfigError: weights are asked for that are not published, or of a run that has none.
    """
    if not keys.pretrained and keys.weights is None:
        return None
    publish = getattr(target, "pretrained", None)
    name = getattr(target, "__name__", "this model")
    if publish is None and keys.weights is None:
        raise ConfigError(f"no weights of {name} are published, so it cannot begin with such. model.weights=FILE")
    arguments = {key: value for key, value in section.items() if key != "_target_" and value != "auto"}
    found = publish(**arguments) if publish is not None else None
    if keys.weights is None:
        if found is not None and found.away is not None:
            raise ConfigError(found.away)
        return found
    path = str(keys.weights)
    return dataclasses.replace(found or Weights(path, dict), name=path, load=lambda: _read(path), away=None)


def answers(found: Weights | None, section: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return what answers `auto` for keys of data: key -> (value, reason); the resize goes with the image size."""
    known: dict[str, Any] = dict(USUAL)
    reason = "as most networks for photographs take them"
    if found is not None and found.image_size is not None:
        known, reason = found.answers(), f"as {found.name} was trained"
    size = section.get("image_size")
    if isinstance(size, int) and known["resize"] is not None:
        known["resize"] = round(size * known["resize"] / known["image_size"])
    if isinstance(section.get("resize"), int):
        known["fit"] = "crop"  # of which that is a part
    return {key: (value, reason) for key, value in known.items()}


def _read(path: str) -> dict[str, Tensor]:
    """Return the tensors of a file, or the best weights of a run."""
    if not Path(path).expanduser().is_dir():
        return read_file(path)
    folder, named = find_run(path)
    run = RunFolder(folder)
    best = named or run.pointed("best") or run.pointed("last")
    if best is None:
        raise ConfigError(f"model.weights={path}: that run has no checkpoint yet")
    return checkpoint.load_weights(best)[0]
