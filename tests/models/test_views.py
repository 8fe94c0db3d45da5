"""Test-time augmentation promises the average over the views that it names, and to leave its model as it is."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from dlwp.errors import ConfigError
from dlwp.models.autoencoder import Autoencoder
from dlwp.models.views import with_views


class Pixels(nn.Module):
    """Return a nonlinear function of the pixels, so that no view can stand for another."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.flatten(1).exp()


def test_without_views_it_is_the_model_itself() -> None:
    model = Pixels()
    assert with_views(model, None) is model


def test_the_outputs_are_the_average_over_the_views() -> None:
    pictures, model = torch.randn(3, 2, 5, 4), Pixels()
    mirrored = (model(pictures) + model(pictures.flip(-1))) / 2
    torch.testing.assert_close(with_views(model, "mirror")(pictures), mirrored)
    padded = functional.pad(pictures, (1, 1, 1, 1), mode="reflect")
    views = [padded[..., :5, :4], padded[..., 2:, 2:]]
    moved = sum((model(view) + model(view.flip(-1))) / 4 for view in views)
    torch.testing.assert_close(with_views(model, "mirror_translate")(pictures), mirrored / 2 + moved / 2)


def test_what_is_said_of_each_pixel_is_mirrored_back() -> None:
    model, pictures = nn.Conv2d(2, 3, 3, padding=1), torch.randn(2, 2, 5, 4)
    mirrored = with_views(model, "mirror")
    torch.testing.assert_close(mirrored(pictures.flip(-1)), mirrored(pictures).flip(-1))
    torch.testing.assert_close(mirrored(pictures), (model(pictures) + model(pictures.flip(-1)).flip(-1)) / 2)
    with pytest.raises(ConfigError, match=r"trainer.tta=mirror$"):
        with_views(model, "mirror_translate")(pictures)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_that_of_the_model(training: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Dropout(0.5)).train(training)
    averaged = with_views(model, "mirror")
    assert averaged.training is training
    averaged.eval()
    averaged.train(training)
    assert all(module.training is training for module in model.modules())


def test_what_has_no_views_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer.tta=mirror needs pictures \(C, H, W\), not \(8,\)"):
        with_views(nn.Linear(8, 2), "mirror")(torch.zeros(3, 8))
    with pytest.raises(ConfigError, match="Autoencoder has a step of its own"):
        with_views(Autoencoder(8, 1), "mirror")
