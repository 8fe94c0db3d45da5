"""Own the evaluation of a published network on data of one's own, whose classes are known to it by name or WordNet id.

Knows nothing of how values are computed and shown: `inference.evaluation` does that.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlwp import models
from dlwp.build import Builder, Parts
from dlwp.config import check
from dlwp.config.compose import Config, compose
from dlwp.errors import ConfigError, DataError, did_you_mean
from dlwp.inference import evaluation, networks
from dlwp.inference.networks import Network
from dlwp.parts import Trust
from dlwp.rehearsal import rehearse
from dlwp.runs.folder import default_path
from dlwp.training.state import load_weights

_WHOLE = ("data.val_fraction=0", "data.augment=null", "data.drop_last=false")
_LIST = Path(str(models.__file__)).with_name("imagenet.csv")


def evaluate(words: Sequence[str], *, split: str, output: str | None, plots: bool) -> dict[str, Any]:
    """Evaluate the network that `words` name on the data that they name; pictures come as the network wants them.

    Data of one split alone is evaluated whole, as test. Pictures of the report go to
    outputs/eval/<data>-<network>/<date>_<time> without `output`.

    Returns:
        As `dlwp.evaluate` says.

    Raises:
        ConfigError: network or data are not named, or do not fit. DataError: a class is none of the network's.
    """
    for group, example in (("model", "efficientnet_lite"), ("data", "imagefolder data.root=DIR")):
        if not any(check.split(word)[1].partition(".")[0] == group for word in words):
            raise ConfigError(f"without checkpoint= a published network is evaluated on data: {group}={example}")
    config = compose(check.with_defaults(words, _WHOLE))
    trust = Trust(not config.foreign, config.trusted)
    network = networks.of_published(config.values, trust)
    parts = _parts(config, network, trust)
    usual = default_path(Path("outputs/eval"), config.choices.get("data") or "data", network.stem.name, datetime.now())
    trainer = evaluation.evaluator(parts)
    found = evaluation.measure(parts, trainer, network.name, None, usual, split=split, output=output, plots=plots)
    return found | {"line": f"{found['line']}, by {network.name}"}


def _parts(config: Config, network: Network, trust: Trust) -> Parts:
    """Return data and network, the targets being the network's: its classes, its preprocessing, its weights."""
    facts = network.facts
    wanted = {"image_size": facts.input_shape[1], "mean": facts.mean, "std": facts.std, **(facts.form or {})}
    data = {key: wanted.get(key, value) if value == "auto" else value for key, value in config.values["data"].items()}
    model = {**config.values["model"], **network.section}
    typed = [check.split(word)[1] for word in config.typed]
    parts = Builder({**config.values, "data": data, "model": model}, trust, typed).build_for_evaluation()
    load_weights(parts.model, network.model.state_dict())
    if parts.data.facts.task != "classification" or not parts.data.facts.classes:
        raise ConfigError("the data does not name its classes, so the network's are not known in it. data=imagefolder")
    places = torch.tensor(places_of(parts.data.facts.classes, network), device=parts.device)
    for loader in parts.loaders.values():
        loader.transform = _Renumbered(loader.transform, places)  # type: ignore[attr-defined]
    found = parts.data.facts
    parts.data.facts = dataclasses.replace(found, classes=facts.classes, num_classes=facts.num_classes)
    if found.input_shape != facts.input_shape:
        rehearse(parts)
    if len(parts.loaders) == 1:
        parts.data.test, parts.loaders["test"] = parts.data.train, parts.loaders["train"]
    return parts


class _Renumbered:
    """A transform of a batch after which its targets are numbered as the network's: places[target]."""

    def __init__(self, transform: Callable[..., Any], places: Tensor) -> None:
        self._transform, self._places = transform, places

    def __call__(self, inputs: Tensor, targets: Tensor, *at: Any) -> tuple[Tensor, Tensor]:
        """Return the batch."""
        inputs, targets = self._transform(inputs, targets, *at)
        return inputs, self._places[targets]


def places_of(classes: Sequence[str], network: Network) -> list[int]:
    """Return the place among a network's outputs of each class: by its name there, one of its synonyms, or WordNet id.

    Capitals, and `_` for a space, do not count.

    Raises:
        DataError: a class is none of the network's, or may be several. ConfigError: its classes have no names.
    """
    if not network.facts.classes:
        raise ConfigError(f"the classes of {network.name} have no names, so those of the data are not known in it")
    known: defaultdict[str, set[int]] = defaultdict(set)
    for place, name in enumerate(network.facts.classes):
        for one in (name, *name.split(",")):
            known[_plain(one)].add(place)
    for place, one in enumerate(network.ids or ()):
        known[one] = {place}
    by_id = f", or its WordNet id such as {network.ids[0]}" if network.ids else ""
    found = []
    for name in classes:
        places = sorted(known.get(_plain(name), ()))
        if len(places) > 1:
            several = ", ".join(f"{(network.ids or network.facts.classes)[place]}" for place in places)
            raise DataError(f"class '{name}' of the data may be several of {network.name}: {several}. Name it so")
        if not places:
            near = did_you_mean(_plain(name), known)
            listed = f" ({_LIST} lists them)" if len(network.facts.classes) == 1000 else ""
            raise DataError(
                f"class '{name}' of the data is no category of {network.name}.{near} Name the folder after a "
                f"category{by_id}{listed}"
            )
        found += places
    return found


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).lower()
