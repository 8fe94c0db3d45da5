"""timm, after its train.py: its loader, optimizer, schedule and meters.

Its usual crop is a random part, resized; crop after padding takes its place, as DeiT does for small pictures.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import torch
from timm.data import create_loader
from timm.data.transforms import MaybePILToTensor
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmark.peers import work

LOG_INTERVAL = 50


def pictures(watch: work.Watch, workers: int) -> None:
    """Train on pictures."""
    data = work.Pictures()
    loader = create_loader(
        data, (3, 32, 32), work.BATCH_SIZE, is_training=True, mean=work.MEAN, std=work.STD, num_workers=workers,
        device=torch.device("cpu"),
    )  # fmt: skip
    data.transform = transforms.Compose([
        transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), MaybePILToTensor(),
    ])  # fmt: skip
    train(work.network(), loader, watch)


def vectors(watch: work.Watch, workers: int) -> None:
    """Train on vectors, which its loader is not for."""
    train(work.perceptron(), DataLoader(work.vectors(), work.BATCH_SIZE, shuffle=True, num_workers=workers), watch)


def train(model: nn.Module, loader: Iterable[Any], watch: work.Watch) -> None:
    """Train as train.py does."""
    updates_per_epoch = len(loader)  # type: ignore[arg-type]
    optimizer = create_optimizer_v2(model, "sgd", lr=work.RATE, weight_decay=work.DECAY, momentum=0.9)
    scheduler, num_epochs = create_scheduler_v2(
        optimizer, "cosine", num_epochs=work.EPOCHS, step_on_epochs=False, updates_per_epoch=updates_per_epoch
    )
    criterion, num_updates = nn.CrossEntropyLoss(), 0
    for epoch in range(num_epochs):
        update_time_m, data_time_m, losses_m = AverageMeter(), AverageMeter(), AverageMeter()
        model.train()
        data_start_time = update_start_time = time.time()
        optimizer.zero_grad()
        for update_idx, (inputs, target) in enumerate(loader):
            data_time_m.update(time.time() - data_start_time)
            loss = criterion(model(inputs), target)
            loss.backward()
            optimizer.step()
            losses_m.update(loss.item(), inputs.size(0))
            num_updates += 1
            optimizer.zero_grad()
            now = time.time()
            update_time_m.update(now - update_start_time)
            update_start_time = now
            if update_idx % LOG_INTERVAL == 0:
                lr = sum(group["lr"] for group in optimizer.param_groups) / len(optimizer.param_groups)
                logging.getLogger("train").info(
                    f"Train: {epoch} [{update_idx:>4d}/{updates_per_epoch}] Loss: {losses_m.val:#.3g} "
                    f"({losses_m.avg:#.3g}) Time: {update_time_m.val:.3f}s LR: {lr:.3e} Data: {data_time_m.val:.3f}"
                )
            scheduler.step_update(num_updates=num_updates, metric=losses_m.avg)
            data_start_time = time.time()
            if watch.step():
                return


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    work.main(pictures, vectors)
