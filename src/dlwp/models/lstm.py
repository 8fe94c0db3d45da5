"""Own the LSTM over a window of rows, with a linear map of what it holds at the end.

Knows nothing of data or training.
"""

from __future__ import annotations

from torch import Tensor, nn


class LSTM(nn.Module):
    """Long short-term memory (torch's), read at the last row.

    Args:
        in_columns: numbers D in a row.
        out_features: number of outputs K.
        width: features of its state.
        depth: layers, one on top of the other.
        dropout: probability in [0, 1) of dropping a feature between layers and before the output.

    Shape:
        input (B, W, D) -> output (B, K).

    Example:
        >>> import torch
        >>> LSTM(in_columns=3, out_features=24)(torch.zeros(2, 48, 3)).shape
        torch.Size([2, 24])

    Source:
        Hochreiter, Schmidhuber 1997; a forget bias of 1 as in Jozefowicz et al. 2015.
    """

    def __init__(
        self, in_columns: int, out_features: int, width: int = 64, depth: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(in_columns, width, depth, batch_first=True, dropout=dropout if depth > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, out_features)
        for name, parameter in self.lstm.named_parameters():
            if "weight" in name:
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)
                if "bias_ih" in name:
                    nn.init.ones_(parameter.data[width : 2 * width])  # of the forget gate

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (B, K) of inputs (B, W, D)."""
        return self.head(self.dropout(self.lstm(inputs)[0][:, -1]))
