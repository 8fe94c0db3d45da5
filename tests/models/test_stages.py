"""A network is taken apart into head and stages; what is frozen does not change, statistics of norms included."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dlwp.errors import ConfigError
from dlwp.models.efficientnet_lite import EfficientNetLite
from dlwp.models.resnet import ResNet
from dlwp.models.stages import HeadInput, backbone_of, freeze, head_of, stages_of, to_training
from dlwp.models.torchvision import torchvision_network
from dlwp.models.vit import ViT


def test_heads_and_stages_of_known_networks() -> None:
    assert head_of(ResNet(), 10)[0] == "head"
    assert [names[0] for names in stages_of(ResNet(depth=18), "head")] == [
        "conv1", "stages.0", "stages.1", "stages.2", "stages.3"
    ]  # fmt: skip
    assert len(stages_of(EfficientNetLite(), "head")) == 9
    swin = torchvision_network("swin_t", num_classes=7)
    assert head_of(swin, 7)[0] == "head"
    assert len(stages_of(swin, "head")) == 8
    assert head_of(torchvision_network("vgg11", num_classes=3), 3)[0] == "classifier.6"


def test_every_parameter_is_in_one_stage_or_in_the_head() -> None:
    for model in (ResNet(), EfficientNetLite(num_classes=10), ViT(image_size=8, patch_size=4, num_classes=10)):
        head, _ = head_of(model, 10)
        names = [name for stage in backbone_of(model, 10) for name in stage]
        rest = [name for name, _ in model.named_parameters() if name.startswith(f"{head}.")]
        assert sorted([*names, *rest]) == sorted(name for name, _ in model.named_parameters())


def trained(model: nn.Module, steps: int = 2) -> None:
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
    for step in range(steps):
        to_training(model)
        inputs = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(("spec", "words"), [("backbone", "backbone"), (1, "1 of 4 stages"), ("3", "3 of 4 stages")])
def test_what_is_frozen_does_not_change_and_the_rest_does(spec: str | int, words: str) -> None:
    torch.manual_seed(0)
    model = ResNet()
    frozen = freeze(model, spec, 10)
    assert frozen is not None and frozen.what == words
    before = copy.deepcopy(model.state_dict())
    trained(model)
    kept = {id(one) for one in frozen.parameters}
    frozen_names = {name for name, one in model.named_parameters() if id(one) in kept}
    norms = {name.rpartition(".")[0] for name in frozen_names if ".bn" in name or name.startswith("bn")}
    for name, value in model.state_dict().items():
        is_frozen = name in frozen_names or name.rpartition(".")[0] in norms
        assert torch.equal(value, before[name]) == is_frozen, name


def test_thawed_it_changes() -> None:
    model = ResNet()
    frozen = freeze(model, "backbone", 10)
    assert frozen is not None
    to_training(model)
    assert not model.bn1.training
    assert frozen.thaw(model) == "backbone"
    assert model.bn1.training
    before = copy.deepcopy(model.state_dict())
    trained(model)
    assert not any(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_norms_without_parameters_and_half_frozen_ones_go_on_learning_their_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.BatchNorm1d(3))
    model[1].weight.requires_grad_(False)
    to_training(model)
    assert all(norm.training for norm in model)


@pytest.mark.parametrize("spec", ["backbonne", 5, 0, -1])
def test_what_cannot_be_frozen_is_one_line(spec: str | int) -> None:
    with pytest.raises(ConfigError, match=r"model.freeze"):
        freeze(ResNet(), spec, 10)


def test_head_input_is_what_the_head_is_given() -> None:
    model = ResNet().eval()
    taken = HeadInput(model, 10)
    outputs = model(torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(model.head(taken.last), outputs)
    assert taken.vectors().shape == (2, 64)
    taken.remove()
    before = taken.last
    model(torch.randn(3, 3, 8, 8))
    assert taken.last is before
