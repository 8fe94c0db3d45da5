"""fastai, after its tutorials (docs.fast.ai, "Computer vision" and "Data block"): a DataBlock, a Learner, one cycle."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from fastai.vision.all import (
    Callback,
    CancelFitException,
    CategoryBlock,
    CropPad,
    CrossEntropyLossFlat,
    DataBlock,
    DataLoaders,
    FlipItem,
    ImageBlock,
    Learner,
    Normalize,
    OptimWrapper,
    RandomCrop,
    RandomSplitter,
    accuracy,
)  # fmt: skip
from torch import nn
from torch.utils.data import DataLoader

from benchmark.peers import work


class Timing(Callback):
    """Tells the watch of each step, and ends the training after the last."""

    def __init__(self, watch: work.Watch) -> None:
        self.watch = watch

    def after_batch(self) -> None:
        """Hear of a step."""
        if self.watch.step():
            raise CancelFitException


def pictures(watch: work.Watch, workers: int) -> None:
    """Train on pictures."""
    data, targets = work.arrays()
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(range(10)))), get_x=lambda index: data[index],
        get_y=lambda index: targets[index], splitter=RandomSplitter(0.1, seed=0),
        item_tfms=[CropPad(40), RandomCrop(32), FlipItem()],
        batch_tfms=Normalize.from_stats(work.MEAN, work.STD),
    )  # fmt: skip
    train(block.dataloaders(range(len(data)), bs=work.BATCH_SIZE, num_workers=workers), work.network(), watch)


def vectors(watch: work.Watch, workers: int) -> None:
    """Train on vectors."""
    loader = DataLoader(work.vectors(), work.BATCH_SIZE, shuffle=True, num_workers=workers)
    train(DataLoaders(loader, loader), work.perceptron(), watch)


def train(data: Any, model: nn.Module, watch: work.Watch) -> None:
    """Train as the tutorials do."""
    sgd = partial(OptimWrapper, opt=torch.optim.SGD, momentum=0.9, nesterov=True)
    learner = Learner(
        data, model, loss_func=CrossEntropyLossFlat(), opt_func=sgd, metrics=accuracy, wd=work.DECAY,
        cbs=Timing(watch),
    )  # fmt: skip
    learner.fit_one_cycle(work.EPOCHS, work.RATE)


if __name__ == "__main__":
    work.main(pictures, vectors)
