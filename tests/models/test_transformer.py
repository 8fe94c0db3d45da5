"""The causal transformer looks back only, takes positions as relative, and goes on with tokens as asked."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from dlwp.errors import ConfigError
from dlwp.models.transformer import CausalAttention, Transformer, continued, turned


def small(**keys: int) -> Transformer:
    torch.manual_seed(0)
    return Transformer(num_classes=11, max_length=16, depth=2, width=32, num_heads=4, **keys)


def test_outputs_are_as_cross_entropy_takes_them_and_every_parameter_gets_a_gradient() -> None:
    model, tokens = small(), torch.randint(11, (3, 16))
    outputs = model(tokens)
    assert outputs.shape == (3, 11, 16)
    functional.cross_entropy(outputs, tokens.roll(-1, 1)).backward()
    assert [name for name, one in model.named_parameters() if one.grad is None] == []


def test_what_comes_later_changes_nothing_before_it() -> None:
    model, tokens = small().eval(), torch.randint(11, (1, 16))
    changed = tokens.clone()
    changed[0, 9:] = (changed[0, 9:] + 1) % 11
    before, after = model(tokens)[0], model(changed)[0]
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert (before[:, 9] - after[:, 9]).abs().max() > 1e-3


def test_a_turn_keeps_lengths_and_makes_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    angles = torch.arange(9)[:, None] * torch.tensor([1.0, 0.3])
    vector = torch.randn(1, 4).expand(9, 4)
    found = turned(vector, angles.cos(), angles.sin())
    torch.testing.assert_close(found.norm(dim=1), vector.norm(dim=1))
    products = found @ found.T
    torch.testing.assert_close(products.diagonal(3), products.diagonal(3)[:1].expand(6))
    assert (products[0, 3] - products[0, 4]).abs() > 1e-3


def test_the_order_of_what_lies_back_matters() -> None:
    attention = CausalAttention(32, 4)
    torch.manual_seed(0)
    values = torch.randn(1, 3, 32)
    angles = torch.arange(3)[:, None] / 10_000 ** (torch.arange(4) / 4)
    turn = angles.cos(), angles.sin()
    one, other = attention(values, turn), attention(values[:, [1, 0, 2]], turn)
    assert (one[0, 2] - other[0, 2]).abs().max() > 1e-4


def test_it_goes_on_the_same_by_the_same_seed_and_touches_no_generator() -> None:
    model = small().eval()
    state = torch.random.get_rng_state()
    first, again, other = (list(continued(model, [1, 2], 40, max_length=16, seed=seed)) for seed in (5, 5, 6))
    assert first == again != other and len(first) == 40
    assert torch.equal(state, torch.random.get_rng_state())


def test_temperature_0_and_top_1_take_the_likeliest() -> None:
    model = small().eval()
    tokens = [3]
    for _ in range(5):
        tokens.append(int(model(torch.tensor([tokens]))[0, :, -1].argmax()))
    assert list(continued(model, [3], 5, max_length=16, temperature=0)) == tokens[1:]
    assert list(continued(model, [3], 5, max_length=16, top_k=1)) == tokens[1:]


def test_a_width_that_heads_do_not_divide_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"model.width=30 must be a multiple of 2 x num_heads. model.width=32"):
        Transformer(num_classes=3, width=30, num_heads=4)
