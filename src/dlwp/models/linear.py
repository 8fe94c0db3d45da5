"""Own the linear model: one matrix and a bias, for tables and pictures alike.

Knows nothing of data or training.
"""

from __future__ import annotations

from torch import Tensor, nn


class Linear(nn.Module):
    """Linear model, x W^T + b: logistic regression with cross-entropy, least squares with a squared error.

    The weights start at zero: the criterion is convex, so the start does not decide the end, and the first outputs
    favour nothing (the first cross-entropy is ln K).

    Args:
        in_features: numbers D in one input, all axes but the batch multiplied.
        out_features: number of outputs K.
        bias: whether there is a b.

    Shape:
        input (B, ...), D numbers each -> output (B, K).

    Example:
        >>> import torch
        >>> Linear(in_features=64, out_features=10)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.head = nn.Linear(in_features, out_features, bias)
        nn.init.zeros_(self.head.weight)
        if bias:
            nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (B, K) of inputs (B, ...)."""
        return self.head(inputs.flatten(1))
