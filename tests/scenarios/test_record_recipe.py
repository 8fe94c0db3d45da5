"""The parts of experiment=cifar10_94 hold together: they resume bit for bit, and train as the published loop does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dlwp import checkpoint, randomness
from dlwp.api import evaluate, train_config
from dlwp.build import Builder
from dlwp.config.compose import compose
from dlwp.data.datasets import ArrayDataset
from dlwp.models.airbench import Airbench
from dlwp.runs.folder import RunFolder
from dlwp.verify import verify_resume

SMALL = [
    "experiment=cifar10_94", "data=synthetic", "data.shape=[3,12,12]", "data.num_train=160", "data.num_val=20",
    "data.num_test=20", "data.batch_size=32", "data.eval_batch_size=20", "model.channels=[16,32]",
    "model.head_scale=0.00390625", "optimizer.lr=2", "logger.tensorboard=false", "logger.plots=false",
]  # fmt: skip
EPOCHS, STEPS, BATCH = 4, 5, 32


@pytest.mark.parametrize("further", [[], ["optimizer.lookahead={every: 2}", "trainer.ema_decay=0.9"]])
def test_the_recipe_resumes_bit_for_bit(further: list[str]) -> None:
    found = verify_resume([*SMALL, *further])
    assert found.startswith("7 steps in one process equal 3 and 4 in two, bit for bit")


def test_the_recipe_trains_as_a_loop_written_by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = compose([*SMALL, f"trainer.epochs={EPOCHS}", "trainer.precision=fp64", "trainer.keep_best=false"])
    run = train_config(config)
    parts = Builder(config.values).build_for_evaluation()
    assert isinstance(parts.data.train, ArrayDataset)
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
        for values in (parts.data.facts.mean, parts.data.facts.std)
    )
    expected = by_hand(parts.data.train, mean, std)
    last = RunFolder(run.folder).pointed("last")
    assert last is not None
    weights, _ = checkpoint.load_weights(last)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-9)  # sums run in another order
    assert run.summary["test"]["accuracy"] == evaluate(str(run.folder))["values"]["accuracy"]
    plain = evaluate(str(run.folder), words=["trainer.tta=null"])["values"]
    assert plain["loss"] != run.summary["test"]["loss"]


def by_hand(train: ArrayDataset, mean: Tensor, std: Tensor) -> Airbench:
    """Return the network trained by a bare loop, each part written out in its plainest form."""
    randomness.seed_everything(0)
    model = Airbench(3, 10, channels=(16, 32), head_scale=2**-8).double()
    filters = [each for name, each in model.named_parameters() if name.startswith("stages") and each.ndim == 4]
    norms = [each for name, each in model.named_parameters() if "norm" in name and each.requires_grad]
    sgd = torch.optim.SGD(
        [{"params": norms}, {"params": [model.whitening.bias]},
         {"params": [model.head.weight], "lr": 1340.0, "weight_decay": 2.9851e-6}],
        lr=2.0, momentum=0.85, nesterov=True, weight_decay=3.7736e-5,
    )  # fmt: skip
    rates = [group["lr"] for group in sgd.param_groups]
    momenta = [torch.zeros_like(each) for each in filters]
    total, whitened = EPOCHS * STEPS, 3 * STEPS
    for step in range(total):
        epoch, position = divmod(step, STEPS)
        chosen = randomness.permutation(len(train), 0, "order", epoch)[position * BATCH : (position + 1) * BATCH]
        pictures = (augmented(train.inputs[chosen], chosen, epoch, step) / 255 - mean) / std
        if step == 0:
            model.init_from(pictures)
        left = 1 - step / total
        for group, rate, part in zip(sgd.param_groups, rates, (left, max(0.0, 1 - step / whitened), left)):
            group["lr"] = rate * part
        model.zero_grad()
        outputs = model(pictures)
        functional.cross_entropy(outputs, train.targets[chosen], label_smoothing=0.2).backward()
        sgd.step()
        for weight, momentum in zip(filters, momenta):
            assert weight.grad is not None
            momentum.mul_(0.6).add_(
                weight.grad, alpha=0.4
            )  # a mean, where the published one is a sum: its size does not count
            direction = newton_schulz((0.4 * weight.grad + 0.6 * momentum).flatten(1)).view_as(weight)
            weight.data.mul_(math.sqrt(len(weight)) / weight.data.norm())
            weight.data.sub_(0.24 * left * direction)
    return model


def augmented(pictures: Tensor, samples: Tensor, epoch: int, step: int) -> Tensor:
    """Return the pictures mirrored in every other epoch, then each cut from its reflected surroundings."""
    mirrored = randomness.coins(0, "flip", samples) ^ (epoch % 2 == 1)
    tops, lefts = torch.randint(5, (2, len(pictures)), generator=randomness.generator(0, "augment", step)).tolist()
    found = []
    for number, picture in enumerate(pictures.double()):
        picture = picture.flip(-1) if mirrored[number] else picture
        padded = functional.pad(picture[None], (2, 2, 2, 2), mode="reflect")[0]
        found.append(padded[:, tops[number] : tops[number] + 12, lefts[number] : lefts[number] + 12])
    return torch.stack(found)


def newton_schulz(matrix: Tensor) -> Tensor:
    """Return three steps of the quintic iteration a X + b (X Xᵀ) X + c (X Xᵀ)² X from X / (|X| + 1e-7)."""
    work = matrix / (matrix.norm() + 1e-7)
    for _ in range(3):
        square = work @ work.T
        work = 3.4445 * work - 4.7750 * square @ work + 2.0315 * square @ square @ work
    return work
