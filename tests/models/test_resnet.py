"""The residual networks promise the networks of the paper: depths, parameter counts, identity at the start."""

import pytest
import torch

from dlwp.errors import ConfigError
from dlwp.models.resnet import BasicBlock, ResNet


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)  # table 6 of the paper
def test_small_networks_have_the_parameters_of_the_paper(depth: int, millions: float) -> None:
    count = sum(parameter.numel() for parameter in ResNet(3, 10, depth).parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.05 if depth == 110 else 0.006)


@pytest.mark.parametrize(("depth", "count"), [(18, 11_173_962), (34, 21_282_122), (50, 23_520_842)])
def test_wide_networks_have_the_parameters_known_of_them(depth: int, count: int) -> None:
    assert sum(parameter.numel() for parameter in ResNet(3, 10, depth).parameters()) == count


@pytest.mark.parametrize("depth", [20, 18, 50])
def test_number_of_layers_with_weights_is_the_depth(depth: int) -> None:
    model = ResNet(3, 10, depth)
    layers = [name for name, value in model.named_parameters() if value.ndim > 1 and "shortcut" not in name]
    assert len(layers) == depth


@pytest.mark.parametrize("size", [8, 28, 33])
def test_takes_pictures_of_any_size(size: int) -> None:
    assert ResNet(1, 4)(torch.randn(2, 1, size, size)).shape == (2, 4)
    assert ResNet(1, 4, depth=18)(torch.randn(2, 1, size, size)).shape == (2, 4)


def test_zeroed_branches_make_a_block_the_identity() -> None:
    model = ResNet(3, 10, zero_init_residual=True)
    block = model.stages[0][0]  # type: ignore[index]
    assert isinstance(block, BasicBlock)
    features = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(features), features)


def test_unknown_depth_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no depth 21. There are: 18, 20, 32, 34, 44, 50, 56, 110"):
        ResNet(depth=21)
