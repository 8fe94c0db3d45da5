"""Own what TensorBoard shows of a run: curves, pictures, the confusion matrix and hyperparameters.

Knows nothing of the loop; the numbers are those of metrics.jsonl.
"""

from __future__ import annotations

import contextlib
import io
import math
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor

from dlwp import devices
from dlwp.nested import tensors
from dlwp.observers import overlays
from dlwp.runs import files
from dlwp.runs.folder import RunFolder
from dlwp.training.events import Ended, Evaluated, Logged, Started

if TYPE_CHECKING:
    from dlwp.training.trainer import Trainer

_NAMES = {"lr": "learning_rate"}
_MASKS = 9  # pictures with masks over them
_LEAST_SIDE = 64  # of a picture in the grid, in pixels: smaller ones are enlarged


class TensorBoard:
    """Write RUN/tensorboard: `train`, `val` and `test` share their tags, so that each quantity is one chart.

    Each value is written when it comes: a second thread, as torch's `SummaryWriter` has one, would take turns with the
    training for Python's lock, which cost a small model a millisecond a log.

    Args:
        run: the folder.
        images: training pictures in the grid, as the model sees them; 0 for none.
        hparams: hyperparameters, nested or flat; shown with the final metrics.
        classes: their names, for the confusion matrix.
        mean, std: per channel, to undo the normalisation; else each picture is stretched to its own range.
        samples: a table in Markdown of some samples, for data that is no pictures.
        texts: shows inputs that are text: `windows(inputs)` and `sample(model)` give Markdown; None: they are none.
        masked: makes a batch of pictures and masks to show before training, and with what is predicted at each
            evaluation; None where the data has no masks.
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
        samples: str = "",
        texts: Any = None,
        masked: Callable[[], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self._run = run
        self._samples = samples
        self._texts = texts
        self._masked = masked if images else None
        self._images = images
        self._hparams = hparams
        self._classes = classes
        self._mean = mean
        self._std = std
        self._files: dict[str, EventFile] = {}
        self._purged_from: dict[str, int] = {}
        self._start_step = 0
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
        self._samples = self._samples if event.step == 0 else ""
        if self._masked is not None and event.step == 0:
            inputs, masks = (part[: self._images] for part in self._masked())
            self._draw_masks("masks/true", inputs, masks, 0)

    def on_log(self, event: Logged) -> None:
        """Write the training's curves, and once the pictures."""
        self._draw_pictures(event)
        self._write_samples(event.step)
        self._write("train", event.values, event.step)

    def on_evaluation(self, event: Evaluated) -> None:
        """Write the evaluation's curves."""
        self._write(event.split, event.values, event.step)
        if self._texts is not None and event.split == "val":
            self._file("").add_text("what it writes", self._texts.sample(event.trainer.model), event.step)
        if self._masked is not None and event.split == "val":
            inputs = self._masked()[0][:_MASKS]
            self._draw_masks("masks/predicted", inputs, _predicted(event.trainer, inputs).argmax(1), event.step)
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

    def _finish(self, step: int) -> None:
        for split, (at, counts) in self._confusions.items():
            self._draw_confusion(split, counts, at)
        self._write("", self._final, step)
        self._confusions.clear()
        self._final.clear()

    def _file(self, name: str) -> EventFile:
        if name not in self._files:
            folder = self._run.tensorboard / name if name else self._run.tensorboard
            purge = self._purged_from.get(name, self._start_step)  # test and the pictures come behind the last step
            self._files[name] = EventFile(folder, purge)
        return self._files[name]

    def _write(self, split: str, values: dict[str, float], step: int) -> None:
        if values:
            self._file(split).add_scalars({_NAMES.get(name, name): value for name, value in values.items()}, step)

    def _draw_pictures(self, event: Logged) -> None:
        count, self._images = self._images, 0
        batch = event.trainer.last_batch
        if count and batch is not None and self._texts is not None:
            self._file("").add_text("training windows", self._texts.windows(batch[0][:count]), event.step)
        pictures = [one for one in tensors(batch) if one.ndim == 4]
        if not count or not pictures:
            return
        grid = picture_grid(pictures[0][:count], self._mean, self._std)
        self._file("").add_picture("training pictures", grid.permute(1, 2, 0).numpy(), event.step)

    def _write_samples(self, step: int) -> None:
        if self._samples:
            from torch.utils.tensorboard.summary import text

            self._file("").add(step, summary=text("training samples", self._samples))
        self._samples = ""

    def _draw_masks(self, tag: str, inputs: Tensor, masks: Tensor, step: int) -> None:
        """Draw pictures with masks over them, side by side."""
        shown = overlays.overlaid_batch(inputs[:_MASKS], masks[:_MASKS], self._mean, self._std)
        wide = max(1, math.ceil(math.sqrt(len(shown))))
        rows = [shown[begin : begin + wide] for begin in range(0, len(shown), wide)]
        rows[-1] += [numpy.full_like(shown[0], 255)] * (wide - len(rows[-1]))
        self._file("").add_picture(tag, overlays.columns(rows), step)

    def _draw_confusion(self, split: str, counts: Any, step: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        from dlwp.observers.plots import draw_confusion

        canvas = FigureCanvasAgg(draw_confusion(counts, self._classes, split))
        canvas.draw()
        picture = numpy.asarray(canvas.buffer_rgba())[..., :3]
        self._file("").add_picture(f"confusion/{split}", picture, step)

    def _write_hparams(self) -> None:
        from torch.utils.tensorboard.summary import hparams

        names = [name.removeprefix("final/val/") for name in self._final if name.startswith("final/val/")]
        metrics = {f"final/{split}/{name}": 0.0 for name in names for split in ("val", "test")}
        for summary in hparams(flatten(self._hparams), metrics):
            self._file("").add(0, summary=summary)


class EventFile:
    """A file of TensorBoard's, in which each event is written at once, whole or not at all.

    Args:
        folder: where it is made.
        purge_step: TensorBoard leaves out what files before this one in the folder hold of this step and later ones.

    Raises:
        OSError: here and in the methods, the disk is full, read-only or gone.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        _await_later_name(folder)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{files.unique()}"
        self._path, self._end = folder / name, 0
        self._records = RecordWriter(self)
        self.add(purge_step, file_version="brain.Event:2")
        self.add(purge_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, data: bytes) -> None:
        """Append a record."""
        self._end = files.append(self._path, data, self._end)

    def add(self, step: int, **event: Any) -> None:
        """Append an event, given by its fields."""
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(step=step, wall_time=time.time(), **event).SerializeToString())

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Append values by tag, as one event."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        curves = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self.add(step, summary=Summary(value=curves))

    def add_picture(self, tag: str, pixels: Any, step: int) -> None:
        """Append a picture: uint8 (H, W, C), C 1 or 3."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width, channels = pixels.shape
        png = io.BytesIO()
        Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(png, "PNG")
        picture = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png.getvalue())
        self.add(step, summary=Summary(value=[Summary.Value(tag=tag, image=picture)]))

    def add_text(self, tag: str, markdown: str, step: int) -> None:
        """Append a text in Markdown."""
        from torch.utils.tensorboard.summary import text

        self.add(step, summary=text(tag, markdown))


def _predicted(trainer: Trainer, inputs: Tensor) -> Tensor:
    """Return outputs by the weights that are evaluated; the model is left in the mode that it was in."""
    model, averaged = trainer.model, trainer.state.averaged
    weights = averaged.swapped_into(model) if averaged is not None else contextlib.nullcontext()
    was_training = model.training
    with torch.no_grad(), weights, devices.autocast(trainer.device, trainer.precision):
        try:
            return model.eval()(inputs)
        finally:
            model.train(was_training)


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
