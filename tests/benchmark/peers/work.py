"""The work that all peers do: which pictures and vectors, which networks, and the watch that takes their time."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from numpy import ndarray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from benchmark import step
from benchmark.rounds import steady
from dlwp.data import images
from dlwp.data.splits import cut_validation
from dlwp.models.resnet import ResNet

BATCH_SIZE, EPOCHS, RATE, DECAY = 128, 15, 0.4, 5e-4
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PICTURES_A_WINDOW, VECTORS_A_WINDOW = 10, 50


def network() -> nn.Module:
    """Return the network for pictures."""
    return ResNet(in_channels=3, num_classes=10, depth=20)


def perceptron() -> nn.Module:
    """Return the network for vectors."""
    return nn.Sequential(nn.Linear(step.FEATURES, step.HIDDEN), nn.ReLU(), nn.Linear(step.HIDDEN, step.CLASSES))


def arrays() -> tuple[ndarray, list[int]]:
    """Return the pictures that dlwp trains on, uint8 (N, H, W, C), and their classes."""
    data: Any = cut_validation(images.cifar10(os.environ.get("DLWP_DATA_ROOT", "data")), 0.1, 0).train
    return data.inputs.permute(0, 2, 3, 1).contiguous().numpy(), data.targets.tolist()


class Pictures(Dataset[tuple[Any, int]]):
    """The pictures one by one, from an array in memory, as `torchvision.datasets.CIFAR10` gives them.

    Args:
        transform: of a PIL image.
    """

    def __init__(self, transform: Callable[[Any], Any] | None = None) -> None:
        self.data, self.targets = arrays()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture: Any = Image.fromarray(self.data[index])
        return self.transform(picture) if self.transform else picture, self.targets[index]


def vectors() -> TensorDataset:
    """Return the vectors of `step`."""
    inputs: Tensor = torch.randn(step.SAMPLES, step.FEATURES)
    return TensorDataset(inputs, torch.randint(step.CLASSES, (step.SAMPLES,)))


class Watch:
    """Notes the time of each so many steps.

    Args:
        steps: after which it is enough. window: steps.
    """

    def __init__(self, steps: int, window: int) -> None:
        self.steps, self._window = steps, window
        self._taken, self._times = 0, [time.perf_counter()]

    def step(self) -> bool:
        """Note that a step was taken; return whether it was the last."""
        self._taken += 1
        if self._taken % self._window == 0:
            self._times.append(time.perf_counter())
        return self._taken == self.steps

    def found(self) -> dict[str, float]:
        """Return pictures a second and µs a step, over all windows but the first, which warms up."""
        if self._taken != self.steps:
            raise RuntimeError(f"{self._taken} steps were taken, not {self.steps}")
        windows = [later - sooner for sooner, later in itertools.pairwise(self._times)]
        rates = [self._window * BATCH_SIZE / one for one in windows]
        return {"per_s": steady(rates), "step_us": 1e6 * statistics.median(windows[1:]) / self._window}


def main(pictures: Callable[[Watch, int], None], vectors: Callable[[Watch, int], None]) -> None:
    """Do what the command line asks for, (pictures | vectors) STEPS WORKERS, and print what the watch found."""
    kind, steps, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    watch = Watch(steps, PICTURES_A_WINDOW if kind == "pictures" else VECTORS_A_WINDOW)
    {"pictures": pictures, "vectors": vectors}[kind](watch, workers)
    print("\n" + json.dumps(watch.found()))
