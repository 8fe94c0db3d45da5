"""Own the residual network for tables.

Knows nothing of data or training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from dlwp.models.columns import Columns


class Block(nn.Module):
    """x + drop(linear(drop(relu(linear(norm(x)))))).

    Args:
        width: numbers in x. hidden: numbers between the two maps. dropout: behind the activation.
        residual_dropout: at the end.

    Shape:
        (B, width) -> (B, width).
    """

    def __init__(self, width: int, hidden: int, dropout: float, residual_dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(width), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width),
            nn.Dropout(residual_dropout),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


class ResNetTabular(nn.Module):
    """Residual network for tables: a linear map, blocks, and a linear map of relu(norm(x)).

    Args:
        in_features: numbers D + C in one input.
        out_features: number of outputs K.
        cardinalities: of the last C numbers of an input, that are indices of categories: how many each has.
        width: numbers in the features. depth: blocks.
        hidden_factor: numbers between the two maps of a block, in widths.
        dropout, residual_dropout: probabilities in [0, 1), within a block and at its end.
        waves: frequencies by which each number is looked at, see `Columns`; 0: numbers enter as they are.
        wave_scale: deviation of these frequencies, before training.

    Shape:
        (B, D + C) -> (B, K).

    Example:
        >>> import torch
        >>> model = ResNetTabular(in_features=5, out_features=2, cardinalities=[3, 10])
        >>> model(torch.zeros(4, 5)).shape
        torch.Size([4, 2])

    Source:
        Gorishniy et al. 2021, Revisiting Deep Learning Models for Tabular Data, arXiv 2106.11959, section 3.2; weights
        as torch has them, as in the authors' code (rtdl). Waves: see `Columns`.
    """

    base_rates: ClassVar[dict[str, float]] = {
        "AdamW": 0.001,
        "Adam": 0.001,
    }  # a batch of 128; with 0.003 a table of a few thousand rows was learned clearly worse

    def __init__(
        self,
        in_features: int,
        out_features: int,
        cardinalities: Sequence[int] = (),
        width: int = 192,
        depth: int = 2,
        hidden_factor: float = 2.0,
        dropout: float = 0.2,
        residual_dropout: float = 0.0,
        waves: int = 32,
        wave_scale: float = 0.3,
    ) -> None:
        super().__init__()
        self.columns = Columns(in_features, cardinalities, waves, wave_scale)
        self.first = nn.Linear(self.columns.out_features, width)
        hidden = round(width * hidden_factor)
        self.blocks = nn.Sequential(*(Block(width, hidden, dropout, residual_dropout) for _ in range(depth)))
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (B, K) of rows (B, D + C)."""
        features = self.blocks(self.first(self.columns(inputs.flatten(1))))
        return self.head(self.norm(features).relu())
