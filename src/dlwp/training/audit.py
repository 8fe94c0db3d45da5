"""Own what is noted of the samples used: a hash chained over the sample indices of every step.

Knows nothing of what the samples are. The chain after a step is SHA-256 of the chain before it and the indices of the
step's batch (int64, little endian), as the loader really gave them; `dlwp.auditing` computes it anew from the order
that a run of this seed must have.
"""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

_MOST_NOTED = 1024  # steps


class Chain:
    """The chain over all steps so far. A step's indices are only noted, and hashed when the chain is read."""

    def __init__(self) -> None:
        self._text = ""
        self._noted: list[Tensor] = []

    def add(self, indices: Tensor) -> None:
        """Note the indices of a step's samples, int64 (B,), on the host."""
        self._noted.append(indices)
        if len(self._noted) > _MOST_NOTED:
            self.read()

    def read(self) -> str:
        """Return the chain, hexadecimal; "" before the first step."""
        for indices in self._noted:
            self._text = link(self._text, indices)
        self._noted.clear()
        return self._text

    def state_dict(self) -> dict[str, Any]:
        """Return the chain."""
        return {"chain": self.read()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._text, self._noted = bytes.fromhex(state["chain"]).hex(), []


def link(chain: str, indices: Tensor) -> str:
    """Return the chain after a step.

    Args:
        chain: before it, hexadecimal, "" at the start.
        indices: of the batch's samples, int64 (B,), on the host.
    """
    hashed = hashlib.sha256(bytes.fromhex(chain))
    hashed.update(indices.numpy().data)
    return hashed.hexdigest()
