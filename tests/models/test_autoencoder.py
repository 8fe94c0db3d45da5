"""The autoencoder promises to rebuild its inputs, and a step of its own that leaves targets aside."""

import pytest
import torch
from torch import nn

from dlwp.errors import ConfigError
from dlwp.models.autoencoder import Autoencoder


@pytest.mark.parametrize(("size", "channels"), [(8, [4, 8]), ((28, 20), [4, 8]), (64, [4, 4, 8]), (10, [4])])
def test_outputs_have_the_shape_of_the_inputs(size: int | tuple[int, int], channels: list[int]) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    model = Autoencoder(size, 3, channels, code_size=6)
    pictures = torch.randn(2, 3, height, width)
    assert model.encoder(pictures).shape == (2, 6)
    assert model(pictures).shape == pictures.shape


def test_step_compares_with_the_inputs_and_leaves_targets_aside() -> None:
    model, pictures = Autoencoder(8, 1, [4], code_size=4).eval(), torch.randn(3, 1, 8, 8)
    loss, outputs = model.training_step((pictures, torch.tensor([0, 1, 2])), nn.MSELoss())
    alone, _ = model.training_step(pictures, nn.MSELoss())
    assert torch.equal(loss, (outputs - pictures).square().mean())
    assert torch.equal(loss, alone)


def test_learns_to_rebuild_pictures_that_few_numbers_describe() -> None:
    torch.manual_seed(0)
    pictures = (torch.randn(64, 2) @ torch.randn(2, 64)).view(64, 1, 8, 8)
    pictures /= pictures.std()
    model = Autoencoder(8, 1, [16], code_size=8)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(80):
        loss, _ = model.training_step(pictures, nn.MSELoss())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3  # the best constant leaves 1


def test_sizes_that_cannot_be_halved_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="halves pictures 3 times, but 28x28 is not a multiple of 8"):
        Autoencoder(28, 1, [4, 8, 16])
