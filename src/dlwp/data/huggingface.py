"""Own data sets of Hugging Face's `datasets` that lie on the disk: their splits, and what their columns become.

Knows nothing of models, and fetches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dlwp.data.datasets import Facts, Splits
from dlwp.errors import ConfigError, DataError, MachineError, did_you_mean
from dlwp.nested import TARGETS

_SPLITS = {"train": ("train", "training"), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}
_PICTURES = ("image", "img", "picture")
_SUFFIXES = (".parquet", ".arrow")


def huggingface(
    path: str, input: str = "auto", target: str | None = "auto", image_size: int | None = None, columns: Any = None
) -> Splits:
    """Return a data set that `datasets` wrote (save_to_disk), or a folder of .parquet or .arrow files.

    A picture, or one column of numbers, and a label make pairs (input, target); else a sample is a dictionary of its
    columns, for models with a step or of several inputs.

    Args:
        path: the folder, or one file. Files are of the split that their name begins with, else of train.
        input: the column of inputs; "auto": that of pictures, else the only one of numbers.
        target: the column of targets; "auto": that of class labels, else one called label or target; None: none.
        image_size: height and width that pictures are scaled to; None: as they are.
        columns: those that dictionaries hold, as a list; None: all.

    Raises:
        MachineError: `datasets` is not installed. DataError: there is no such data set. ConfigError: no such column.
    """
    found = _by_split(_loaded(Path(path).expanduser()))
    features = found["train"].features
    for key, name in (("input", input), ("target", target), *(("columns", name) for name in columns or ())):
        if name not in (None, "auto") and name not in features:
            near = did_you_mean(str(name), features)
            raise ConfigError(f"data.{key}={name}: there is no such column.{near} Columns: {', '.join(features)}")
    of_target = _target(features) if target == "auto" else target
    of_input = (_input(features, of_target) if columns is None else None) if input == "auto" else input
    facts = Facts()
    names = getattr(features.get(of_target), "names", None) if of_target else None
    if names is not None:
        facts.task, facts.classes = "classification", list(map(str, names))
    kept = [of_input] if of_input is not None else list(columns or features)
    splits = {name: Rows(part, kept, of_target, of_input, image_size) for name, part in found.items()}
    told = f"pairs ({of_input}, {of_target})" if of_input is not None else f"dictionaries of {', '.join(kept)}"
    return Splits(splits["train"], splits.get("val"), splits.get("test"), facts, [f"read from {path}: {told}"])


def _loaded(path: Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise MachineError("data=huggingface needs the package datasets: pip install 'dlwp[hf]'") from None
    if not path.exists():
        raise DataError(
            f"no folder '{path}' (data.path). What is on the hub: datasets.load_dataset(...).save_to_disk(DIR)"
        )
    datasets.disable_progress_bars()
    if path.is_dir() and ((path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists()):
        try:
            return datasets.load_from_disk(str(path))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"'{path}' is damaged ({' '.join(str(error).split())[:200]})") from None
    files = [path] if path.is_file() else [file for suffix in _SUFFIXES for file in sorted(path.rglob(f"*{suffix}"))]
    files = [file for file in files if file.suffix in _SUFFIXES]
    if not files:
        raise DataError(
            f"'{path}' (data.path) is no data set that was saved to disk, and holds no .parquet or .arrow file"
        )
    by_split: dict[str, list[Any]] = {}
    for file in files:
        name = next((one for one in _names() if file.stem.lower().startswith(one)), "train")
        by_split.setdefault(name, []).append(_read(datasets, file))
    return {name: datasets.concatenate_datasets(parts) for name, parts in by_split.items()}


def _names() -> list[str]:
    return [name for names in _SPLITS.values() for name in names]


def _read(datasets: Any, file: Path) -> Any:
    """Return a file as a data set; nothing is copied to a cache."""
    import pyarrow
    import pyarrow.parquet

    try:
        if file.suffix == ".arrow":
            return datasets.Dataset.from_file(str(file))
        table = pyarrow.parquet.read_table(str(file), memory_map=True)
        return datasets.Dataset(datasets.table.InMemoryTable(table), info=_info(datasets, table))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({' '.join(str(error).split())[:200]})") from None


def _info(datasets: Any, table: Any) -> Any:
    """Return what the file says of its columns: pictures and the names of classes stand in its metadata."""
    return datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(table.schema))


def _by_split(found: Any) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        return {"train": found}
    splits = {name: found[one] for name, known in _SPLITS.items() for one in known if one in found}
    if "train" not in splits:
        raise DataError(f"the data set has no split 'train'. It has: {', '.join(found)}")
    return splits


# ---- columns --------------------------------------------------------------------------------------------------------


def _target(features: Mapping[str, Any]) -> str | None:
    labels = [name for name, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    return next(iter([*labels, *(name for name in TARGETS if name in features)]), None)


def _input(features: Mapping[str, Any], target: str | None) -> str | None:
    """Return the column of inputs: that of pictures, else the only other one, if it is of numbers."""
    if target is None:
        return None
    pictures = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    if pictures:
        return pictures[0] if len(pictures) == 1 else next((name for name in _PICTURES if name in pictures), None)
    others = [name for name in features if name != target]
    return others[0] if len(others) == 1 and _is_numeric(features[others[0]]) else None


def _is_numeric(kind: Any) -> bool:
    while type(kind).__name__ in ("Sequence", "List", "LargeList"):
        kind = kind.feature
    dtype = str(getattr(kind, "dtype", ""))
    return dtype.startswith(("int", "uint", "float", "bool"))


class Rows(Dataset[Any]):
    """Rows of a data set, as pairs or dictionaries of tensors, numbers and texts.

    Args:
        rows: a `datasets.Dataset`. columns: those of a sample. target: its target.
        input: the column of inputs where samples are pairs; None: they are dictionaries.
        image_size: that pictures are scaled to; None: as they are.

    Attributes:
        targets: all of them, where they are numbers and of pairs or dictionaries with a known target.
    """

    def __init__(self, rows: Any, columns: list[str], target: str | None, input: str | None, image_size: Any) -> None:
        self._input, self._target, self._image_size = input, target, image_size
        wanted = list(dict.fromkeys([*columns, *([target] if target is not None else [])]))
        self._rows = rows.select_columns(wanted).with_format(None)
        if target is not None and _is_numeric(rows.features[target]) and hasattr(rows.features[target], "dtype"):
            self.targets = list(rows[target][:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        row = self._rows[int(index)]
        if self._input is None:
            return {name: self._value(value) for name, value in row.items()}
        inputs = self._value(row[self._input])
        return inputs if self._target is None else (inputs, self._value(row[self._target]))

    def _value(self, value: Any) -> Any:
        if hasattr(value, "getexif"):  # a picture of Pillow's
            return _pixels(value, self._image_size)
        if isinstance(value, list):
            array = numpy.asarray(value)
            return torch.from_numpy(array.astype(numpy.float32) if array.dtype.kind == "f" else array)
        return torch.tensor(value, dtype=torch.float32) if isinstance(value, float) else value


def _pixels(picture: Any, image_size: int | None) -> Tensor:
    """Return a picture as uint8 (C, H, W): grey ones of one channel, all others as RGB."""
    picture = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
    if image_size is not None:
        from PIL.Image import Resampling

        picture = picture.resize((image_size, image_size), Resampling.BILINEAR)
    array = numpy.array(picture)
    return torch.from_numpy(array[None] if array.ndim == 2 else array).permute(
        *((0, 1, 2) if array.ndim == 2 else (2, 0, 1))
    )
