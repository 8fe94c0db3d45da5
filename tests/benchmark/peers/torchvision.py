"""The torchvision way: a data set of PIL pictures, torchvision's transforms and torch's DataLoader.

After pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmark.peers import work


def pictures(watch: work.Watch, workers: int) -> None:
    """Train on pictures."""
    transform = transforms.Compose([
        transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(),
        transforms.ToTensor(), transforms.Normalize(work.MEAN, work.STD),
    ])  # fmt: skip
    data = work.Pictures(transform)
    train(work.network(), DataLoader(data, work.BATCH_SIZE, shuffle=True, num_workers=workers), watch)


def vectors(watch: work.Watch, workers: int) -> None:
    """Train on vectors."""
    train(work.perceptron(), DataLoader(work.vectors(), work.BATCH_SIZE, shuffle=True, num_workers=workers), watch)


def train(net: nn.Module, loader: Iterable[Any], watch: work.Watch) -> None:
    """Train as the tutorial does."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), work.RATE, momentum=0.9, weight_decay=work.DECAY, nesterov=True)
    for epoch in range(work.EPOCHS):
        running_loss = 0.0
        for i, (inputs, labels) in enumerate(loader):
            optimizer.zero_grad()
            loss = criterion(net(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            if i % 50 == 49:
                print(f"[{epoch + 1}, {i + 1:5d}] loss: {running_loss / 50:.3f}")
                running_loss = 0.0
            if watch.step():
                return


if __name__ == "__main__":
    work.main(pictures, vectors)
