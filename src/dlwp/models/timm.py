"""Own timm's networks, and the fetching of their published weights by timm.

Knows nothing of data or training.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dlwp.errors import ConfigError, DataError, MachineError, did_you_mean
from dlwp.models.pretrained import Weights, imagenet_classes, imagenet_ids


def timm_network(name: str, num_classes: int = 1000, in_channels: int = 3, **options: Any) -> nn.Module:
    """Return one of timm's networks.

    Args:
        name: as `timm.list_models` has it, such as "resnet50" or, with the tag of its weights, "resnet50.a1_in1k".
        num_classes: outputs K.
        in_channels: channels C of a picture.
        options: further arguments of `timm.create_model`.

    Shape:
        input (B, C, H, W) -> output (B, K) logits.

    Raises:
        ConfigError: no such network or argument. MachineError: timm is not installed.
    """
    timm = _timm(name)
    try:
        return timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"model: timm's {name} refuses an argument ({str(error).splitlines()[0][:120]})") from None


def _pretrained_timm(name: str, **_: object) -> Weights:
    timm = _timm(name)
    config = timm.get_pretrained_cfg(name)
    away = f"timm has no published weights of '{name}'. model.pretrained=false, or model.weights=FILE"
    if config is None:
        return Weights(name, dict, away=away)
    classes, ids = _classes(config)
    size, fraction = config.input_size[1], config.crop_pct or 1.0
    return Weights(
        name=f"timm {name}, {config.tag or 'its default'}", load=lambda: _fetched_timm(timm, name),
        image_size=size, resize=None if config.crop_mode == "squash" else int(size / fraction),
        interpolation=config.interpolation if config.interpolation in ("bilinear", "bicubic") else "bicubic",
        mean=tuple(config.mean), std=tuple(config.std), classes=classes, ids=ids,
        away=None if config.has_weights else away,
    )  # fmt: skip


def _classes(config: Any) -> tuple[list[str] | None, list[str] | None]:
    """Return the names of a network's outputs and their WordNet ids, None where they are no categories of ImageNet."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if config.num_classes == 1000:
        return imagenet_classes(), imagenet_ids()
    subset = infer_imagenet_subset(config.to_dict())  # such as that of 21,841 classes
    info = ImageNetInfo(subset) if subset else None
    return (list(info.label_descriptions()), info.label_names()) if info else (None, None)


def _timm(name: str) -> Any:
    from dlwp import torchvision_ops

    torchvision_ops.ensure_importable()
    try:
        import timm
    except ModuleNotFoundError:
        raise MachineError("model=timm needs the package timm: pip install 'dlwp[timm]'") from None
    if name.partition(".")[0] not in timm.list_models():  # this refuses "hf_hub:..." and "local-dir:..." too
        raise ConfigError(f"timm has no network '{name}'.{did_you_mean(name, timm.list_models())}")
    return timm


def _fetched_timm(timm: Any, name: str) -> dict[str, Tensor]:
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # any error: of timm and of what it fetches by, for a missing network among others
        why = " ".join(str(error).split())[:100] or type(error).__name__
        raise DataError(f"timm cannot get the weights of {name} ({why}). Give model.weights=FILE") from None


timm_network.pretrained = _pretrained_timm  # type: ignore[attr-defined]
