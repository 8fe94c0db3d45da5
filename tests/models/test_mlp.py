"""The perceptron promises the layers that its keys name, and features that keep their size at the start."""

import pytest
import torch
from torch import nn

from dlwp.errors import ConfigError
from dlwp.models.mlp import MLP


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
@pytest.mark.parametrize("norm", [None, "batch", "layer"])
def test_every_choice_gives_outputs_and_gradients_to_every_parameter(activation: str, norm: str | None) -> None:
    model = MLP(12, 3, hidden=[16, 8], activation=activation, norm=norm, dropout=0.1)
    outputs = model(torch.randn(5, 3, 2, 2))
    outputs.square().sum().backward()
    assert outputs.shape == (5, 3)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_layers_are_those_that_were_asked_for() -> None:
    kinds = [type(layer) for layer in MLP(4, 2, hidden=[8], activation="tanh", norm="layer", dropout=0.5).layers]
    assert kinds == [nn.Linear, nn.LayerNorm, nn.Tanh, nn.Dropout]
    assert len(MLP(4, 2, hidden=[]).layers) == 0


def test_size_of_features_survives_twenty_layers() -> None:
    torch.manual_seed(0)
    model = MLP(256, 10, hidden=[256] * 20)
    first = model.layers[:2](torch.randn(64, 256)).square().mean()
    last = model.layers(torch.randn(64, 256)).square().mean()
    assert 0.3 < float((last / first).detach()) < 3  # with torch's own initialisation this is below 1e-9


def test_unknown_choices_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"no activation 'rel'. Did you mean 'relu'\?"):
        MLP(4, 2, activation="rel")
    with pytest.raises(ConfigError, match=r"no norm 'bach'. Did you mean 'batch'"):
        MLP(4, 2, norm="bach")
