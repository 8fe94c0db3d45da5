"""Lightning, after its tutorial of CIFAR-10 (lightning.ai, "PyTorch Lightning CIFAR10 ~94% Baseline")."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.callbacks.progress import TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmark.peers import work

warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice on more workers


class Classifier(LightningModule):
    """A network and how it is trained."""

    def __init__(self, model: nn.Module, steps_per_epoch: int) -> None:
        super().__init__()
        self.model = model
        self.steps_per_epoch = steps_per_epoch

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        x, y = batch
        loss = functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        """Return SGD with one cycle."""
        optimizer = torch.optim.SGD(
            self.parameters(), work.RATE, momentum=0.9, weight_decay=work.DECAY, nesterov=True
        )  # fmt: skip
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, work.RATE, epochs=work.EPOCHS, steps_per_epoch=self.steps_per_epoch
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Timing(Callback):
    """Tells the watch of each step."""

    def __init__(self, watch: work.Watch) -> None:
        self.watch = watch

    def on_train_batch_end(self, *_: Any) -> None:
        """Hear of a step."""
        self.watch.step()


def pictures(watch: work.Watch, workers: int) -> None:
    """Train on pictures."""
    transform = transforms.Compose([
        transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(),
        transforms.ToTensor(), transforms.Normalize(work.MEAN, work.STD),
    ])  # fmt: skip
    train(work.network(), work.Pictures(transform), watch, workers)


def vectors(watch: work.Watch, workers: int) -> None:
    """Train on vectors."""
    train(work.perceptron(), work.vectors(), watch, workers)


def train(model: nn.Module, data: Dataset[Any], watch: work.Watch, workers: int) -> None:
    """Train as the tutorial does."""
    loader = DataLoader(data, work.BATCH_SIZE, shuffle=True, num_workers=workers)
    trainer = Trainer(
        max_epochs=work.EPOCHS, max_steps=watch.steps, accelerator="cpu", devices=1, logger=CSVLogger("logs"),
        callbacks=[LearningRateMonitor("step"), TQDMProgressBar(refresh_rate=10), Timing(watch)],
    )  # fmt: skip
    trainer.fit(Classifier(model, len(loader)), loader)


if __name__ == "__main__":
    work.main(pictures, vectors)
