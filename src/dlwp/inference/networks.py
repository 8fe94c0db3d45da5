"""Own the way from a checkpoint, published weights or an exported file to a network, with what is known of its data.

Knows nothing of what is done with it: predictions and exports are made of any task's network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from dlwp import checkpoint, weights
from dlwp.data.datasets import Facts
from dlwp.errors import ConfigError, DataError
from dlwp.models.pretrained import load_into
from dlwp.parts import Trust, instantiate, locate, take_off
from dlwp.settings import ModelKeys
from dlwp.training.state import load_weights


@dataclass(frozen=True)
class Network:
    """A model with its weights, and what must be known to use it.

    Attributes:
        model: on the host, in evaluation mode. facts: of the data that it was trained on.
        section: what builds the model: its `_target_` and all arguments. name: for a person.
        stem: what a file made of it is called where no name is given, without the ending.
        ids: WordNet ids of its classes, where these have such.
    """

    model: nn.Module
    facts: Facts
    section: dict[str, Any]
    name: str
    stem: Path
    ids: list[str] | None = None


def of_run(folder: Path, values: Mapping[str, Any], trust: Trust) -> Network:
    """Return the network of a checkpoint: the data set is not needed.

    Args:
        folder: of the checkpoint. values: its config, as plain containers.

    Raises:
        DataError: it is damaged, or older than what it must hold.
    """
    tensors, record = checkpoint.load_weights(folder)
    if not record.get("data"):
        raise DataError(f"{folder} does not say what its data was: it was saved by an older dlwp. Train it further")
    facts = Facts(**record["data"])
    section, _ = take_off(values["model"], ModelKeys, locate(values["model"]["_target_"], "model._target_", trust))
    model = instantiate(section, "model", trust)
    load_weights(model, tensors)
    return Network(model.eval(), facts, section, str(folder), folder.parents[1] / "export" / "model")


def of_published(values: Mapping[str, Any], trust: Trust) -> Network:
    """Return a network with published weights, as the section `model` names it.

    Raises:
        ConfigError: there is no such network, or no weights of it are published.
    """
    whole = {**values["model"]}
    target = locate(whole.get("_target_"), "model._target_", trust)
    section, own = take_off(whole, ModelKeys, target)
    keys = ModelKeys(**{**own, "pretrained": own.get("weights") is None})
    found = weights.chosen(target, section, keys)
    assert found is not None
    tensors = found.load()
    size = found.image_size
    if size is None or found.mean is None or found.std is None:
        raise ConfigError(f"how pictures must come for {found.name} is not known. Train it, then checkpoint=RUN")
    num_classes = len(found.classes) if found.classes else list(tensors.values())[-1].shape[0]
    facts = Facts(
        task="classification", input_shape=(3, size, size), num_classes=num_classes, classes=found.classes,
        mean=list(found.mean), std=list(found.std),
        form={"fit": "crop" if found.resize else "stretch", "resize": found.resize,
              "interpolation": found.interpolation},
    )  # fmt: skip
    answers = {name: value for name, (value, _) in facts.answers().items() if section.get(name) == "auto"}
    section = {**section, **answers}
    model = instantiate(section, "model", trust)
    loaded = load_into(model, tensors, found.name)
    if loaded.new:
        raise ConfigError(f"weights {found.name} do not fit: {', '.join(loaded.new[:3])} would be random numbers")
    stem = str(section.get("name") or section["_target_"].split(".")[-2])
    return Network(model.eval(), facts, section, found.name, Path(stem), found.ids)


def of_file(path: str | Path, trust: Sequence[str] | Trust = ()) -> Network:
    """Return the network of a file that `dlwp-export format=safetensors` wrote.

    Args:
        path: of the file. trust: packages whose classes may be built of what it names, beside those of dlwp, torch,
            torchvision and timm, such as ["my_file"]; or the whole rule.

    Raises:
        DataError: it is damaged, or was not written by dlwp-export. ConfigError: it names a class that is not trusted.

    Example:
        >>> network = of_file("model.safetensors")  # doctest: +SKIP
        >>> logits = network.model(inputs)  # doctest: +SKIP
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
        section, facts = json.loads(said["model"]), Facts(**json.loads(said["facts"]))
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, FileNotFoundError) as error:
        raise DataError(f"{path} is no whole .safetensors file ({error})") from None
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"{path} does not say what network it is of ({error}): dlwp-export did not write it") from None
    model = instantiate(section, "model", trust if isinstance(trust, Trust) else Trust(False, trust))
    load_weights(model, tensors)
    return Network(model.eval(), facts, section, str(path), Path(path).with_suffix(""))
