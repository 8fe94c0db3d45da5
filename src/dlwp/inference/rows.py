"""Own the way from rows of a table to predictions: raw columns in, classes or numbers in the target's unit out.

Knows nothing of configs, command lines or how results are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlwp.data import delimited, rowcode
from dlwp.data.datasets import Facts
from dlwp.errors import DataError, did_you_mean
from dlwp.inference.networks import Network

_BATCH = 4096


@dataclass
class RowsPredicted:
    """What was found of the rows of a table.

    Attributes:
        titles: of the columns of `rows`: "TARGET", and "probability" where there are classes.
        rows: for each row a class and its probability, or a number for each target.
        probabilities: (N, K) of classes, else None. notes: what a person should know of the rows.
        table: the columns as they stood in the file.
    """

    titles: list[str]
    rows: list[list[Any]]
    probabilities: Tensor | None
    notes: list[str]
    table: delimited.Read = field(repr=False)


class RowPredictor:
    """Say what the target of rows is.

    Args:
        model: gives outputs (B, K) of inputs (B, D + C).
        facts: of the data that it was trained on; its encoding says how raw rows become inputs.
        device: where it runs. name: for a person.

    Example:
        >>> import dlwp
        >>> predictor = dlwp.load("outputs/latest")  # doctest: +SKIP
        >>> predictor([{"age": 39, "workclass": "State-gov", "sex": "Male"}])  # doctest: +SKIP
        [{'income': '<=50K', 'probability': 0.93}]
    """

    def __init__(self, model: nn.Module, facts: Facts, device: torch.device | str = "cpu", *, name: str = "model"):
        self.device = torch.device(device)
        self.facts, self.name = facts, name
        self.code: dict[str, Any] = facts.encoding or {}
        self.targets = list(facts.target_names or self.code["targets"])
        self.classes = facts.classes or [str(number) for number in range(facts.num_classes or 0)]
        self.model = model.to(self.device).eval()

    def __call__(self, rows: Any) -> list[dict[str, Any]]:
        """Return a dictionary for each row: the target's name and what it is predicted to be, and the probability.

        Args:
            rows: a path, or dictionaries of columns; None and NaN are missing values.

        Raises:
            DataError: a column is missing, or a value is not of its kind.
        """
        found = self.predict(rows)
        return [dict(zip(found.titles, row, strict=True)) for row in found.rows]

    def predict(self, rows: str | Path | Sequence[Mapping[str, Any]]) -> RowsPredicted:
        """Return what is predicted of the rows of a file, or of dictionaries; see `__call__`."""
        of = str(rows) if isinstance(rows, str | Path) else "the rows"
        table = self._read(rows)
        columns = rowcode.used(self.code)
        for name in columns:
            if name not in table.columns:
                raise DataError(
                    f"{of} {'has' if of == str(rows) else 'have'} no column '{name}', which {self.name} needs."
                    f"{did_you_mean(name, [one for one in table.columns if one not in columns])}"
                )
        inputs, unknown = rowcode.encode(table.columns, self.code, table.num_rows, self.code["dtype"], of)
        notes = [
            f"{sum(texts.values()):,} rows have a '{name}' that was not trained on, such as '{next(iter(texts))}': "
            "taken as unknown"
            for name, texts in unknown.items()
        ]
        outputs = self.outputs(torch.from_numpy(inputs))
        if self.facts.task == "classification":
            return self._classified(outputs, notes, table)
        for scale, mean in [(self.facts.target_std, self.facts.target_mean)] if self.facts.target_std else []:
            outputs = outputs * torch.tensor(scale) + torch.tensor(mean)
        return RowsPredicted(self.targets, outputs.reshape(len(outputs), -1).tolist(), None, notes, table)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return what the model gives of inputs (N, D + C): float64 (N, K), on the host."""
        dtype = next(self.model.parameters()).dtype
        with torch.inference_mode():
            parts = [self.model(part.to(self.device, dtype)).double().cpu() for part in inputs.split(_BATCH)]
        return torch.cat(parts)

    def _classified(self, outputs: Tensor, notes: list[str], table: delimited.Read) -> RowsPredicted:
        chances = outputs.softmax(1)
        best = chances.max(1)
        rows = [[self.classes[at], chance] for at, chance in zip(best.indices.tolist(), best.values.tolist())]
        return RowsPredicted([self.targets[0], "probability"], rows, chances, notes, table)

    def _read(self, rows: Any) -> delimited.Read:
        if isinstance(rows, str | Path):
            return delimited.read(rows, self.code["form"], "rows")
        rows = [rows] if isinstance(rows, Mapping) else list(rows)
        if not rows:
            raise DataError("there is no row to predict")
        names = dict.fromkeys(name for row in rows for name in row)
        cells = {name: [_text(row.get(name)) for row in rows] for name in names}
        return delimited.Read({n: delimited.texts(c, len(rows)) for n, c in cells.items()}, len(rows), {}, "rows")


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def of_network(network: Network, device: torch.device) -> RowPredictor:
    """Return the predictor of a network that was trained on a table."""
    return RowPredictor(network.model, network.facts, device, name=network.name)
