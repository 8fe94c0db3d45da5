"""Own a U-Net whose way down is an EfficientNet-Lite, which can begin with published weights.

Knows nothing of data or training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlwp.errors import ConfigError
from dlwp.models.efficientnet_lite import EfficientNetLite
from dlwp.models.pretrained import Weights
from dlwp.models.unet import convolutions

_HEAD = ("conv_head", "bn2", "dropout", "head")  # what of the encoder tells classes of whole pictures apart
_FAINT = 0.02  # the deviation below which a picture counts as empty
_KEPT = (0, 1, 2, 4, 6)  # the last stage at each stride
_WIDTHS = (16, 32, 48, 64, 128)  # channels on the way up, at strides 1, 2, 4, 8, 16


class LiteUNet(nn.Module):
    """U-Net with an EfficientNet-Lite as its way down: its features are kept at each stride, 2 to 32.

    At each level what is below is scaled to the size of what was kept there (bilinear), put beside it, and goes through
    two 3x3 convolutions with norms; at the finest level the picture itself is what was kept.

    Args:
        in_channels: channels C of a picture.
        num_classes: number of classes K.
        variant: of EfficientNet-Lite, 0 to 4; published weights (`pretrained`) are there for 0.
        norm: of the layers on the way up, "group" or "batch"; those of the encoder are batch norms.
        statistics: of the encoder's norms in training: "fixed" (as they came with the weights, so that each picture is
            taken for itself), or "batch" (of each batch, where there are no weights to begin with).
        depth: halvings, 1 to 5: how much of the encoder is taken, so how large a surrounding of a pixel is seen; with
            less it is faster (4 takes a sixth of the time off).

    Shape:
        input (B, C, H, W) -> output (B, K, H, W) logits.

    Raises:
        ConfigError: there is no such variant, norm, statistics or depth.

    Example:
        >>> LiteUNet(in_channels=3, num_classes=2).eval()(torch.zeros(1, 3, 40, 50)).shape
        torch.Size([1, 2, 40, 50])

    Source:
        Ronneberger, Fischer, Brox 2015: U-Net, arXiv 1505.04597; with an encoder pretrained on ImageNet: Iglovikov,
        Shvets 2018, TernausNet, arXiv 1801.05746.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        variant: int = 0,
        norm: str = "group",
        statistics: str = "fixed",
        depth: int = 5,
    ) -> None:
        super().__init__()
        if norm not in ("batch", "group"):
            raise ConfigError(f"lite_unet takes norm batch or group, got {norm!r}")
        if statistics not in ("fixed", "batch"):
            raise ConfigError(f"lite_unet takes statistics fixed or batch, got {statistics!r}")
        if depth not in range(1, len(_KEPT) + 1):
            raise ConfigError(f"lite_unet takes a depth of 1 to {len(_KEPT)}, got {depth}")
        self.statistics = statistics
        self.encoder = EfficientNetLite(in_channels, 1, variant)
        for name in _HEAD:
            delattr(self.encoder, name)
        self.encoder.stages = nn.Sequential(*list(self.encoder.stages)[: _KEPT[depth - 1] + 1])
        with torch.no_grad():  # in evaluation, so that no statistics change
            kept = [features.shape[1] for features in self.eval()._levels(torch.zeros(1, in_channels, 32, 32))]
        self.train()
        widths = _WIDTHS[depth - 1 :: -1]
        self.merge = nn.ModuleList(
            convolutions(under + beside, width, norm)
            for under, beside, width in zip([kept[-1], *widths], reversed(kept[:-1]), widths, strict=False)
        )
        self.head = nn.Conv2d(_WIDTHS[0], num_classes, 1)
        for module in [*self.merge.modules(), self.head]:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.01)

    def train(self, mode: bool = True) -> LiteUNet:
        """Set the mode; with fixed statistics the encoder's norms stay as in evaluation."""
        super().train(mode)
        if self.statistics == "fixed":
            self.encoder.eval()  # which has no other layers with a mode
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (B, K, H, W) of pictures (B, C, H, W)."""
        *kept, features = self._levels(pictures)
        for merge, beside in zip(self.merge, reversed(kept), strict=True):
            features = functional.interpolate(features, beside.shape[-2:], mode="bilinear", align_corners=False)
            features = merge(torch.cat([beside, features], 1))
        return self.head(features)

    def _levels(self, pictures: Tensor) -> Iterator[Tensor]:
        """Yield the picture and the last features of each stride: 2, 4, 8, 16, 32."""
        pictures = _standardised(pictures)
        yield pictures
        features = functional.relu6(self.encoder.bn1(self.encoder.conv_stem(pictures)))
        for number, stage in enumerate(self.encoder.stages):
            features = stage(features)
            if number in _KEPT:
                yield features

    @staticmethod
    def pretrained(variant: int = 0, depth: int = 5, **_: object) -> Weights:
        """Return the published weights of the encoder of a variant; those of variant 0 lie on disk.

        Raises:
            ConfigError: of this variant dlwp has none.
        """
        if variant != 0:
            raise ConfigError(
                f"weights of lite_unet variant {variant} do not come with dlwp. model.variant=0, or"
                " model.pretrained=false model.statistics=batch"
            )
        whole = EfficientNetLite.pretrained(variant)

        def load() -> dict[str, Tensor]:
            found = {name: value for name, value in whole.load().items() if _is_taken(name, depth)}
            return {f"encoder.{name}": value for name, value in found.items()}

        return dataclasses.replace(whole, load=load, classes=None)


def _is_taken(name: str, depth: int) -> bool:
    """Return whether a tensor of EfficientNet-Lite belongs to an encoder of this depth."""
    part, number = name.split(".")[:2]
    return int(number) <= _KEPT[depth - 1] if part == "stages" else part not in _HEAD


def _standardised(pictures: Tensor) -> Tensor:
    """Return pictures, each with mean 0 and deviation 1 over all its numbers: dim ones are seen as well as bright ones.

    Source: Isensee et al. 2021, nnU-Net, Nature Methods 18 (z-score of each picture).
    """
    deviation, mean = torch.std_mean(pictures, (1, 2, 3), keepdim=True, correction=0)
    return (pictures - mean) / deviation.clamp_min(_FAINT)
