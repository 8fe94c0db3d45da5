"""Own the proof that each sample was used once: a hash chained over the sample indices of every step.

Knows nothing of what the samples are. The chain after a step is SHA-256 of the chain before it and the indices of the
step's batch (int64, little endian), as the loader really gave them; `check` computes it anew from the order that a run
of this seed must have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dlwp.data.resident import Order
from dlwp.errors import DataError


def link(chain: str, indices: Tensor) -> str:
    """Return the chain after a step.

    Args:
        chain: before it, hexadecimal, "" at the start.
        indices: of the batch's samples, int64 (B,), on the host.
    """
    return hashlib.sha256(bytes.fromhex(chain) + indices.numpy().tobytes()).hexdigest()


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
        The steps proven, the whole epochs among them, and the samples an epoch.

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
    for number in range(epochs):
        used = torch.cat([order.batch(number, position) for position in range(len(order))])
        if len(used.unique()) != len(used) or len(used) != order.num_samples:
            raise DataError(f"epoch {number + 1} does not use each sample once")
    return step, epochs, order.num_samples
