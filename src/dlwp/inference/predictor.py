"""Own the way from pictures to predictions: a model with its preprocessing and the names of its outputs.

Knows nothing of configs, command lines or how results are shown.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from dlwp import devices
from dlwp.data import pictures
from dlwp.data.augment import BatchTransform
from dlwp.data.datasets import Facts
from dlwp.errors import ConfigError, DataError
from dlwp.inference.networks import Network
from dlwp.inference.sources import name_of
from dlwp.models import stages
from dlwp.models.views import with_views

_GREY = (0.299, 0.587, 0.114)  # ITU-R 601


@dataclass(frozen=True)
class Prediction:
    """One of the likeliest classes of a picture."""

    label: str
    index: int
    probability: float


@dataclass
class Predicted:
    """What was found of one source, or why it could not be read.

    Attributes:
        source: as it was given. predictions: likeliest first. features: (D,) where they were asked for.
        picture: as the model saw it, uint8 (3, H, W), where it was asked for. fault: None, or a line for a person.
    """

    source: Any
    predictions: list[Prediction]
    features: Tensor | None = None
    picture: Tensor | None = None
    fault: str | None = None


class Predictor:
    """Say what is in pictures.

    Args:
        model: gives logits (B, K) of normalised pictures (B, C, H, W): of classes, or of labels that a picture may have
            several of.
        facts: of the data that it was trained on: task, shape, normalisation, class names, and how pictures are formed.
        device: where it runs. tta: views that are averaged, as `trainer.tta`. name: for a person.
        precision: in which the network is computed, as `trainer.precision`; auto: bf16 where the machine is faster so.

    Attributes:
        model, facts, classes, form, name. precision: as decided. reason: why, "as asked" where it was not auto.

    Raises:
        ConfigError: the model is not one of pictures and classes.

    Example:
        >>> import dlwp
        >>> predictor = dlwp.load("outputs/latest")  # doctest: +SKIP
        >>> predictor("photo.jpg")[0].label  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        facts: Facts,
        device: torch.device | str = "cpu",
        *,
        tta: str | None = None,
        name: str = "model",
        precision: str = "fp32",
    ) -> None:
        shape = tuple(facts.input_shape)
        if facts.task not in ("classification", "multilabel") or len(shape) != 3 or shape[0] not in (1, 3):
            raise ConfigError(
                f"{name} takes inputs of shape {list(shape)} for {facts.task}; predictions are made of pictures by "
                "models that were trained to classify them"
            )
        self.device = torch.device(device)
        traits = devices.Traits.of(model)
        self.precision, self.reason = devices.choose_precision(precision, self.device, traits, facts.task)
        self.facts, self.name = facts, name
        self.classes = facts.classes or [str(number) for number in range(facts.num_classes or 0)]
        self.form = pictures.Form(shape[1], shape[2], **(facts.form or {}))
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._outputs = with_views(self.model, tta)
        self._normalise = BatchTransform([], facts.mean, facts.std, train=False)

    def __call__(self, picture: Any, top_k: int | None = None, threshold: float = 0.5) -> Any:
        """Return the likeliest classes of a picture, or of each of a list of pictures.

        Of a model of several labels: all labels whose probability is above the threshold.

        Args:
            picture: a path, the bytes of a file, a PIL picture, uint8 (H, W, 3) or (3, H, W); or a list of such.
            top_k: classes at most; None: 5, or all labels. threshold: of labels.

        Returns:
            A list of `Prediction`, likeliest first; of a list of pictures a list of such lists.

        Raises:
            DataError: a picture cannot be read.
        """
        several = isinstance(picture, list | tuple)
        found = list(self.predict(picture if several else [picture], top_k=top_k, threshold=threshold))
        for one in found:
            if one.fault is not None:
                raise DataError(one.fault)
        return [one.predictions for one in found] if several else found[0].predictions

    def predict(
        self,
        sources: Sequence[Any],
        *,
        top_k: int | None = None,
        threshold: float = 0.5,
        batch_size: int = 32,
        features: bool = False,
        keep_pictures: bool = False,
    ) -> Iterator[Predicted]:
        """Yield what is found of each source, in their order; decoding goes on beside the network.

        Args:
            sources: as `__call__` takes them.
            top_k, threshold: as `__call__` takes them. batch_size: pictures that go through the network at once.
            features: whether to give what the head is given, too. keep_pictures: whether to give the pictures.
        """
        head = stages.HeadInput(self.model, self.facts.num_classes) if features else None
        several = self.facts.task == "multilabel"
        limits = (len(self.classes) if several else 5) if top_k is None else top_k, threshold if several else -1.0
        try:
            for group, decoded in self._batches(sources, batch_size):
                yield from self._of_batch(group, decoded, limits, head, keep_pictures)
        finally:
            if head is not None:
                head.remove()

    def probabilities(self, batch: Tensor) -> Tensor:
        """Return probabilities (B, K), float32 on the host, of pictures uint8 (B, C, H, W)."""
        with torch.inference_mode(), devices.autocast(self.device, self.precision):
            inputs, _ = self._normalise(batch.to(self.device))
            outputs = self._outputs(inputs.contiguous(memory_format=torch.channels_last))
            outputs = outputs.float()
            return (outputs.sigmoid() if self.facts.task == "multilabel" else outputs.softmax(1)).cpu()

    def _batches(
        self, sources: Sequence[Any], batch_size: int
    ) -> Iterator[tuple[Sequence[Any], list[numpy.ndarray | DataError]]]:
        groups = [sources[begin : begin + batch_size] for begin in range(0, len(sources), batch_size)]
        with ThreadPoolExecutor(devices.usable_processors()) as threads:
            waiting: list[list[Future[Any]]] = []
            begin = 0
            for number, group in enumerate(groups):
                while len(waiting) < 2 and number + len(waiting) < len(groups):
                    chunk = groups[number + len(waiting)]
                    waiting.append([threads.submit(self._decoded, one, begin + at) for at, one in enumerate(chunk)])
                    begin += len(chunk)
                yield group, [future.result() for future in waiting.pop(0)]

    def _decoded(self, source: Any, sample: int) -> numpy.ndarray | DataError:
        try:
            if isinstance(source, str | Path | bytes):
                given: Any = io.BytesIO(source) if isinstance(source, bytes) else source
                return pictures.decode(given, sample, self.form)
            return pictures.formed(pixels_of(source), self.form)
        except DataError as error:
            return error

    def _of_batch(
        self,
        sources: Sequence[Any],
        decoded: Sequence[numpy.ndarray | DataError],
        limits: tuple[int, float],
        head: Any,
        keep_pictures: bool,
    ) -> Iterator[Predicted]:
        arrays = [one for one in decoded if not isinstance(one, DataError)]
        results: Iterator[tuple[Any, ...]] = iter(())
        if arrays:
            batch = torch.from_numpy(numpy.stack(arrays)).permute(0, 3, 1, 2)  # (B, H, W, 3) to (B, 3, H, W)
            values = self.probabilities(in_channels(batch, self.facts.input_shape[0]))
            top = values.topk(min(limits[0], values.shape[1]))
            vectors = head.vectors().float().cpu() if head is not None else [None] * len(arrays)
            results = iter(list(zip(top.values.tolist(), top.indices.tolist(), vectors, batch)))
        for source, one in zip(sources, decoded, strict=True):
            if isinstance(one, DataError):
                yield Predicted(source, [], fault=one.message)
                continue
            shares, indices, vector, picture = next(results)
            named = [Prediction(self._label(at), at, share) for share, at in zip(shares, indices) if share > limits[1]]
            yield Predicted(source, named, vector, picture if keep_pictures else None)

    def _label(self, index: int) -> str:
        return self.classes[index] if index < len(self.classes) else str(index)


