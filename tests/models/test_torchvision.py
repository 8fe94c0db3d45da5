"""torchvision's networks come with their weights by its own address and cache, checked; or with one line."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from dlwp import downloads
from dlwp.errors import ConfigError, DataError
from dlwp.models import torchvision as ours
from dlwp.models.torchvision import torchvision_network


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return torch.hub's folder of weights, of which nothing is there yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def made_weights(folder: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes = b"") -> torch.nn.Module:
    """Write a weights file of a small network where torchvision's own would be kept, under its own checksum."""
    torch.manual_seed(1)
    model = torchvision_network("squeezenet1_1")
    torch.save(model.state_dict(), folder / "made.pth")
    data = (folder / "made.pth").read_bytes()
    digest = hashlib.sha256(data).hexdigest()[:8]
    (folder / "made.pth").unlink()
    (folder / f"squeezenet1_1-{digest}.pth").write_bytes(data + damage)
    found = ours._torchvision_weights(ours._torchvision(), "squeezenet1_1", None)
    url = f"https://download.pytorch.org/models/squeezenet1_1-{digest}.pth"
    monkeypatch.setattr(type(found), "url", url)
    return model


def test_weights_in_the_cache_of_torch_hub_are_used(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made_weights(hub, monkeypatch)
    found = torchvision_network.pretrained(name="squeezenet1_1")  # type: ignore[attr-defined]
    tensors = found.load()
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())
    assert (found.image_size, found.resize, found.interpolation) == (224, 256, "bilinear")
    assert found.mean == (0.485, 0.456, 0.406) and found.classes[281] == "tabby"


def test_a_wrong_checksum_is_one_line_that_names_the_file(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_weights(hub, monkeypatch, damage=b"x")
    with pytest.raises(DataError, match=r"squeezenet1_1-\w{8}.pth: sha256 is \w{8}…, expected \w{8}…. Remove it"):
        torchvision_network.pretrained(name="squeezenet1_1").load()  # type: ignore[attr-defined]


def test_without_a_network_the_line_says_what_to_put_where(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: Any, **__: Any) -> None:
        raise downloads.UnreachableError("")

    monkeypatch.setattr(ours, "fetch", nobody)
    with pytest.raises(
        DataError, match=r"cannot reach download.pytorch.org. Put resnet18-f37072fd.pth .*model.weights=FILE"
    ):
        torchvision_network.pretrained(name="resnet18").load()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"name": "resnet19"}, "torchvision has no network 'resnet19'. Did you mean 'resnet18'"),
        (
            {"name": "resnet50", "tag": "IMAGENET1K_V9"},
            "no weights 'IMAGENET1K_V9' for resnet50.*There are: IMAGENET1K_V1",
        ),
        ({"name": "resnet18", "wide": 3}, "torchvision's resnet18 refuses an argument .*wide"),
    ],
)
def test_unknown_names_are_one_line(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        torchvision_network(**arguments)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_further_heads_give_one_output(name: str) -> None:
    model = torchvision_network(name, num_classes=3)
    size = 299 if name == "inception_v3" else 64
    assert model.train()(torch.zeros(2, 3, size, size)).shape == (2, 3)
