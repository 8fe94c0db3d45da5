"""Own what TensorBoard shows of a run: curves, pictures, the confusion matrix and hyperparameters.

Knows nothing of the loop; the numbers are those of metrics.jsonl.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dlwp.runs.folder import RunFolder
from dlwp.training.events import Ended, Evaluated, Logged, Started

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_NAMES = {"lr": "learning_rate"}
_FLUSH_S = 1.0
_LEAST_SIDE = 64  # of a picture in the grid, in pixels: smaller ones are enlarged


class TensorBoard:
    """Write RUN/tensorboard: `train`, `val` and `test` share their tags, so that each quantity is one chart.

    What a checkpoint has seen is on disk before it; else curves come there once a second.

    Args:
        run: the folder.
        images: training pictures in the grid, as the model sees them; 0 for none.
        hparams: hyperparameters, nested or flat; shown with the final metrics.
        classes: their names, for the confusion matrix.
        mean, std: per channel, to undo the normalisation; else each picture is stretched to its own range.
    """

    watcher = True

    def __init__(
        self,
        run: RunFolder,
        *,
        images: int,
        hparams: dict[str, Any],
        classes: list[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self._run = run
        self._images = images
        self._hparams = hparams
        self._classes = classes
        self._mean = mean
        self._std = std
        self._writers: dict[str, SummaryWriter] = {}
        self._flushed = -math.inf
        self._purged_from: dict[str, int] = {}
        self._start_step = 0
        self._opened: set[str] = set()
        self._final: dict[str, float] = {}
        self._ended = False
        self._confusions: dict[str, tuple[int, Any]] = {}

    def on_start(self, event: Started) -> None:
        """Note where the run goes on: what was written of later steps is purged, and what is yet to follow this one."""
        pending = event.trainer.state.progress.pending
        self._start_step = event.step
        self._purged_from = {
            "train": event.step + ("log" not in pending), "val": event.step + ("evaluate" not in pending)
        }  # fmt: skip
        self._images = self._images if event.step == 0 else 0

    def on_log(self, event: Logged) -> None:
        """Write the training's curves, and once the pictures."""
        self._draw_pictures(event)
        self._write("train", event.values, event.step)

    def on_evaluation(self, event: Evaluated) -> None:
        """Write the evaluation's curves."""
        self._write(event.split, event.values, event.step)
        if event.confusion is not None and (event.is_best or event.split == "test"):
            self._confusions[event.split] = event.step, event.confusion.detach().cpu().numpy()
        if event.is_best or event.split == "test":
            self._final |= {f"final/{event.split}/{name}": value for name, value in event.values.items()}
        if self._ended:  # the test split, evaluated after the end
            self._finish(event.step)

    def on_end(self, event: Ended) -> None:
        """Write the confusion matrix and the hyperparameters with the final metrics, and close."""
        self._ended = True
        if event.exit != "failed":
            self._write_hparams()
        self._finish(event.step)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing, but wait until what was written is on disk: a checkpoint is taken."""
        for writer in self._writers.values():
            writer.flush()
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing back."""

    def _finish(self, step: int) -> None:
        for split, (step, counts) in self._confusions.items():
            self._draw_confusion(split, counts, step)
        for name, value in self._final.items():
            self._writer("").add_scalar(name, value, step)
        self._confusions.clear()
        self._final.clear()
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, name: str) -> SummaryWriter:
        if name not in self._writers:
            from torch.utils.tensorboard import SummaryWriter  # slow

            folder = self._run.tensorboard / name if name else self._run.tensorboard
            purge = None
            if name not in self._opened:  # by this process; test and the pictures come behind the last step
                purge = self._purged_from.get(name, self._start_step)
                _await_later_name(folder)
            self._opened.add(name)
            threading.excepthook = _except_writers
            self._writers[name] = SummaryWriter(str(folder), purge_step=purge)
        return self._writers[name]

    def _write(self, split: str, values: dict[str, float], step: int) -> None:
        if not values:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        writer = self._writer(split)
        curves = [Summary.Value(tag=_NAMES.get(name, name), simple_value=value) for name, value in values.items()]
        assert writer.file_writer is not None
        writer.file_writer.add_summary(Summary(value=curves), step)  # one record; add_scalar writes one a curve
        now = time.monotonic()
        if split != "train" or now - self._flushed >= _FLUSH_S:  # it waits for the writer's thread
            self._flushed = now
            writer.flush()

    def _draw_pictures(self, event: Logged) -> None:
        count, self._images = self._images, 0
        batch = event.trainer.last_batch
        if not count or batch is None or not isinstance(batch[0], Tensor) or batch[0].ndim != 4:
            return
        grid = picture_grid(batch[0][:count], self._mean, self._std)
        self._writer("").add_image("training pictures", grid.numpy(), event.step)
        self._writer("").flush()

    def _draw_confusion(self, split: str, counts: Any, step: int) -> None:
        import numpy
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        from dlwp.observers.plots import draw_confusion

        canvas = FigureCanvasAgg(draw_confusion(counts, self._classes, split))
        canvas.draw()
        picture = numpy.asarray(canvas.buffer_rgba())[..., :3]
        self._writer("").add_image(f"confusion/{split}", picture, step, dataformats="HWC")

    def _write_hparams(self) -> None:
        from torch.utils.tensorboard.summary import hparams

        names = [name.removeprefix("final/val/") for name in self._final if name.startswith("final/val/")]
        metrics = {f"final/{split}/{name}": 0.0 for name in names for split in ("val", "test")}
        file_writer = self._writer("").file_writer
        assert file_writer is not None
        for summary in hparams(flatten(self._hparams), metrics):
            file_writer.add_summary(summary)


