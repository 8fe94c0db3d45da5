"""What does not fit is told before training, with both shapes and the key to change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dlwp.build import Parts
from dlwp.data.datasets import ArrayDataset, Facts, Splits
from dlwp.data.resident import ResidentLoader
from dlwp.errors import ConfigError, DataError
from dlwp.rehearsal import _backward_flops, rehearse
from dlwp.settings import TrainerSettings

PICTURES = torch.zeros(12, 1, 8, 8)
LABELS = torch.arange(12) % 3


def parts(
    model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, criterion: Any = None, batch_size: int = 4
) -> Parts:
    task = "regression" if targets.is_floating_point() else "classification"
    facts = Facts(task=task, num_classes=None if task == "regression" else int(targets.max()) + 1)
    data = Splits(ArrayDataset(inputs, targets.clone()), facts=facts)
    found = Parts(
        data, model, criterion or nn.CrossEntropyLoss(), {}, torch.device("cpu"), TrainerSettings(precision="fp32"), 0
    )
    found.loaders = {"train": ResidentLoader(data.train, batch_size)}
    return found


def flat(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *layers)


@pytest.mark.parametrize(
    ("found", "kind", "message"),
    [
        (
            lambda: parts(nn.Sequential(nn.Conv2d(3, 8, 3)), PICTURES, LABELS),
            ConfigError,
            r"data gives \[4, 1, 8, 8\], the model's layer '0' wants \[\*, 3, \*, \*\] .* model\.in_channels=1",
        ),
        (
            lambda: parts(flat(nn.Linear(784, 3)), PICTURES, LABELS),
            ConfigError,
            r"layer '1' wants 784 numbers a sample and gets 64\. model\.in_features=64",
        ),
        (
            lambda: parts(nn.Sequential(nn.Conv2d(1, 2, 11)), PICTURES, LABELS),
            ConfigError,
            r"pictures of \[8, 8\] are too small for '0' \(kernel \(11, 11\)\)",
        ),
        (
            lambda: parts(flat(nn.Linear(64, 2)), PICTURES, LABELS),
            ConfigError,
            r"data has 3 classes, model has 2 outputs\. model\.num_classes=3",
        ),
        (
            lambda: parts(flat(nn.Linear(64, 1)), PICTURES, torch.rand(12), nn.MSELoss()),
            ConfigError,
            r"prediction is \[4, 1\], target \[4\]: this would compare all with all",
        ),
        (
            lambda: parts(flat(nn.Linear(64, 3)), PICTURES, torch.rand(12)),
            ConfigError,
            r"labels are \[4\], float32, CrossEntropyLoss wants whole numbers; for numbers use criterion=mse",
        ),
        (
            lambda: parts(flat(nn.Linear(64, 3)), PICTURES, LABELS, nn.BCEWithLogitsLoss()),
            ConfigError,
            r"BCEWithLogitsLoss does not fit: targets are \[4\], int64",
        ),
        (
            lambda: parts(flat(nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), PICTURES, LABELS, batch_size=11),
            ConfigError,
            r"the last batch has 1 sample \(12 of 11\) and the model uses batch norm\. data\.drop_last=true",
        ),
        (
            lambda: parts(flat(nn.Linear(64, 3)).requires_grad_(False), PICTURES, LABELS),
            ConfigError,
            r"the loss depends on no trainable parameter",
        ),
    ],
)
def test_misfit_is_one_line_with_both_sides_and_the_key(found: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        rehearse(found())
    assert "\n" not in str(caught.value)


def test_label_outside_of_the_outputs_is_told() -> None:
    found = parts(flat(nn.Linear(64, 3)), PICTURES, LABELS)
    found.data.facts.num_classes = None
    found.data.train.targets[0] = 7
    with pytest.raises(DataError, match=r"a label lies outside of the model's outputs"):
        rehearse(found)


def test_rehearsal_counts_operations_and_changes_nothing() -> None:
    model = flat(nn.BatchNorm1d(64), nn.Linear(64, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rehearsal = rehearse(parts(model, torch.rand(12, 1, 8, 8), LABELS))
    # forward, and the gradient by the weights and by the inputs: 3 products of 2 · 64 · 3 operations
    assert rehearsal.flops_per_sample == 3 * 2 * 64 * 3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())


@pytest.mark.parametrize(
    ("layer", "forward"),
    [
        (nn.Conv2d(4, 8, 3, padding=1, bias=False), 2 * 36 * 8 * 4 * 9),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False), 2 * 36 * 8 * 1 * 9),
        (nn.ConvTranspose2d(4, 8, 3, padding=1, bias=False), 2 * 36 * 4 * 8 * 9),
    ],
    ids=["whole", "in groups", "transposed"],
)
def test_the_gradient_of_a_convolution_counts_twice_its_forward_pass(layer: nn.Module, forward: int) -> None:
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward_flops})
    with counter:
        layer(torch.randn(1, 4, 6, 6, requires_grad=True)).sum().backward()
    assert counter.get_total_flops() == 3 * forward
