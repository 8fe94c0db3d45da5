"""Own data made by a formula, of any shape and size, that can be learned: for speed tests and first trials.

Knows nothing of what learns from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dlwp import randomness
from dlwp.data.datasets import ArrayDataset, Facts, Splits
from dlwp.errors import ConfigError


def synthetic(
    shape: Sequence[int] = (3, 32, 32),
    num_train: int = 50_000,
    num_val: int = 0,
    num_test: int = 10_000,
    num_classes: int = 10,
    seed: int = 0,
) -> Splits:
    """Make noise with a mean of its own for each class, or a linear function of noise with noise on it.

    Args:
        shape: of one input. Three numbers are a picture (C, H, W), held as uint8; any other shape as float32.
        num_train, num_val, num_test: samples of each split; 0 leaves val or test out.
        num_classes: number of classes K; 0 makes a regression of one number.
        seed: of the run.

    Returns:
        The splits, with task and classes known.

    >>> data = synthetic([4], num_train=8, num_test=0, num_classes=2)
    >>> data.train.inputs.shape, data.train.targets.dtype
    (torch.Size([8, 4]), torch.int64)
    """
    shape = tuple(shape)
    if not shape or min(shape) < 1 or num_train < 1 or min(num_val, num_test, num_classes) < 0:
        raise ConfigError("data=synthetic needs data.shape of numbers >= 1, data.num_train >= 1 and no number below 0")
    pattern = torch.randn(max(1, num_classes), math.prod(shape), generator=randomness.generator(seed, "synthetic", 0))
    parts = {}
    for number, (name, count) in enumerate((("train", num_train), ("val", num_val), ("test", num_test))):
        generator = randomness.generator(seed, "synthetic", 1, number)
        make = _classes if num_classes else _regression
        parts[name] = make(count, shape, pattern, generator) if count else None
    facts = Facts(task="classification", num_classes=num_classes) if num_classes else Facts(task="regression")
    assert parts["train"] is not None
    return Splits(parts["train"], parts["val"], parts["test"], facts)


def _classes(count: int, shape: tuple[int, ...], pattern: Tensor, generator: torch.Generator) -> ArrayDataset:
    targets = torch.randint(len(pattern), (count,), generator=generator)
    if len(shape) == 3:  # noise of 0 to 191 and a pattern of 0 to 63
        inputs = torch.empty(count, pattern.shape[1], dtype=torch.uint8).random_(0, 192, generator=generator)
        inputs += (32 + 16 * pattern).clamp(0, 63).to(torch.uint8).index_select(0, targets)
    else:
        inputs = torch.randn(count, pattern.shape[1], generator=generator)
        inputs += pattern.index_select(0, targets)
    return ArrayDataset(inputs.view(count, *shape), targets)


def _regression(count: int, shape: tuple[int, ...], pattern: Tensor, generator: torch.Generator) -> ArrayDataset:
    inputs = torch.randn(count, pattern.shape[1], generator=generator)
    targets = inputs @ pattern[0] / math.sqrt(pattern.shape[1])
    targets += 0.1 * torch.randn(count, generator=generator)
    return ArrayDataset(inputs.view(count, *shape), targets.unsqueeze(1))