def _except_writers(fault: threading.ExceptHookArgs, former: Any = threading.excepthook) -> None:
    """Leave out the traceback of a writer's own thread (a full disk): the next value written raises it again, here."""
    if type(fault.thread).__name__ != "_AsyncWriterThread":
        former(fault)


def _await_later_name(folder: Path) -> None:
    """Wait until a new file's name comes behind those that are there: it begins with the second, and is read in order.

    Only a run that is resumed in the second in which it was killed waits.
    """
    seconds = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")]
    while seconds and time.time() < max(seconds) + 1:
        time.sleep(0.02)


def picture_grid(inputs: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Tensor:
    """Return pictures side by side, uint8 of shape (C, H', W') with C 1 or 3.

    Args:
        inputs: (B, C, H, W) as the model sees them.
        mean, std: per channel, to undo the normalisation; else each picture is stretched to its own range.
    """
    pictures = inputs.detach().float().cpu()
    num, channels, height, width = pictures.shape
    if mean is not None and std is not None and len(mean) == channels:
        pictures = pictures * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    else:
        low, high = pictures.amin((1, 2, 3), keepdim=True), pictures.amax((1, 2, 3), keepdim=True)
        pictures = (pictures - low) / (high - low).clamp(min=1e-12)
    pictures = (pictures.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8)
    pictures = pictures[:, :3] if channels >= 3 else pictures[:, :1]
    scale = max(1, -(-_LEAST_SIDE // max(height, width)))
    pictures = pictures.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    height, width = height * scale, width * scale
    columns = min(num, max(1, math.ceil(math.sqrt(num * 2))))
    rows = -(-num // columns)
    gap = 2
    grid = torch.full(
        (pictures.shape[1], rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8
    )
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        grid[:, top : top + height, left : left + width] = picture
    return grid


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str]:
    """Return dotted key -> value as TensorBoard's table of hyperparameters shows it: truth values as words.

    >>> flatten({"model": {"depth": 20, "norm": None}, "lr": 0.1})
    {'model.depth': 20, 'model.norm': 'null', 'lr': 0.1}
    """
    flat: dict[str, int | float | str] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, bool):
            flat[f"{prefix}{key}"] = "null" if value is None else str(value).lower()
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, int | float | str) else str(value)
    return flat


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value for the values that are plain: hyperparameters as TensorBoard takes them."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool) and key not in ("run_dir", "resume"):
            found[f"{prefix}{key}"] = value
    return found
