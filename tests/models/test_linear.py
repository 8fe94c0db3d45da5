"""The linear model promises x W^T + b, and a start that favours nothing."""

import math

import torch
from torch.nn import functional

from dlwp.models.linear import Linear


def test_outputs_are_the_matrix_product_of_flattened_inputs() -> None:
    model = Linear(in_features=12, out_features=3)
    torch.nn.init.normal_(model.head.weight)
    inputs = torch.randn(5, 3, 2, 2)
    torch.testing.assert_close(model(inputs), inputs.flatten(1) @ model.head.weight.T, rtol=1e-5, atol=1e-6)


def test_first_loss_is_the_logarithm_of_the_number_of_classes() -> None:
    loss = functional.cross_entropy(Linear(8, 10)(torch.randn(4, 8)), torch.tensor([0, 3, 9, 1]))
    assert math.isclose(float(loss.detach()), math.log(10), rel_tol=1e-6)


def test_bias_can_be_left_out() -> None:
    assert len(list(Linear(8, 2, bias=False).parameters())) == 1
