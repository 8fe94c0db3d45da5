"""Own the temporal convolutional network: what follows a window of rows, by convolutions that look back only.

Knows nothing of data or training.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dlwp.errors import ConfigError


class TCN(nn.Module):
    """Temporal convolutional network: residual blocks of two causal convolutions, their dilation doubling each time.

    There are as many blocks as it takes for the last row to see the whole window; a linear map of it gives the output.
    Without the weight normalisation of the paper.

    Args:
        in_columns: numbers D in a row.
        out_features: number of outputs K.
        window: rows W of an input.
        width: channels of a block.
        kernel_size: rows that a convolution takes, at least 2.
        dropout: probability in [0, 1) of dropping a channel's feature.

    Shape:
        input (B, W, D) -> output (B, K).

    Raises:
        ConfigError: the kernel has fewer than 2 rows.

    Example:
        >>> import torch
        >>> TCN(in_columns=3, out_features=24, window=48)(torch.zeros(2, 48, 3)).shape
        torch.Size([2, 24])

    Source:
        Bai, Kolter, Koltun 2018, arXiv 1803.01271, section 3.
    """

    def __init__(
        self,
        in_columns: int,
        out_features: int,
        window: int,
        width: int = 32,
        kernel_size: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if kernel_size < 2:
            raise ConfigError(f"model.kernel_size={kernel_size} sees one row only. model.kernel_size=3")
        blocks: list[nn.Module] = []
        seen, dilation = 1, 1
        while not blocks or seen < window:
            blocks.append(Block(width if blocks else in_columns, width, kernel_size, dilation, dropout))
            seen, dilation = seen + 2 * (kernel_size - 1) * dilation, 2 * dilation
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, out_features)
        nn.init.zeros_(self.head.weight)  # it begins with the mean of the targets
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (B, K) of inputs (B, W, D)."""
        values = self.blocks(inputs.transpose(1, 2))  # (B, width, W)
        return self.head(values[:, :, -1])


class Block(nn.Module):
    """One residual block: relu(x + dropped(relu(conv(dropped(relu(conv(x)))))))."""

    def __init__(self, before: int, width: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.past = (kernel_size - 1) * dilation
        self.conv1 = nn.Conv1d(before, width, kernel_size, dilation=dilation)
        self.conv2 = nn.Conv1d(width, width, kernel_size, dilation=dilation)
        self.skip = nn.Conv1d(before, width, 1) if before != width else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        for conv in (self.conv1, self.conv2):
            nn.init.normal_(conv.weight, std=0.01)  # as in the paper's code: a block begins as its shortcut
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, values: Tensor) -> Tensor:
        """Return values (B, width, W) of values (B, before, W)."""
        found = values
        for conv in (self.conv1, self.conv2):
            found = self.dropout(functional.relu(conv(functional.pad(found, (self.past, 0)))))
        return functional.relu(self.skip(values) + found)
