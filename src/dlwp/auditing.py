"""Own the proof, from what a run recorded, that each sample was used once: its chain is that of the order it must have.

Knows nothing of how a run is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from dlwp.data.resident import Order
from dlwp.errors import DataError
from dlwp.runs import history
from dlwp.runs.folder import RunFolder, find_run
from dlwp.training.audit import link


def proven(run: str) -> str:
    """Prove from a run's audit.jsonl that each sample of each epoch was used exactly once, and say so in a line.

    Raises:
        DataError: it was not so, or nothing is recorded. ConfigError: no such run.
    """
    path, _ = find_run(run)
    try:
        steps, epochs, samples = check(history.read(path / "audit.jsonl"))
    except DataError as error:
        raise DataError(f"{path / 'audit.jsonl'}: {error}") from error
    return _line(steps, epochs, samples, RunFolder(path).read_summary())


def check(lines: Iterable[dict[str, Any]]) -> tuple[int, int, int]:
    """Prove what a run recorded.

    Raises:
        DataError: as `_check`, or the file is damaged.
    """
    try:
        return _check(lines)
    except (TypeError, ValueError, LookupError) as error:
        raise DataError(f"a line of it is damaged ({type(error).__name__}: {error})") from error


def _check(lines: Iterable[dict[str, Any]]) -> tuple[int, int, int]:
    """Compare the chain that a run recorded with the one that its order must give.

    Args:
        lines: of audit.jsonl: first {"order": ...}, then {"step", "epoch", "chain"}.

    Returns:
        The steps proven, the whole epochs among them, and the samples an epoch; 0 where these are drawn by weights.

    Raises:
        DataError: the chain is another; the steps between which it breaks are named. Or there is none.
    """
    order: Order | None = None
    chain, step = "", 0
    for line in lines:
        if "order" in line:
            if order is not None:
                raise DataError(
                    f"from step {line['step']:,} on the data, its batches or their order are others "
                    "(resume_exact=false): nothing is proven of what follows"
                )
            if "iterable" in line["order"]:
                raise DataError("the data can only be iterated, its samples have no numbers: nothing can be proven")
            order = Order(**line["order"])
        elif order is not None:
            before = step
            while step < line["step"]:
                chain, step = link(chain, order.batch(*divmod(step, len(order)))), step + 1
            if chain != line["chain"]:
                raise DataError(
                    f"the samples of steps {before + 1:,} to {step:,} are not those of the order: some were skipped, "
                    "repeated or exchanged"
                )
    if order is None or not step:
        raise DataError("no step is recorded")
    epochs = step // len(order)
    if "shares" in order.options:
        return step, epochs, 0
    for number in range(epochs):
        used = torch.cat([order.batch(number, position) for position in range(len(order))])
        if len(used.unique()) != len(used) or len(used) != order.num_samples:
            raise DataError(f"epoch {number + 1} does not use each sample once")
    return step, epochs, order.num_samples


def _line(steps: int, epochs: int, samples: int, summary: dict[str, Any]) -> str:
    """Return what an audit has proven, and what the run says itself that it left out."""
    whole = f"each of {samples:,} samples exactly once in each of {epochs} epochs" if epochs else "no epoch is whole"
    whole = whole if samples else f"{epochs} epochs, in which parts of the data are drawn by data.weights"
    exceptions = {
        "left_out": "samples could not be read and others took their places (left_out.jsonl)",
        "skipped_steps": "steps were left out, their loss was not finite",
        "rollbacks": "times the weights went back to a checkpoint",
    }
    told = [f"{summary[key]} {what}" for key, what in exceptions.items() if summary.get(key)]
    return f"{steps:,} steps are those of the order of seed and epoch: {'; but '.join([whole, *told])}"
