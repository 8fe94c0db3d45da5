"""Own what an evaluation of several labels a sample keeps and tells: average precision, precision, recall and F1.

Knows nothing of runs or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlwp.metrics import average_precision


class LabelCollector:
    """Keep the logits and the labels of each sample, on the host: 5 bytes a label."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []

    def add(self, outputs: Tensor, targets: Tensor, indices: Tensor) -> bool:
        """Add a batch of logits and labels (B, K); return False where it is none."""
        if outputs.dim() != 2 or outputs.shape != targets.shape:
            return False
        self._kept.append((outputs.float().cpu(), (targets > 0.5).cpu()))
        return True

    def finish(self) -> tuple[Tensor, Tensor]:
        """Return logits (N, K) and labels, bool (N, K)."""
        logits, labels = zip(*self._kept)
        return torch.cat(logits), torch.cat(labels)


def by_class(logits: Tensor, labels: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return average precision of each label, with precision, recall and F1 where its probability is above 0.5."""
    found = []
    for index, name in enumerate(names):
        chosen, true = logits[:, index] > 0, labels[:, index]
        right, predicted, total = (int(one.sum()) for one in (chosen & true, chosen, true))
        value = average_precision(logits[:, index], true)
        found.append({
            "class": name, "index": index, "samples": total, "predicted": predicted,
            "average_precision": None if value != value else value,
            "precision": right / predicted if predicted else None, "recall": right / total if total else None,
            "f1": 2 * right / (predicted + total) if predicted + total else None,
        })  # fmt: skip
    return found
