"""The networks for tables embed categories, see numbers, and leave what they were without categories bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlwp.errors import ConfigError
from dlwp.models.columns import Columns, embedding_width
from dlwp.models.mlp import MLP
from dlwp.models.resnet_tabular import ResNetTabular


def rows() -> torch.Tensor:
    return torch.tensor([[0.5, -1.0, 1.0, 0.0], [0.5, -1.0, 1.0, 4.0], [0.5, -1.0, 2.0, 4.0]])


def test_numbers_pass_and_each_category_has_an_embedding() -> None:
    columns = Columns(4, [3, 5])
    features = columns(rows())
    assert columns.out_features == features.shape[1] == 2 + embedding_width(3) + embedding_width(5)
    assert torch.equal(features[:, :2], rows()[:, :2])
    assert torch.equal(features[0, 2:5], features[1, 2:5]) and not torch.equal(features[1, 2:5], features[2, 2:5])
    assert torch.equal(features[0, 5:], torch.zeros(embedding_width(5)))  # unknown or missing


def test_waves_are_as_in_the_paper() -> None:
    columns = Columns(2, [], waves=3, scale=1.0)
    inputs = torch.tensor([[0.25, -2.0]])
    angles = 2 * torch.pi * inputs[0, 1] * columns.frequencies[1]
    expected = columns.mix(torch.cat([angles.sin(), angles.cos()])).relu()
    torch.testing.assert_close(columns(inputs)[0, 16:], expected)


def test_the_perceptron_without_categories_is_what_it_was() -> None:
    torch.manual_seed(0)
    model = MLP(in_features=6, out_features=2, hidden=[4])
    torch.manual_seed(0)
    first = nn.Linear(6, 4)
    nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
    head = nn.Linear(4, 2)
    nn.init.xavier_uniform_(head.weight)
    assert [name for name, _ in model.named_parameters()] == [
        f"{of}.{name}" for of in ("layers.0", "head") for name in ("weight", "bias")
    ]
    assert torch.equal(model.layers[0].weight, first.weight) and torch.equal(model.head.weight, head.weight)
    inputs = torch.randn(3, 1, 2, 3)
    assert torch.equal(model(inputs), model.head(model.layers(inputs.flatten(1))))


@pytest.mark.parametrize("make", [MLP, ResNetTabular])
def test_categories_bear_on_the_outputs_and_are_trained(make: type) -> None:
    model = make(in_features=4, out_features=2, cardinalities=[3, 5]).eval()
    outputs = model(rows())
    assert outputs.shape == (3, 2) and not torch.equal(outputs[1], outputs[2])
    outputs.sum().backward()
    gradients = [one.weight.grad for one in model.columns.embeddings]
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)


def test_more_categories_than_inputs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.cardinalities has 3 columns, an input only 2"):
        ResNetTabular(2, 1, [2, 2, 2])
