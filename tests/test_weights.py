"""Weights are taken from where the keys of the model say, and say how pictures must come."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dlwp import weights
from dlwp.errors import ConfigError
from dlwp.models.efficientnet_lite import EfficientNetLite
from dlwp.models.pretrained import Weights, load_into
from dlwp.settings import ModelKeys


@pytest.mark.parametrize(("variant", "image_size", "resize"), [(1, 240, 272), (4, 300, 332)])
def test_a_file_fills_a_variant_of_which_no_weights_come_with_dlwp(variant: int, image_size: int, resize: int) -> None:
    source, target = EfficientNetLite(variant=variant), EfficientNetLite(variant=variant)
    torch.nn.init.ones_(source.head.bias)
    save_file(source.state_dict(), "lite.safetensors")
    found = weights.chosen(EfficientNetLite, {"variant": variant}, ModelKeys(weights="lite.safetensors"))
    assert found is not None and (found.name, found.image_size, found.resize) == (
        "lite.safetensors",
        image_size,
        resize,
    )
    assert load_into(target, found.load(), found.name).new == []
    assert target.head.bias.sum().item() == 1000
    with pytest.raises(ConfigError, match=rf"^weights of efficientnet_lite variant {variant} do not come with dlwp"):
        weights.chosen(EfficientNetLite, {"variant": variant}, ModelKeys(pretrained=True))


def test_a_network_trained_on_whole_pictures_wants_them_stretched_unless_a_part_is_asked_for() -> None:
    squashed = Weights("NET", dict, image_size=64, resize=None, interpolation="bicubic")
    cropped = Weights("NET", dict, image_size=64, resize=80, interpolation="bicubic")
    assert [weights.answers(one, {})["fit"][0] for one in (squashed, cropped, None)] == ["stretch", "crop", "crop"]
    assert weights.answers(squashed, {"resize": 100})["fit"][0] == "crop"


def test_a_run_of_which_no_checkpoint_is_there_is_told() -> None:
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/config.yaml").touch()
    found = weights.chosen(EfficientNetLite, {}, ModelKeys(weights="run"))
    assert found is not None
    with pytest.raises(ConfigError, match=r"run.*no checkpoint yet"):
        found.load()
