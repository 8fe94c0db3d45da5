"""Own the causal transformer (GPT): what comes next in a sequence of tokens.

Knows nothing of what the tokens stand for, of data or training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlwp import randomness
from dlwp.errors import ConfigError


class Transformer(nn.Module):
    """Causal transformer: tokens become vectors, pre-norm blocks of attention and perceptron, logits of the next token.

    Positions are rotary: queries and keys are turned by an angle that grows with their place.

    Args:
        num_classes: size K of the vocabulary.
        max_length: tokens T that are looked back on at most.
        depth: number of blocks.
        width: features D of a token; a multiple of twice `num_heads`.
        num_heads: attention heads of a block.
        dropout: probability in [0, 1) of dropping a feature after the embedding and after each half of a block.

    Shape:
        input int64 (B, T), T up to `max_length` -> output (B, K, T): at each place logits of the token after it, the
        classes on the axis on which torch's cross-entropy takes them.

    Raises:
        ConfigError: the heads do not divide the width.

    Example:
        >>> Transformer(num_classes=65, max_length=16)(torch.zeros(2, 16, dtype=torch.int64)).shape
        torch.Size([2, 65, 16])

    Source:
        Radford et al. 2019, Language Models are Unsupervised Multitask Learners (GPT-2; blocks and weights at the
        start); Su et al. 2021, RoFormer, arXiv 2104.09864, section 3.2.2 (rotary positions).
    """

    base_rates = {"AdamW": 4e-3, "Adam": 4e-3}  # a batch of windows holds thousands of samples, of tokens
    cosines: Tensor
    sines: Tensor

    def __init__(
        self,
        num_classes: int,
        max_length: int = 128,
        depth: int = 4,
        width: int = 128,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % (2 * num_heads):
            whole = 2 * num_heads * -(-width // (2 * num_heads))
            raise ConfigError(f"model.width={width} must be a multiple of 2 x num_heads. model.width={whole}")
        self.max_length = max_length
        self.embed = nn.Embedding(num_classes, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, num_heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes, bias=False)
        half = width // num_heads // 2
        angles = torch.arange(max_length)[:, None] / 10_000 ** (torch.arange(half) / half)  # (T, D / heads / 2)
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)
        self._initialise(depth)

    def _initialise(self, depth: int) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:  # what is added to the residual stream is the smaller the more of it there is
                is_last = name.endswith((".attention.out.weight", ".mlp.2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if is_last else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, K, T) of tokens (B, T)."""
        length = tokens.shape[1]
        turn = self.cosines[:length], self.sines[:length]
        values = self.dropout(self.embed(tokens))  # (B, T, D)
        for block in self.blocks:
            values = block(values, turn)
        return self.head(self.norm(values)).transpose(1, 2)


class Block(nn.Module):
    """One pre-norm block: x + attention(norm(x)), then x + perceptron(norm(x))."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CausalAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Return values (B, T, D) of values (B, T, D); `turn` holds cosines and sines (T, D / heads / 2)."""
        values = values + self.dropout(self.attention(self.norm1(values), turn))
        return values + self.dropout(self.mlp(self.norm2(values)))


class CausalAttention(nn.Module):
    """Multi-head self-attention that looks back only, with rotary positions, by the fused kernel of torch."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries_keys = nn.Linear(width, 2 * width)
        self.values = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, values: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Return values (B, T, D) of values (B, T, D)."""
        both = self.queries_keys(values).unflatten(2, (2 * self.num_heads, -1)).transpose(1, 2)
        queries, keys = turned(both, *turn).chunk(2, 1)  # each (B, heads, T, D / heads)
        taken = self.values(values).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(queries, keys, taken, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


def turned(vectors: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Return vectors (..., T, D) turned in each plane of features i and i + D/2 by the angle of their place.

    Args:
        cosines, sines: of the angles, (T, D / 2).

    Source: Su et al. 2021, equation 34.
    """
    first, second = vectors.chunk(2, -1)
    cosines, sines = cosines.to(vectors.dtype), sines.to(vectors.dtype)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1)


def continued(
    model: nn.Module,
    tokens: Sequence[int],
    count: int,
    *,
    max_length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[int]:
    """Yield tokens that follow, one after the other, each drawn from what the model gives for its place.

    The model looks back on the last `max_length` tokens, which are computed anew for each. It is to be in evaluation
    mode; the random numbers are counted by (seed, place) and leave the global generators as they are.

    Args:
        model: gives logits (1, K, T) of tokens (1, T).
        tokens: what they follow, at least one.
        count: how many are wanted.
        max_length: how many the model takes.
        temperature: of the softmax, above 0: below 1 the likely ones become likelier; 0 takes the likeliest.
        top_k: only the k likeliest are drawn from; None: all.
        seed: another one gives another text.
    """
    known = list(tokens)
    for place in range(count):
        window = torch.tensor([known[-max_length:]], device=device)
        with torch.inference_mode():
            logits = model(window)[0, :, -1].double().cpu()
        if top_k is not None and top_k < len(logits):
            logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -math.inf)
        if temperature == 0:
            token = int(logits.argmax())
        else:
            draw = randomness.generator(seed, "text", place)
            token = int(torch.multinomial((logits / temperature).softmax(0), 1, generator=draw))
        known.append(token)
        yield token
