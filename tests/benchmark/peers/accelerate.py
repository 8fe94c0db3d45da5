"""Accelerate, after its example of computer vision (huggingface/accelerate, examples/cv_example.py)."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmark.peers import work


def pictures(watch: work.Watch, workers: int) -> None:
    """Train on pictures."""
    transform = transforms.Compose([
        transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
    ])  # fmt: skip
    train(work.network(), work.Pictures(transform), watch, workers, work.MEAN, work.STD)


def vectors(watch: work.Watch, workers: int) -> None:
    """Train on vectors."""
    train(work.perceptron(), work.vectors(), watch, workers)


def train(
    model: nn.Module, data: Dataset[Any], watch: work.Watch, workers: int,
    mean: tuple[float, ...] = (), std: tuple[float, ...] = (),
) -> None:  # fmt: skip
    """Train as the example does, which normalises whole batches on the device."""
    accelerator = Accelerator()
    loader = DataLoader(data, work.BATCH_SIZE, shuffle=True, num_workers=workers)
    optimizer = torch.optim.SGD(model.parameters(), work.RATE, momentum=0.9, weight_decay=work.DECAY, nesterov=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, work.RATE, epochs=work.EPOCHS, steps_per_epoch=len(loader)
    )
    model = model.to(accelerator.device)
    centre, scale = (torch.tensor(one)[None, :, None, None].to(accelerator.device) for one in (mean, std))
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    for _ in range(work.EPOCHS):
        model.train()
        total_loss = 0.0
        for inputs, labels in loader:
            if mean:
                inputs = (inputs - centre) / scale
            loss = nn.functional.cross_entropy(model(inputs), labels)
            total_loss += loss.detach().float()
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if watch.step():
                return


if __name__ == "__main__":
    work.main(pictures, vectors)
