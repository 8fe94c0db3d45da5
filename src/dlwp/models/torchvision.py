"""Own torchvision's networks for the classification of pictures or their pixels, and their published weights.

Knows nothing of data or training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlwp.downloads import Source, UnreachableError, digest_of, fetch
from dlwp.errors import ConfigError, DataError, MachineError, did_you_mean
from dlwp.models.pretrained import Weights, imagenet_ids, read_file
from dlwp.runs.files import fault


def torchvision_network(name: str, num_classes: int = 1000, tag: str | None = None, **options: Any) -> nn.Module:
    """Return one of torchvision's networks for the classification of pictures, or of their pixels.

    Args:
        name: as `torchvision.models` has it, such as "resnet50", or "deeplabv3_resnet50" for pixels.
        num_classes: outputs K.
        tag: which of its published weights `model.pretrained=true` takes, such as "IMAGENET1K_V1"; None: the best.
        options: further arguments of torchvision's own function.

    Shape:
        input (B, 3, H, W) -> output (B, K) logits, or (B, K, H, W) of a network for pixels.

    Raises:
        ConfigError: no such network, weights or argument.
    """
    models = _models_with(name)
    if tag is not None:
        _torchvision_weights(models, name, tag)
    if name in ("googlenet", "inception_v3"):  # else it returns three outputs, and warns that it will change
        options = {"aux_logits": False, "init_weights": True, "transform_input": True, **options}
    dense = name in models.list_models(module=models.segmentation)
    if dense:  # else it would fetch a backbone's weights
        options = {"weights_backbone": None, **options}
    try:
        network = models.get_model(name, weights=None, num_classes=num_classes, **options)
        return LogitsOfPixels(network) if dense else network
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model: torchvision's {name} refuses an argument ({error})") from None


class LogitsOfPixels(nn.Module):
    """One of torchvision's networks for pixels, which give {"out": logits, ...}: the logits alone.

    Args:
        network: of pictures (B, 3, H, W).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (B, K, H, W)."""
        return self.network(pictures)["out"]


def _pretrained_torchvision(name: str, tag: str | None = None, **_: object) -> Weights:
    models = _models_with(name)
    weights = _torchvision_weights(models, name, tag)
    transforms = weights.transforms()
    if not hasattr(transforms, "crop_size"):  # of pixels: pictures of any size
        return Weights(
            name=f"torchvision {name}, {weights.name}", mean=tuple(transforms.mean), std=tuple(transforms.std),
            load=lambda: {f"network.{key}": value for key, value in _fetched(weights.url).items()},
        )  # fmt: skip
    return Weights(
        name=f"torchvision {name}, {weights.name}", load=lambda: _fetched(weights.url),
        image_size=transforms.crop_size[0], resize=transforms.resize_size[0],
        interpolation=transforms.interpolation.value, mean=tuple(transforms.mean), std=tuple(transforms.std),
        classes=weights.meta["categories"], ids=imagenet_ids(),  # all are of ImageNet's 1,000
    )  # fmt: skip


def _torchvision() -> Any:
    from dlwp import torchvision_ops

    torchvision_ops.ensure_importable()
    from torchvision import models

    return models


def _models_with(name: str) -> Any:
    models = _torchvision()
    known = [*models.list_models(module=models), *models.list_models(module=models.segmentation)]
    if name not in known:
        raise ConfigError(f"torchvision has no network '{name}'.{did_you_mean(name, known)}")
    return models


def _torchvision_weights(models: Any, name: str, tag: str | None) -> Any:
    known = models.get_model_weights(name)
    listed = [one.name for one in known]
    if tag is not None and tag not in listed:
        raise ConfigError(f"no weights '{tag}' for {name}.{did_you_mean(tag, listed)} There are: {', '.join(listed)}")
    return known[tag] if tag is not None else known.DEFAULT


def _fetched(url: str) -> dict[str, Tensor]:
    """Return the tensors of a file that torch.hub would fetch, from where it would keep it, checked as it would be."""
    name = url.rpartition("/")[2]
    digest = Path(name).stem.rpartition("-")[2]  # the first characters of its SHA-256
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    source = Source(path, (url,), digest, "sha256")
    try:
        if path.exists():
            found = digest_of(path, "sha256")
            if not found.startswith(digest):
                text = f"{path}: sha256 is {found[:8]}…, expected {digest}…"
                raise DataError(f"{text}. Remove it, and try again")
        else:
            fetch(source)
    except UnreachableError as error:
        why = f" ({error})" if str(error) else ""
        raise DataError(
            f"cannot reach {source.host}{why}. Put {name} (sha256 {digest}…) into '{path.parent}', or give "
            "model.weights=FILE"
        ) from None
    except OSError as error:
        raise MachineError(fault(error, path)) from None
    return read_file(path)


torchvision_network.pretrained = _pretrained_torchvision  # type: ignore[attr-defined]
