"""Own the files that features are written to: .npz, .safetensors, and a folder for TensorBoard's projector.

Knows nothing of where features come from.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from dlwp.runs import files

_TILE, _MOST_TILES = 48, 1600  # a sprite is at most 40 x 40 pictures


def write(path: Path, names: Sequence[str], labels: Sequence[str], features: Tensor, pictures: Tensor | None) -> None:
    """Write features (N, D) of N sources.

    Args:
        path: a .npz, a .safetensors, or, without an ending, a folder.
        names: of the sources. labels: the likeliest class of each.
        pictures: uint8 (N, 3, H, W), which a folder's projector shows.
    """
    if path.suffix == ".npz":
        buffer = io.BytesIO()
        numpy.savez(buffer, features=features.numpy(), files=numpy.array(names), labels=numpy.array(labels))
        files.write_atomic(path, buffer.getvalue())
    elif path.suffix == ".safetensors":
        from safetensors.torch import save

        about = {"files": json.dumps(list(names)), "labels": json.dumps(list(labels))}
        files.write_atomic(path, save({"features": features.contiguous()}, about))
    else:
        _write_projector(path, names, labels, features, pictures)


def _write_projector(
    folder: Path, names: Sequence[str], labels: Sequence[str], features: Tensor, pictures: Tensor | None
) -> None:
    """Write what TensorBoard's projector reads: two tables, a picture of all pictures, and a text that names them."""
    files.make_folders(folder)
    rows = ["\t".join(f"{value:.6g}" for value in row) for row in features.tolist()]
    files.write_atomic(folder / "tensors.tsv", "\n".join(rows) + "\n")
    about = [f"{_field(name)}\t{_field(label)}" for name, label in zip(names, labels, strict=True)]
    files.write_atomic(folder / "metadata.tsv", "\n".join(["file\tlabel", *about]) + "\n")
    lines = ['tensor_name: "features"', 'tensor_path: "tensors.tsv"', 'metadata_path: "metadata.tsv"']
    if pictures is not None and len(pictures) <= _MOST_TILES:
        files.write_atomic(folder / "sprite.png", _sprite(pictures))
        lines.append(f'sprite {{ image_path: "sprite.png" single_image_dim: {_TILE} single_image_dim: {_TILE} }}')
    body = "\n".join(f"  {line}" for line in lines)
    files.write_atomic(folder / "projector_config.pbtxt", f"embeddings {{\n{body}\n}}\n")


def _field(text: str) -> str:
    return " ".join(text.split())


def _sprite(pictures: Tensor) -> bytes:
    from PIL import Image

    small: Any = torch.nn.functional.interpolate(pictures, (_TILE, _TILE), mode="bilinear", antialias=True)
    side = math.ceil(math.sqrt(len(small)))
    sheet = torch.full((side, side, 3, _TILE, _TILE), 255, dtype=torch.uint8)
    sheet.view(-1, 3, _TILE, _TILE)[: len(small)] = small
    pixels = sheet.permute(0, 3, 1, 4, 2).reshape(side * _TILE, side * _TILE, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    return buffer.getvalue()
