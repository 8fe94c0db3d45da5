"""Own what is done to a whole batch before the model sees it: scaling, random changes, normalisation.

Knows nothing of where batches come from. What is random is drawn on the host from (seed, "augment", step) and applied
on the device of the batch, so that it depends on neither loader nor device.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlwp import randomness
from dlwp.data import operations
from dlwp.data.datasets import is_channels_last
from dlwp.errors import ConfigError, DlwpError, did_you_mean

Operation = Callable[..., tuple[Tensor, Any]]
"""(inputs, targets, generator) -> (inputs, targets): inputs (B, ...), the generator on the host. One whose attribute
`needs_samples` is true gets (samples, epoch, seed) as well; one whose `mixes` is true needs the whole batch."""


class BatchTransform:
    """Turn a batch into what the model sees: uint8 to [0, 1], augmented when training, normalised.

    Operations that only move pixels (crop, flip) work on uint8, before a single pass that scales and normalises; the
    first other operation finds floats in [0, 1]. Integer inputs that are not uint8 (tokens) stay as they are. Class
    indices become int64, other targets `dtype`.

    Args:
        ops: operations in order, from `build_ops`.
        mean, std: per channel, of inputs in [0, 1] (uint8 pictures) or as they are (floats); None does not normalise.
        seed: of the run.
        train: whether the operations are applied.
        num_classes: for operations that mix targets.
        dtype: of float inputs and targets.

    Example:
        >>> transform = BatchTransform(build_ops(["crop", "flip"]), [0.5], [0.5])
        >>> inputs, targets = transform(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), step=0)
        >>> inputs.shape, inputs.min().item()
        (torch.Size([2, 1, 8, 8]), -1.0)
    """

    def __init__(
        self,
        ops: Sequence[Operation] = (),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        seed: int = 0,
        train: bool = True,
        num_classes: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.ops = [
            dataclasses.replace(op, num_classes=num_classes)
            if dataclasses.is_dataclass(op) and hasattr(op, "num_classes")
            else op
            for op in (ops if train else ())
        ]
        self.mean = None if mean is None or std is None else torch.tensor(mean, dtype=torch.float64)
        self.std = None if mean is None or std is None else torch.tensor(std, dtype=torch.float64)
        self.seed = seed
        self.dtype = dtype
        self._affine: dict[Any, tuple[Tensor, Tensor]] = {}

    def __call__(
        self, inputs: Tensor, targets: Any = None, step: int = 0, samples: Tensor | None = None, epoch: int = 0,
        part: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """Return (inputs, targets) as the model sees them at `step`; inputs keep their memory format.

        Args:
            samples: the samples' numbers in their set, int64 (B,) on the host, for operations that go by them.
            epoch: the number of the epoch, for these.
            part: (begin, whole), where these are only samples `begin` and so on of a batch of `whole`.
        """
        scale = 1 / 255 if inputs.dtype == torch.uint8 else 1.0
        if isinstance(targets, Tensor) and targets.dtype != torch.bool:
            targets = targets.to(self.dtype if targets.is_floating_point() else torch.int64)
        if self.ops:
            generator = randomness.generator(self.seed, "augment", step)
            if part is not None:
                generator = randomness.generator_of_part(*part, self.seed, "augment", step)
            for op in self.ops:
                if scale != 1.0 and not getattr(op, "moves_only", False):
                    inputs, scale = inputs.to(self.dtype).mul_(scale), 1.0
                own: Any = (samples, epoch, self.seed) if getattr(op, "needs_samples", False) else ()
                if own and samples is None:
                    raise ConfigError(f"data.augment: {op} needs data whose samples have numbers. data.augment=[flip]")
                inputs, targets = op(inputs, targets, generator, *own)
        return self._normalise(inputs, scale), targets

    @property
    def mixes(self) -> bool:
        """Whether a sample depends on the others of its batch, so that the batch cannot be made in parts."""
        return any(getattr(op, "mixes", False) for op in self.ops)

    def __str__(self) -> str:
        """Say what is done in a few words: "crop 4 px, flip, normalised"."""
        return ", ".join([*map(str, self.ops), *(["normalised"] if self.mean is not None else [])]) or "as it is"

    def _normalise(self, inputs: Tensor, scale: float) -> Tensor:
        """Return (scale · inputs - mean) / std, by one multiplication and one addition in place."""
        if inputs.dtype != torch.uint8 and not inputs.is_floating_point():
            return inputs
        fresh = inputs.dtype != self.dtype or bool(self.ops)
        values = inputs.to(self.dtype)
        if self.mean is None and scale == 1.0:
            return values
        values = values if fresh else values.clone(memory_format=torch.preserve_format)
        if self.mean is None:
            return values.mul_(scale)
        flat = _flat(values)
        factor, offset = self._factors(values, scale)
        flat.mul_(factor).add_(offset)
        return values

    def _factors(self, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Return factor and offset as long as one sample: against (C, 1, 1) that is up to 20 times faster on a host."""
        layout = is_channels_last(values)
        key = (values.shape[1:], layout, scale, values.dtype, values.device)
        if key not in self._affine:
            assert self.mean is not None and self.std is not None
            shape = (-1,) + (1,) * (values.dim() - 2)
            pair = []
            for per_channel in (scale / self.std, -self.mean / self.std):
                whole = per_channel.view(shape).expand(values.shape[1:]) if values.dim() > 1 else per_channel
                whole = whole.permute(1, 2, 0) if layout else whole
                pair.append(whole.reshape(-1).to(values.device, values.dtype))
            self._affine[key] = (pair[0], pair[1])
        return self._affine[key]


