"""Own how the columns of a table enter a network: categories as embeddings, numbers as they are or as waves.

Knows nothing of what the network makes of them, nor of where columns come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dlwp.errors import ConfigError

_WAVE_WIDTH = 16
"""Numbers that the waves of one number are mixed into."""


def embedding_width(cardinality: int) -> int:
    """Return how many numbers stand for one of so many categories, min(50, ⌈1.6 n^0.56⌉).

    Source:
        The rule of fastai's `emb_sz_rule`, found by trials.

    >>> [embedding_width(count) for count in (3, 10, 100, 10_000)]
    [3, 6, 22, 50]
    """
    return min(50, math.ceil(1.6 * cardinality**0.56))


class Columns(nn.Module):
    """Turn rows into features: numbers, then the embedding of each category.

    Args:
        in_features: numbers in one input, D + C.
        cardinalities: of the last C of them, that are indices of categories: how many categories each has, 0 included.
        waves: frequencies by which each of the first D numbers is looked at; 0 leaves numbers as they are.
        scale: deviation of these frequencies, before training.

    Attributes:
        out_features: numbers F of what comes out.

    Shape:
        (B, D + C) -> (B, F).

    Raises:
        ConfigError: there are more categories than inputs.

    Source:
        Waves: Gorishniy et al. 2022, arXiv 2203.05556, section 3.3 and "PLR(lite)": of a number x the sine and cosine
        of 2π c x for each frequency c, then a linear map that all columns share, and ReLU.
    """

    def __init__(self, in_features: int, cardinalities: Sequence[int], waves: int = 0, scale: float = 0.3) -> None:
        super().__init__()
        self.num_numbers = in_features - len(cardinalities)
        if self.num_numbers < 0:
            raise ConfigError(f"model.cardinalities has {len(cardinalities)} columns, an input only {in_features}")
        widths = [embedding_width(count) for count in cardinalities]
        self.embeddings = nn.ModuleList(_embedding(*sizes) for sizes in zip(cardinalities, widths))
        width = _WAVE_WIDTH if waves and self.num_numbers else 1
        if width > 1:
            self.frequencies = nn.Parameter(scale * torch.randn(self.num_numbers, waves))
            self.mix = nn.Linear(2 * waves, width)
        self.out_features = width * self.num_numbers + sum(widths)
        self.is_wavy = width > 1

    def forward(self, inputs: Tensor) -> Tensor:
        """Return features (B, F) of rows (B, D + C)."""
        numbers, codes = inputs[:, : self.num_numbers], inputs[:, self.num_numbers :].long()
        if self.is_wavy:
            angles = 2 * math.pi * numbers.unsqueeze(2) * self.frequencies  # (B, D, waves)
            numbers = self.mix(torch.cat([angles.sin(), angles.cos()], 2)).relu().flatten(1)
        return torch.cat([numbers, *(each(codes[:, at]) for at, each in enumerate(self.embeddings))], 1)


def _embedding(cardinality: int, width: int) -> nn.Embedding:
    """Return vectors of length about 1; that of 0, unknown or missing, is 0: what train has none of has no say."""
    embedding = nn.Embedding(cardinality, width)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    with torch.no_grad():
        embedding.weight[0] = 0
    return embedding
