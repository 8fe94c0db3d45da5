"""Own the multilayer perceptron, for tables and pictures alike.

Knows nothing of data or training.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dlwp.errors import ConfigError, did_you_mean
from dlwp.models.columns import Columns

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class MLP(nn.Module):
    """Multilayer perceptron: hidden layers of linear map, norm, activation and dropout, then a linear map.

    Args:
        in_features: numbers D in one input, all axes but the batch multiplied.
        out_features: number of outputs K.
        hidden: width of each hidden layer; an empty list is a linear model.
        activation: "relu", "gelu", "silu" or "tanh".
        norm: "batch", "layer" or None.
        dropout: probability in [0, 1) of dropping a hidden feature.
        cardinalities: of the last C of the numbers, that are indices of categories: how many each has. They are
            embedded, see `Columns`; with none the numbers enter as they are.

    Shape:
        input (B, ...), D numbers each -> output (B, K).

    Raises:
        ConfigError: there is no such activation or norm.

    Example:
        >>> import torch
        >>> MLP(in_features=64, out_features=10, hidden=[32])(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])

    Source:
        Weights as in He et al. 2015, arXiv 1502.01852, equation 10; with tanh and in the last layer as in
        Glorot, Bengio 2010, equation 16.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        norm: str | None = None,
        dropout: float = 0.0,
        cardinalities: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ConfigError(_no_such("activation", activation, _ACTIVATIONS))
        if norm is not None and norm not in _NORMS:
            raise ConfigError(_no_such("norm", norm, _NORMS) + ", null")
        self.columns = Columns(in_features, cardinalities) if cardinalities else None
        in_features = self.columns.out_features if self.columns is not None else in_features
        layers: list[nn.Module] = []
        for before, after in zip((in_features, *hidden), hidden):
            linear = nn.Linear(before, after, bias=norm != "batch")  # batch norm's own bias stands for it
            if activation == "tanh":
                nn.init.xavier_uniform_(linear.weight)
            else:
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
            norms = [] if norm is None else [_NORMS[norm](after)]
            drops = [nn.Dropout(dropout)] if dropout else []
            layers += [linear, *norms, _ACTIVATIONS[activation](), *drops]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear((in_features, *hidden)[-1], out_features)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (B, K) of inputs (B, ...)."""
        inputs = inputs.flatten(1)
        return self.head(self.layers(inputs if self.columns is None else self.columns(inputs)))


def _no_such(what: str, name: str, known: dict[str, type[nn.Module]]) -> str:
    return f"mlp has no {what} {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}"
