"""Own a small convolutional network with batch norm, for pictures of 8 to 64 pixels.

Knows nothing of data or training.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dlwp.errors import ConfigError


class CNN(nn.Module):
    """Small convolutional network: stages of 3x3 convolution, 2x2 max pooling, batch norm and ReLU, then the mean.

    Pooling stands before norm and activation, which leaves these a quarter of the work. The last stage does not pool.

    Args:
        in_channels: channels C of a picture.
        num_classes: number of outputs K.
        channels: output channels of each stage.
        dropout: probability in [0, 1) of dropping a feature before the last layer.

    Shape:
        input (B, C, H, W), H and W at least 2 ** (len(channels) - 1) -> output (B, K) logits.

    Raises:
        ConfigError: `channels` is empty or holds a number below 1.

    Example:
        >>> import torch
        >>> CNN(in_channels=1, num_classes=10)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])

    Source:
        Batch norm: Ioffe, Szegedy 2015, arXiv 1502.03167. Weights as in He et al. 2015, arXiv 1502.01852, equation 10.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        channels: Sequence[int] = (16, 32, 64, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ConfigError(
                f"cnn needs channels of 1 and more, one a stage, got {list(channels)}. channels=[16,32,64,128]"
            )
        stages: list[nn.Module] = []
        for number, (before, after) in enumerate(zip((in_channels, *channels), channels)):
            pool = nn.MaxPool2d(2) if number < len(channels) - 1 else nn.Identity()
            convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)  # the norm's bias stands for its own
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            stages.append(nn.Sequential(convolution, pool, nn.BatchNorm2d(after), nn.ReLU()))
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (B, K) of pictures (B, C, H, W)."""
        features = self.stages(pictures)  # (B, 128, H/8, W/8)
        return self.head(self.dropout(features.mean((2, 3))))
