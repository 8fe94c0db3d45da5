"""Own what is shown of text while a model learns it: windows that it is given, and what it writes itself.

Knows nothing of where that is shown.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dlwp.data import sequence
from dlwp.models.transformer import continued

_WRITTEN = 300
"""Tokens of a sample: a moment's work, also on a host."""
_MOST_WINDOWS = 8


class Texts:
    """Make Markdown of windows, and of a sample of a model's own.

    Args:
        encoding: of the data (`Facts.encoding`). device: of the model.
    """

    def __init__(self, encoding: Mapping[str, Any], device: torch.device) -> None:
        self._encoding = encoding
        self._device = device
        self._begin = [0]

    def windows(self, inputs: Tensor) -> str:
        """Return a table of inputs (B, T): what each holds, ends of lines as ⏎. The first is gone on with later."""
        tokens = inputs[:_MOST_WINDOWS].tolist()
        self._begin = tokens[0]
        rows = [_cell("".join(sequence.decode(one, self._encoding))) for one in tokens]
        return "\n".join(["| | window |", "|---|---|", *(f"| {at} | `{text}` |" for at, text in enumerate(rows, 1))])

    def sample(self, model: nn.Module) -> str:
        """Return what a model writes behind a training window; it is left in its mode, and no generator is touched."""
        was_training = model.training
        model.eval()
        found = continued(
            model, self._begin, _WRITTEN, max_length=int(model.max_length), temperature=0.8,  # type: ignore[arg-type]
            device=self._device,
        )  # fmt: skip
        begin = itertools.islice(reversed(self._begin), 64)
        text = ["".join(sequence.decode(one, self._encoding)) for one in (list(begin)[::-1], found)]
        model.train(was_training)
        return f"after\n\n```\n{text[0]}\n```\n\nit writes\n\n```\n{text[1]}\n```"


def _cell(text: str) -> str:
    return text.replace("\n", "⏎").replace("|", "¦").replace("`", "'")
