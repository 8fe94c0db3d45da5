"""Own the way from pictures to masks: a network of pixels, its preprocessing, and the way back to the picture's size.

Knows nothing of configs, command lines or files of masks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from dlwp import devices
from dlwp.data import pictures
from dlwp.data.augment import BatchTransform
from dlwp.errors import ConfigError, DataError
from dlwp.inference.networks import Network
from dlwp.inference.predictor import in_channels, pixels_of
from dlwp.models.views import with_views


@dataclass
class Masked:
    """What was found of one picture, or why it could not be read.

    Attributes:
        source: as it was given. mask: classes, uint8 (H, W), of the picture's own size. shares: of each class, of all
            pixels. picture: uint8 (H, W, 3). fault: None, or a line for a person.
    """

    source: Any
    mask: numpy.ndarray
    shares: list[float]
    picture: numpy.ndarray
    fault: str | None = None


class MaskPredictor:
    """Say of each pixel of a picture what it is.

    Args:
        network: of pictures (B, C, H, W), giving logits (B, K, H, W), with the facts of its data.
        device: where it runs. tta: views that are averaged, as `trainer.tta`.

    Attributes:
        classes: names of the classes. name: for a person.

    Raises:
        ConfigError: the network takes no pictures.

    Example:
        >>> import dlwp
        >>> mask = dlwp.load("outputs/latest")("cells.png")  # doctest: +SKIP
    """

    def __init__(self, network: Network, device: torch.device | str = "cpu", tta: str | None = None) -> None:
        facts = network.facts
        shape = tuple(facts.input_shape)
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ConfigError(f"{network.name} takes inputs of shape {list(shape)}; masks are made of pictures")
        self.device, self.name = torch.device(device), network.name
        self.classes = facts.classes or [str(number) for number in range(facts.num_classes or 0)]
        self.model = network.model.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._outputs = with_views(self.model, tta)
        self._channels = shape[0]
        self._form = pictures.Form(shape[1], shape[2], **(facts.form or {}))
        self._normalise = BatchTransform([], facts.mean, facts.std, train=False)

    def __call__(self, picture: Any) -> Any:
        """Return the mask of a picture, classes uint8 (H, W), or a list of the masks of a list of pictures.

        Args:
            picture: a path, the bytes of a file, a PIL picture, uint8 (H, W, 3) or (3, H, W); or a list of such.

        Raises:
            DataError: a picture cannot be read.
        """
        several = isinstance(picture, list | tuple)
        found = list(self.predict(picture if several else [picture]))
        for one in found:
            if one.fault is not None:
                raise DataError(one.fault)
        return [one.mask for one in found] if several else found[0].mask

    def predict(self, sources: Sequence[Any], *, batch_size: int = 8) -> Iterator[Masked]:
        """Yield what is found of each source, in their order.

        Args:
            sources: as `__call__` takes them. batch_size: pictures that go through the network at once.
        """
        with ThreadPoolExecutor(devices.usable_processors()) as threads:
            for begin in range(0, len(sources), batch_size):
                group = sources[begin : begin + batch_size]
                decoded = list(threads.map(_decoded, group, range(begin, begin + len(group))))
                masks = iter(self._masks([one for one in decoded if not isinstance(one, DataError)]))
                for source, one in zip(group, decoded, strict=True):
                    if isinstance(one, DataError):
                        nothing = numpy.empty((0, 0), numpy.uint8)
                        yield Masked(source, nothing, [], nothing, one.message)
                        continue
                    mask = next(masks)
                    counts = numpy.bincount(mask.ravel(), minlength=len(self.classes))
                    yield Masked(source, mask, (counts / mask.size).tolist(), one)

    def _masks(self, arrays: Sequence[numpy.ndarray]) -> list[numpy.ndarray]:
        """Return the masks of pictures uint8 (H, W, 3), in batches of those that the network sees alike large."""
        forms = [self._seen(*one.shape[:2]) for one in arrays]
        found: list[Any] = [None] * len(arrays)
        for size in {(form.height, form.width) for form in forms}:
            members = [number for number, form in enumerate(forms) if (form.height, form.width) == size]
            batch = torch.from_numpy(numpy.stack([pictures.formed(arrays[one], forms[one]) for one in members]))
            logits = self._logits(in_channels(batch.permute(0, 3, 1, 2), self._channels))  # (B, H, W, 3)
            for number, values in zip(members, logits, strict=True):
                height, width = arrays[number].shape[:2]
                rows, columns = forms[number].filled(height, width)
                found[number] = _largest(values[:, :rows, :columns], height, width)
        return found

    def _seen(self, height: int, width: int) -> pictures.Form:
        """Return how a picture goes in: as in training; of what was cut out there all, at the same scale."""
        form = self._form
        if form.fit != "crop":
            return form
        scale = max(form.height / height, form.width / width)
        sides = max(1, round(scale * height)), max(1, round(scale * width))
        return pictures.Form(*sides, "stretch", None, form.interpolation)

    def _logits(self, batch: Tensor) -> Tensor:
        with torch.inference_mode():
            inputs, _ = self._normalise(batch.to(self.device))
            return self._outputs(inputs.contiguous(memory_format=torch.channels_last)).float().cpu()


def _decoded(source: Any, sample: int) -> numpy.ndarray | DataError:
    try:
        if isinstance(source, str | Path | bytes):
            return pictures.decode(io.BytesIO(source) if isinstance(source, bytes) else source, sample)
        return pixels_of(source)
    except DataError as error:
        return error


def _largest(logits: Tensor, height: int, width: int) -> numpy.ndarray:
    """Return the class of the largest logit at each pixel, (height, width), of logits (K, h, w) scaled bilinearly.

    One class after the other, so that a large picture of many classes takes the memory of three.
    """
    best, found = None, torch.zeros(height, width, dtype=torch.uint8)
    for number, one in enumerate(logits):
        layer = functional.interpolate(one[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]
        if best is not None:
            found[layer > best] = number
        best = layer if best is None else torch.maximum(best, layer)
    return found.numpy()


def of_network(network: Network, device: torch.device, tta: str | None = None) -> MaskPredictor:
    """Return the predictor of a network, whose outputs are averaged over views of each picture as `trainer.tta` says.

    Raises:
        ConfigError: it takes no pictures.
    """
    return MaskPredictor(network, device, tta)
