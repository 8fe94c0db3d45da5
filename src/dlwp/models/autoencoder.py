"""Own a convolutional autoencoder, with its own training step: what a run without targets looks like.

Knows nothing of data or training; the trainer calls `training_step` because it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from dlwp.errors import ConfigError


class Autoencoder(nn.Module):
    """Convolutional autoencoder: pictures are squeezed to a vector (the code) and built again from it.

    Each stage halves the picture by a 3x3 convolution of stride 2; the decoder mirrors it, doubling by nearest pixels
    and a 3x3 convolution, which leaves no checkerboard (Odena et al. 2016).

    Args:
        image_size: height and width of a picture in pixels, one number where they are equal.
        in_channels: channels C of a picture.
        channels: output channels of each stage of the encoder.
        code_size: numbers in the code.

    Shape:
        input (B, C, H, W) of the given image size -> output (B, C, H, W), on the scale of the input.

    Raises:
        ConfigError: the image size cannot be halved once a stage, or `channels` is empty.

    Example:
        >>> import torch
        >>> Autoencoder(image_size=28, in_channels=1)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])

    Source:
        Hinton, Salakhutdinov 2006, Science 313 (the idea); Odena, Dumoulin, Olah 2016, Distill (upsampling).
        Weights as in He et al. 2015, arXiv 1502.01852, equation 10.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 28,
        in_channels: int = 1,
        channels: Sequence[int] = (32, 64),
        code_size: int = 64,
    ) -> None:
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        factor = 2 ** len(channels)
        if not channels or height % factor or width % factor:
            raise ConfigError(
                f"model.channels={list(channels)} halves pictures {len(channels)} times, but {height}x{width} is not a "
                f"multiple of {factor}. model.channels=[32], or another picture size"
            )
        inner = (channels[-1], height // factor, width // factor)
        numbers = inner[0] * inner[1] * inner[2]
        down: list[nn.Module] = []
        for before, after in zip((in_channels, *channels), channels):
            down += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        up: list[nn.Module] = []
        for before, after in zip(channels[::-1], channels[-2::-1]):
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, 1, 1, bias=False)]
            up += [nn.BatchNorm2d(after), nn.ReLU()]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(numbers, code_size))
        self.decoder = nn.Sequential(
            nn.Linear(code_size, numbers), nn.ReLU(), nn.Unflatten(1, inner), *up,
            nn.Upsample(scale_factor=2), nn.Conv2d(channels[0], in_channels, 3, 1, 1),
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the reconstruction (B, C, H, W) of pictures (B, C, H, W)."""
        return self.decoder(self.encoder(pictures))

    def training_step(self, batch: Any, criterion: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Compare the pictures with their reconstruction; targets, where the data has them, are left aside.

        The trainer uses a model's `training_step` where there is one and `trainer.step` is null.

        Args:
            batch: pictures (B, C, H, W), or a sequence that begins with them.
            criterion: called as criterion(outputs, inputs).

        Returns:
            The loss, and the reconstruction (B, C, H, W).
        """
        inputs: Tensor = batch if isinstance(batch, Tensor) else batch[0]
        outputs = self(inputs)
        return criterion(outputs, inputs), outputs
