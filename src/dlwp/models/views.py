"""Own test-time augmentation: a model whose outputs are averaged over several views of each picture.

Knows nothing of what the model is, or of when it is evaluated.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from dlwp.errors import ConfigError


def with_views(model: nn.Module, views: str | None) -> nn.Module:
    """Return the model as it is for None, else one that averages its outputs over views.

    Raises:
        ConfigError: the model has a training step of its own, which does more than to take pictures.
    """
    return model if views is None else AveragedViews(model, views)


class AveragedViews(nn.Module):
    """Average a model's outputs (logits) over several views of each picture.

    mirror: the picture and its mirror image, twice the work; what is said of each pixel is mirrored back.
    mirror_translate: half of that, and a quarter each of both moved by one pixel, up and left, and down and right; the
        border is reflected. Six times the work.

    Args:
        model: of pictures (B, C, H, W); it is used, not copied.
        views: "mirror" or "mirror_translate".

    Example:
        >>> model = AveragedViews(nn.Flatten(), "mirror")
        >>> model(torch.tensor([[[[1.0, 3.0]]]]))
        tensor([[2., 2.]])

    Source:
        Krizhevsky et al. 2012 (mirror); Jordan 2024, arXiv 2404.00498, section 3.5 (with translation).
    """

    def __init__(self, model: nn.Module, views: str) -> None:
        super().__init__()
        if hasattr(type(model), "training_step"):
            raise ConfigError(f"trainer.tta={views}: {type(model).__name__} has a step of its own. trainer.tta=null")
        self.model = model
        self.views = views
        self.training = model.training

    def forward(self, pictures: Tensor) -> Any:
        """Return the average of the outputs."""
        if pictures.dim() != 4:
            shape = tuple(pictures.shape[1:])
            raise ConfigError(f"trainer.tta={self.views} needs pictures (C, H, W), not {shape}. trainer.tta=null")
        outputs = self._mirrored(pictures)
        if self.views == "mirror":
            return outputs
        if _is_dense(outputs, pictures):
            raise ConfigError(
                "trainer.tta=mirror_translate moves pictures, and with them what they say of pixels. trainer.tta=mirror"
            )
        height, width = pictures.shape[2:]
        padded = functional.pad(pictures, (1, 1, 1, 1), mode="reflect")
        moved = [self._mirrored(padded[:, :, at : at + height, at : at + width]) for at in (0, 2)]
        return outputs / 2 + (moved[0] + moved[1]) / 4

    def _mirrored(self, pictures: Tensor) -> Tensor:
        mirrored = self.model(pictures.flip(-1))
        return (self.model(pictures) + (mirrored.flip(-1) if _is_dense(mirrored, pictures) else mirrored)) / 2


def _is_dense(outputs: Tensor, pictures: Tensor) -> bool:
    """Return whether outputs (B, K, H, W) say something of each pixel, so that they are mirrored with the picture."""
    return outputs.dim() == 4 and outputs.shape[2:] == pictures.shape[2:]
