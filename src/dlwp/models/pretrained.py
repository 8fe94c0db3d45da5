"""Own published weights: what pictures a network was trained on, how its weights are had, and how they are put in.

Knows nothing of data sets or training. A network has published weights when its class, or the function that makes it,
has an attribute `pretrained`: called with the same arguments it returns `Weights`.
"""

from __future__ import annotations

import csv
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlwp.errors import ConfigError, DataError, MachineError
from dlwp.runs.files import fault


@dataclass(frozen=True)
class Weights:
    """Published weights of a network.

    Args:
        name: for a person. load: returns name -> tensor; may fetch a file.
        image_size: pixels a side of the pictures it was trained on. resize: the shorter side before the middle is cut
            out of it; None scales both sides. interpolation: "bilinear" or "bicubic". mean, std: of each channel, of
            pictures in [0, 1].
        classes: names of the outputs. ids: their WordNet ids.
        away: a line on why they cannot be loaded, and what to do: only how they are used is known.

    What is not known is None.
    """

    name: str
    load: Callable[[], dict[str, Tensor]]
    image_size: int | None = None
    resize: int | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: list[str] | None = None
    ids: list[str] | None = None
    away: str | None = None

    def answers(self) -> dict[str, Any]:
        """Return what these say of how pictures must come: key of `data` -> value."""
        names = ("image_size", "resize", "interpolation", "mean", "std")
        values = {name: getattr(self, name) for name in names}
        known = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {**known, "fit": "stretch" if self.resize is None else "crop"}


@dataclass(frozen=True)
class Loaded:
    """What came of weights: names of tensors that were put in, that fit in name only, and that were not there.

    Args:
        loaded, reshaped, missing: of the network. left: of the weights, without a place in it.
    """

    loaded: list[str]
    reshaped: list[str]
    missing: list[str]
    left: list[str]

    @property
    def new(self) -> list[str]:
        """Tensors of the network that begin anew."""
        return [*self.reshaped, *self.missing]


def load_into(model: nn.Module, tensors: dict[str, Tensor], name: str) -> Loaded:
    """Put weights into a network, as far as name and shape agree; the rest stays as it is.

    Raises:
        ConfigError: not one tensor of more than one number fits.
    """
    own = model.state_dict()
    fitting = {one: value for one, value in tensors.items() if one in own and own[one].shape == value.shape}
    found = Loaded(
        loaded=list(fitting),
        reshaped=[one for one in tensors if one in own and one not in fitting],
        missing=[one for one in own if one not in tensors],
        left=[one for one in tensors if one not in own],
    )
    if not any(value.numel() > 1 for value in fitting.values()):
        raise ConfigError(
            f"weights {name} fit no layer of {type(model).__name__}: they have {_some(tensors)}, it has {_some(own)}"
        )
    model.load_state_dict(fitting, strict=False)
    return found


def _some(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in list(tensors.items())[:2]) + ", …"


def read_file(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file: .safetensors, or what `torch.save` made of a state dict, read without trust.

    Raises:
        ConfigError: there is no such file. DataError: it is damaged, or holds more than named tensors.
    """
    path = Path(path).expanduser()
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                return dict(load_file(path))
            except SafetensorError as error:
                raise DataError(f"{path} is no whole .safetensors file ({error})") from None
        found = torch.load(path, map_location="cpu", weights_only=True)  # a restricted unpickler: tensors and numbers
    except FileNotFoundError:
        raise ConfigError(f"no file '{path}' (model.weights)") from None
    except OSError as error:
        raise MachineError(fault(error, path)) from None
    except Exception as error:  # any error: of torch, whose reader raises many kinds for what is no file of its own
        if isinstance(error, DataError):
            raise
        text = " ".join(str(error).split())
        named = re.search(r"GLOBAL (\S+)", text)
        why = f"more than tensors: it needs {named[1]}" if named else text[:80]
        if isinstance(error, pickle.UnpicklingError) and not named:  # its advice, to read it all the same, is unsafe
            why = "it is no file of torch's, or damaged"
        raise DataError(f"{path} cannot be read as weights without trusting it ({why})") from None
    for inner in ("state_dict", "model", "model_state_dict"):
        if isinstance(found, dict) and isinstance(found.get(inner), dict):
            found = found[inner]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(f"{path} holds no named tensors (a state dict)")
    return found


def imagenet_classes() -> list[str]:
    """Return the names of ImageNet's 1,000 classes, in their order."""
    return [row["name"] for row in _imagenet()]


def imagenet_ids() -> list[str]:
    """Return the WordNet ids of ImageNet's 1,000 classes, in their order."""
    return [row["wordnet_id"] for row in _imagenet()]


def _imagenet() -> list[dict[str, str]]:
    with Path(__file__).with_name("imagenet.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
