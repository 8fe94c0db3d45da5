#!/usr/bin/env python
"""The bare loop that one would write by hand for `dlwp-train model=resnet data=cifar10`: the other side of each ratio.

    python scripts/plain_loop.py --epochs 5 --seed 0 --root DIR

Pictures in memory, crop and flip by one index_select a batch, channels_last, a fused optimizer, nothing else: no
trainer, no observers, no checkpoints. It shares with dlwp the pictures and their split, the network, and the rule by
which random numbers follow from (seed, purpose, counters), so that both must end with the same bits: the proof that the
trainer adds nothing to the result. Precision and the number of threads are as the machine has them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlwp import devices, randomness
from dlwp.data import images
from dlwp.data.datasets import ArrayDataset
from dlwp.data.splits import cut_validation
from dlwp.models.resnet import ResNet

BATCH_SIZE, PEAK_RATE, PADDING = 128, 0.4, 4
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PEAK_AT, FIRST_FACTOR = 0.2, 1 / 25


def rate_factor(step: int, total_steps: int) -> float:
    """Climb from 1/25 to 1 over the first fifth, then fall to 0, both straight."""
    peak = PEAK_AT * total_steps
    if step < peak:
        return FIRST_FACTOR + (1 - FIRST_FACTOR) * (step / peak)
    return 1 - (step - peak) / (total_steps - peak)


def crop_and_flip(pictures: Tensor, step: int, seed: int) -> Tensor:
    """Return (B, H, W, C) pictures, padded by 4, cut at a random place and mirrored with probability 1/2."""
    generator = randomness.generator(seed, "augment", step)
    batch, height, width, channels = pictures.shape
    rows, columns = torch.randint(2 * PADDING + 1, (2, batch), generator=generator)
    flipped = torch.rand(batch, generator=generator) < 0.5
    padded = functional.pad(pictures, (0, 0, PADDING, PADDING, PADDING, PADDING))
    high, wide = height + 2 * PADDING, width + 2 * PADDING
    along = torch.arange(width)
    column = columns[:, None] + torch.where(flipped[:, None], along.flip(0), along)  # (B, W)
    row = torch.arange(batch)[:, None] * high + rows[:, None] + torch.arange(height)  # (B, H)
    index = (row[:, :, None] * wide + column[:, None, :]).flatten()
    return padded.view(-1, channels).index_select(0, index).view(batch, height, width, channels)


def train(
    train_set: ArrayDataset, epochs: int, seed: int, max_steps: int | None = None,
    say: Callable[[str], None] = print, on_step: Callable[[int], None] | None = None,
) -> ResNet:  # fmt: skip
    """Train a ResNet-20 and return it; `on_step` is told of each step."""
    pictures = train_set.inputs.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C), uint8
    scale = 1 / 255 / torch.tensor(STD, dtype=torch.float64)
    offset = -torch.tensor(MEAN, dtype=torch.float64) / torch.tensor(STD, dtype=torch.float64)
    scale, offset = scale.float(), offset.float()
    randomness.seed_everything(seed)
    model = ResNet(in_channels=3, num_classes=10, depth=20).to(memory_format=torch.channels_last)
    cpu = torch.device("cpu")
    precision, _ = devices.choose_precision("auto", cpu, devices.Traits.of(model), "classification")
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}],
        lr=PEAK_RATE, momentum=0.9, nesterov=True, fused=True,
    )  # fmt: skip
    steps_per_epoch = -(-len(pictures) // BATCH_SIZE)
    total_steps, step = min(epochs * steps_per_epoch, max_steps or 10**9), 0
    started = time.perf_counter()
    for epoch in range(epochs):
        order = randomness.permutation(len(pictures), seed, "order", epoch)
        for chosen in order.split(BATCH_SIZE):
            batch = crop_and_flip(pictures.index_select(0, chosen), step, seed)
            inputs = batch.float().mul_(scale).add_(offset).permute(0, 3, 1, 2)  # (B, C, H, W), channels_last
            for group in optimizer.param_groups:
                group["lr"] = PEAK_RATE * rate_factor(step, total_steps)
            with devices.autocast(cpu, precision):
                loss = functional.cross_entropy(model(inputs), train_set.targets[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            if on_step is not None:
                on_step(step)
            if step == total_steps:
                break
        rate = step * BATCH_SIZE / (time.perf_counter() - started)
        say(f"epoch {epoch + 1}/{epochs}  step {step:,}  loss {loss.item():.3f}  {rate:.0f} pictures/s")
        if step == total_steps:
            break
    return model


@torch.no_grad()
def accuracy(model: nn.Module, test_set: ArrayDataset) -> float:
    """Return the share of test pictures that are classified right."""
    model.eval()
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    right = 0
    for start in range(0, len(test_set), 1000):
        inputs = (test_set.inputs[start : start + 1000] / 255 - mean) / std
        outputs = model(inputs.contiguous(memory_format=torch.channels_last))
        right += int((outputs.argmax(1) == test_set.targets[start : start + 1000]).sum())
    return right / len(test_set)


def main() -> None:
    """Train on the 45,000 pictures that dlwp trains on, and print the test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", default="data", help="folder that holds cifar10")
    parser.add_argument("--max-steps", type=int)
    options = parser.parse_args()
    data = cut_validation(images.cifar10(options.root), 0.1, options.seed)
    assert isinstance(data.train, ArrayDataset) and isinstance(data.test, ArrayDataset)
    model = train(data.train, options.epochs, options.seed, options.max_steps)
    print(f"test accuracy {accuracy(model, data.test):.2%}")


if __name__ == "__main__":
    main()
