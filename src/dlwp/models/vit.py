"""Own the vision transformer (Dosovitskiy et al. 2021), small by default, for small pictures.

Knows nothing of data or training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlwp.errors import ConfigError, did_you_mean


class ViT(nn.Module):
    """Vision transformer: patches become tokens, pre-norm blocks of attention and perceptron, one linear map.

    The defaults (mean over tokens, fixed sine and cosine positions) are those of Beyer et al. 2022; `pool="class"` and
    `positions="learned"` give the network of the first paper.

    Args:
        image_size: height and width of a picture in pixels, one number where they are equal.
        in_channels: channels C of a picture.
        num_classes: number of outputs K.
        patch_size: side of a square patch in pixels; it divides the image size.
        width: features D of a token; a multiple of `num_heads`, and of 4 with positions "sincos".
        depth: number of blocks.
        num_heads: attention heads of a block.
        mlp_width: hidden features of a block's perceptron.
        pool: what the last layer reads: the "mean" of the tokens, or a "class" token of its own.
        positions: "sincos" (fixed) or "learned".
        dropout: probability in [0, 1) of dropping a feature after the embedding and after each half of a block.

    Shape:
        input (B, C, H, W) of the given image size -> output (B, K) logits.

    Raises:
        ConfigError: sizes do not divide one another, or there is no such pool or positions.

    Example:
        >>> import torch
        >>> ViT(image_size=32, in_channels=3, num_classes=10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source:
        Dosovitskiy et al.: An Image is Worth 16x16 Words, arXiv 2010.11929, section 3.1 and appendix D.
        Beyer, Zhai, Kolesnikov: Better plain ViT baselines for ImageNet-1k, arXiv 2205.01580.
    """

    positions: Tensor

    def __init__(
        self,
        image_size: int | Sequence[int] = 32,
        in_channels: int = 3,
        num_classes: int = 10,
        patch_size: int = 4,
        width: int = 192,
        depth: int = 6,
        num_heads: int = 3,
        mlp_width: int = 384,
        pool: str = "mean",
        positions: str = "sincos",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        height, across = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        _check(height, across, patch_size, width, num_heads, pool, positions)
        rows, columns = height // patch_size, across // patch_size
        self.embed = nn.Conv2d(in_channels, width, patch_size, patch_size)  # a linear map of each patch
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if pool == "class" else None
        num_tokens = rows * columns + (pool == "class")
        if positions == "learned":
            self.positions = nn.Parameter(torch.randn(1, num_tokens, width) * 0.02)
        else:
            table = sincos_positions(rows, columns, width)
            if pool == "class":
                table = torch.cat([torch.zeros(1, width), table])
            self.register_buffer("positions", table[None], persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, num_heads, mlp_width, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        fan_in = self.embed.weight[0].numel()
        nn.init.trunc_normal_(self.embed.weight, std=math.sqrt(1 / fan_in))
        nn.init.zeros_(self.embed.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.weight)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (B, K) of pictures (B, C, H, W)."""
        tokens = self.embed(pictures).flatten(2).transpose(1, 2)  # (B, T, D)
        if self.class_token is not None:  # shape[0], as len() would fix the size of the batch in an exported file
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], 1)  # (B, 1 + T, D)
        tokens = self.norm(self.blocks(self.dropout(tokens + self.positions)))
        return self.head(tokens.mean(1) if self.class_token is None else tokens[:, 0])


class Block(nn.Module):
    """One pre-norm block: x + attention(norm(x)), then x + perceptron(norm(x)) (equations 2 and 3)."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_width), nn.GELU(), nn.Linear(mlp_width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, T, D) of tokens (B, T, D)."""
        tokens = tokens + self.dropout(self.attention(self.norm1(tokens)))
        return tokens + self.dropout(self.mlp(self.norm2(tokens)))


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), by the fused kernel of torch."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries = nn.Linear(width, width)
        self.keys = nn.Linear(width, width)
        self.values = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, T, D) of tokens (B, T, D)."""
        queries, keys, values = (
            map_(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, T, D / heads)
            for map_ in (self.queries, self.keys, self.values)
        )
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        return self.out(mixed.transpose(1, 2).flatten(2))


def sincos_positions(rows: int, columns: int, width: int) -> Tensor:
    """Return fixed positions (rows * columns, width): sines and cosines of column and row at width / 4 frequencies.

    Source: Beyer et al. 2022, arXiv 2205.01580 (`posemb_sincos_2d`).
    """
    frequencies = 1 / 10_000 ** (torch.arange(width // 4) / max(1, width // 4 - 1))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    across, down = column.reshape(-1, 1) * frequencies, row.reshape(-1, 1) * frequencies
    return torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], 1)


def _check(height: int, across: int, patch_size: int, width: int, num_heads: int, pool: str, positions: str) -> None:
    if patch_size < 1 or height % patch_size or across % patch_size:
        fitting = [side for side in range(1, min(height, across) + 1) if height % side == 0 and across % side == 0]
        raise ConfigError(
            f"model.patch_size={patch_size} does not divide pictures of {height}x{across}. "
            f"It may be {', '.join(map(str, fitting))}"
        )
    if width % num_heads or (positions == "sincos" and width % 4):
        divisor = math.lcm(num_heads, 4) if positions == "sincos" else num_heads
        raise ConfigError(
            f"model.width={width} must be a multiple of {divisor}. model.width={divisor * -(-width // divisor)}"
        )
    for key, value, known in (("pool", pool, ("mean", "class")), ("positions", positions, ("sincos", "learned"))):
        if value not in known:
            raise ConfigError(
                f"model.{key} cannot be {value!r}.{did_you_mean(value, known)} There are: {', '.join(known)}"
            )
