"""Own exact evaluation: sums and counts over a whole split, never means of means.

Knows nothing of the loop that asks for it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dlwp import devices, distributed, sharding
from dlwp.criteria import weight_of
from dlwp.errors import RunError
from dlwp.nested import piece, target_of
from dlwp.training.batches import Loader, StepFunction, divide, is_divided, split_result, supervised_step, whole_size


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Any],
    criterion: Any,
    metrics: Mapping[str, Any] | None = None,
    *,
    step: StepFunction = supervised_step,
    tally: Any = None,
) -> dict[str, float]:
    """Return loss and metrics over all batches of all processes, as if they had been computed in one piece.

    Args:
        model: put into evaluation mode, and left in the mode it was in.
        batches: of (inputs, targets), or what `step` takes.
        criterion: its mean over a batch counts with the weight that it divided by.
        metrics: name -> object with update(outputs, targets), compute() and reset().
        step: as in training.
        tally: a further object to reset and update that is no number, such as a confusion matrix.

    Returns:
        "loss", the metrics and the step's further numbers, by name.
    """
    metrics = metrics or {}
    updated = [*metrics.values(), *([tally] if tally is not None else [])]
    totals: dict[str, Tensor] = {}
    weight: Any = 0.0
    was_training = model.training
    model.eval()
    try:
        for metric in updated:
            metric.reset()
        for batch in batches:
            if isinstance(batch, sharding.Idle):
                step(model, batch.part, criterion)
                continue
            result, outputs = step(model, batch, criterion)
            loss, further = split_result(result)
            count = weight_of(criterion, batch)
            weight = weight + count
            for name, value in {"loss": loss, **further}.items():
                value = value.detach() if isinstance(value, Tensor) else torch.tensor(float(value))
                value = value.to(devices.sum_dtype(value.device)) * count
                totals[name] = totals[name] + value if name in totals else value
            if outputs is not None and (target := target_of(batch)) is not None:
                for metric in updated:
                    metric.update(outputs, target)
    finally:
        model.train(was_training)
    values = _reduced(totals, weight, {**metrics, **({} if tally is None else {"": tally})})
    return values | {name: float(metric.compute()) for name, metric in metrics.items()}


def shares(loader: Loader, heard: Callable[[int], bool], *, idle: bool = False) -> Iterator[Any]:
    """Yield this process's part of each batch of a split, where it has one; `heard` is told of each whole batch.

    Args:
        heard: (size) -> whether all processes are to leave off.
        idle: where this process has none, yield an `Idle` part.
    """
    divide(loader, 1)
    for batch in loader.epoch():
        size = whole_size(loader, batch)
        own, counts = distributed.portion(size, 1)
        part = batch if is_divided(loader) else piece(batch, own)
        if counts or idle:
            yield part if counts else sharding.Idle(part)
        if heard(size):
            return


@contextlib.contextmanager
def within_memory(split: str, loader: Loader) -> Iterator[None]:
    """Name the way out where memory runs out over the batches of a split.

    Raises:
        RunError: it does.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if devices.is_out_of_memory(error) and (half := loader.batch_size // 2):
            why = " ".join(str(error).split())[:90]
            raise RunError(f"out of memory while evaluating {split} ({why}). data.eval_batch_size={half}") from error
        raise


def _reduced(totals: dict[str, Tensor], weight: Any, metrics: Mapping[str, Any]) -> dict[str, float]:
    if distributed.world_size() > 1:
        weight = distributed.sum_(torch.as_tensor(weight, dtype=torch.float64))
        summed = {name: metric for name, metric in metrics.items() if hasattr(metric, "sums")}
        known = distributed.gathered((list(totals), {name: metric.sums.shape for name, metric in summed.items()}))
        for name in sorted({name for names, _ in known for name in names}):  # a process without samples joins too
            totals[name] = distributed.sum_(totals.get(name, torch.zeros((), dtype=torch.float64)))
        for name, metric in summed.items():
            shape = torch.broadcast_shapes(*(shapes[name] for _, shapes in known))
            metric.sums = distributed.sum_(metric.sums.expand(shape).clone())
    return {name: float(total / weight) if weight else math.nan for name, total in totals.items()}
