"""Models of series look back only, over the whole window, and say in one line what cannot be."""

from __future__ import annotations

import pytest
import torch

from dlwp.errors import ConfigError
from dlwp.models.lstm import LSTM
from dlwp.models.tcn import TCN


@pytest.mark.parametrize("window", [1, 5, 48, 168])
def test_the_last_row_of_a_tcn_sees_the_whole_window(window: int) -> None:
    torch.manual_seed(0)
    model = TCN(in_columns=2, out_features=3, window=window, width=4, dropout=0.0)
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, 0.0, 0.5)  # no rectifier is shut
    inputs = torch.rand(1, window, 2, requires_grad=True)
    model(inputs).sum().backward()
    assert inputs.grad is not None and (inputs.grad[0].abs().sum(1) > 0).all()


def test_a_row_of_a_tcn_sees_no_later_one() -> None:
    torch.manual_seed(0)
    model = TCN(in_columns=2, out_features=3, window=12, width=4).eval()
    inputs = torch.randn(1, 12, 2)
    changed = inputs.clone()
    changed[0, 7:] += 1
    before, after = (model.blocks(one.transpose(1, 2))[0] for one in (inputs, changed))
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7], after[:, 7])


@pytest.mark.parametrize("model", [TCN(3, 5, 12, width=4), LSTM(3, 5, width=4, depth=2)], ids=["tcn", "lstm"])
def test_every_parameter_gets_a_gradient(model: torch.nn.Module) -> None:
    torch.nn.init.normal_(model.head.weight)  # type: ignore[union-attr, arg-type]
    outputs = model(torch.randn(2, 12, 3))
    assert outputs.shape == (2, 5)
    outputs.square().sum().backward()
    assert [name for name, one in model.named_parameters() if one.grad is None] == []


def test_the_forget_gate_of_an_lstm_begins_open() -> None:
    bias = LSTM(3, 5, width=4).lstm.bias_ih_l0
    assert bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8


def test_a_kernel_of_one_row_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"model.kernel_size=1 sees one row only. model.kernel_size=3"):
        TCN(3, 5, 12, kernel_size=1)