def _flat(values: Tensor) -> Tensor:
    """Return (B, D), a view in the order of memory."""
    if is_channels_last(values):
        values = values.permute(0, 2, 3, 1)
    return values.view(len(values), -1)


def build_ops(entries: Any) -> list[Operation]:
    """Return the operations named by the key `data.augment`.

    Args:
        entries: None, one entry or a list of them. An entry is a name ("crop"), a name with arguments
            ({"crop": {"padding": 4}}), or a callable on a whole batch: of (inputs, targets, generator), giving both,
            or of inputs alone, floats in [0, 1] of shape (B, C, H, W) for pictures (a torchvision transform is one).

    Raises:
        ConfigError: an unknown name or argument.

    >>> [str(op) for op in build_ops(["crop", {"erasing": {"probability": 0.25}}])]
    ['crop 4 px', 'erasing']
    """
    if entries is None:
        return []
    listed = list(entries) if isinstance(entries, Sequence) and not isinstance(entries, str) else [entries]
    ops: list[Operation] = []
    for entry in listed:
        if isinstance(entry, str):
            ops.append(_named(entry, {}))
        elif isinstance(entry, Mapping):
            ops.extend(_named(str(name), arguments or {}) for name, arguments in entry.items())
        elif callable(entry):
            ops.append(OwnOperation(entry))
        else:
            raise ConfigError(
                f"data.augment holds {entry!r}; name an operation ({', '.join(operations.OPERATIONS)}) or a callable"
            )
    return ops


def _named(name: str, arguments: Any) -> Operation:
    kinds = operations.OPERATIONS
    if name not in kinds:
        raise ConfigError(f"data.augment has no '{name}'.{did_you_mean(name, kinds)} There are: {', '.join(kinds)}")
    takes = [field.name for field in dataclasses.fields(kinds[name]) if field.name != "num_classes"]
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"data.augment: write {name} with arguments as {{{name}: {{{takes[0]}: {arguments}}}}}")
    for argument in arguments:
        if argument not in takes:
            raise ConfigError(
                f"data.augment: {name} has no argument '{argument}'.{did_you_mean(argument, takes)}"
                f" It takes: {', '.join(takes)}"
            )
    try:
        return kinds[name](**arguments)
    except DlwpError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"data.augment: {name}({', '.join(f'{k}={v}' for k, v in arguments.items())}): {error}"
        ) from None


class OwnOperation:
    """Call a callable of the user's own on a batch, with the global generators seeded for it and restored after.

    Args:
        function: of (inputs, targets, generator) -> (inputs, targets), or of inputs alone.
    """

    mixes = True

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._takes_all = _takes_three(function)

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Apply the function."""
        with randomness.preserved():
            randomness.seed_sample(int(torch.randint(2**62, (), generator=generator)), 0, 0)
            if self._takes_all:
                inputs, targets = self.function(inputs, targets, generator)
                return inputs, targets
            return self.function(inputs), targets

    def __str__(self) -> str:
        """Return the name of the function or class."""
        return getattr(self.function, "__name__", type(self.function).__name__)


def _takes_three(function: Callable[..., Any]) -> bool:
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    positional = [
        p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    return len(positional) == 3