def in_channels(batch: Tensor, channels: int) -> Tensor:
    """Return pictures uint8 (B, 3, H, W) as they are, or in grey, (B, 1, H, W), where one channel is taken."""
    if channels == 3:
        return batch
    grey = sum(weight * batch[:, number].float() for number, weight in enumerate(_GREY))
    return grey.round().to(torch.uint8).unsqueeze(1)  # type: ignore[union-attr]


def pixels_of(source: Any) -> numpy.ndarray:
    """Return a picture that is in memory as uint8 (H, W, 3).

    Raises:
        DataError: it is none.
    """
    if hasattr(source, "convert"):
        return numpy.asarray(source.convert("RGB"))
    array = source.detach().cpu().numpy() if isinstance(source, Tensor) else numpy.asarray(source)
    given = f"{array.dtype} of shape {list(array.shape)}"
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype != numpy.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3):
        raise DataError(f"a picture is {given}; uint8 (H, W, 3) or (3, H, W) is needed")
    return numpy.broadcast_to(array, (*array.shape[:2], 3))


def of_network(network: Network, device: torch.device, tta: str | None = None, precision: str = "fp32") -> Predictor:
    """Return the predictor of a network, on no more threads than there are processors.

    Raises:
        ConfigError: it does not classify pictures. MachineError: the device has no such precision.
    """
    devices.limit_threads()
    return Predictor(network.model, network.facts, device, tta=tta, name=network.name, precision=precision)


def as_json(found: Iterable[Predicted]) -> str:
    """Return predictions as JSON, in the form that stays: a list of files, each with its predictions."""
    listed = [
        {"file": name_of(one.source), "predictions": [dataclasses.asdict(prediction) for prediction in one.predictions]}
        for one in found
        if one.fault is None
    ]
    return json.dumps(listed, indent=1, ensure_ascii=False)
