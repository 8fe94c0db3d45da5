"""Show what a network makes of arrays in files: a line a row, or a file of all outputs.

Knows nothing of how that is found.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlwp.errors import ConfigError


def predict(predictor: Any, own: Mapping[str, str], named: Sequence[str]) -> int:
    """Predict each file of arrays; return the exit status.

    Args:
        predictor: an `ArrayPredictor`. own: the command's keys. named: files.

    Raises:
        ConfigError: no file is given, or a key does not fit. DataError: a file is no array of such rows.
    """
    import numpy
    import torch

    from dlwp.data.arrays import read_inputs
    from dlwp.runs import files

    if not named:
        raise ConfigError("no file is given. dlwp-predict checkpoint=RUN X.npy, or a .npz or .safetensors")
    outputs = [predictor(read_inputs(name)) for name in named]
    output = Path(own["output"]).expanduser() if own["output"] else None
    if output is not None and output.suffix == ".npy":
        data = io.BytesIO()
        numpy.save(data, torch.cat(outputs).numpy())
        files.write_atomic(output, data.getvalue())
        return 0
    rows = [
        {"file": name, "row": number, **_told(values, predictor.classes)}
        for name, found in zip(named, outputs, strict=True)
        for number, values in enumerate(found.flatten(1).tolist())
    ]
    text = json.dumps(rows, indent=1) + "\n" if own["format"] == "json" else _table(rows)
    if output is not None:
        files.write_atomic(output, text)
    else:
        sys.stdout.write(text)
    return 0


def _told(values: list[float], classes: list[str] | None) -> dict[str, Any]:
    if classes is None:
        return {f"output{number}": value for number, value in enumerate(values)}
    best = max(range(len(values)), key=values.__getitem__)
    return {"label": classes[best], "index": best, "probability": round(values[best], 6)}


def _table(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
