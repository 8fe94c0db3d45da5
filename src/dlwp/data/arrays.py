"""Own arrays in files as a data set: .npy, .npz and .safetensors, whatever their names and shapes.

Knows nothing of models. Nothing in a file is run: arrays of Python objects are refused.
"""

from __future__ import annotations

import functools
import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from dlwp import tensor_file
from dlwp.data.datasets import ArrayDataset, Facts, Splits
from dlwp.data.mapped import MappedDataset, MappedRows
from dlwp.data.pictures import unreadable
from dlwp.errors import ConfigError, DataError, did_you_mean, nearest

_LARGE_BYTES = 2**30
"""An array of more bytes is mapped, not read."""
_CHUNK_BYTES = 2**26
_WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test",)}
_STEMS = {
    "inputs": ("x", "inputs", "input", "data", "images", "image", "features", "arr_0"),
    "targets": ("y", "targets", "target", "labels", "label", "arr_1"),
}
"""What arrays are called by custom, alone or with the word of a split: x_train, train_images."""


def arrays(
    path: str | None = None,
    inputs: str = "auto",
    targets: str | None = "auto",
    val_inputs: str = "auto",
    val_targets: str = "auto",
    test_inputs: str = "auto",
    test_targets: str = "auto",
    layout: str = "auto",
    on_nan: str = "error",
) -> Splits:
    """Return arrays (N, ...) of inputs and targets (N, ...) as a data set; large ones memory-mapped.

    Args:
        path: a file that holds them by name (.npz, .safetensors), or a folder of .npy files; None: each is a file.
        inputs, targets: a name in `path`, or a file of its own; "auto": what they are called by custom; None: no
            targets, for models that need none.
        val_inputs, val_targets, test_inputs, test_targets: alike, of the other splits; "auto": where there are such.
        layout: of four axes: "channels_first" (N, C, H, W), "channels_last" (N, H, W, C), "auto" by their sizes.
        on_nan: of samples that hold NaN or infinities: "error", or "drop", which leaves them out.

    Raises:
        DataError: a file or name is not there, of Python objects, of another length, or holds no numbers.
        ConfigError: a key is wrong.
    """
    for key, value, choices in (("layout", layout, _LAYOUTS), ("on_nan", on_nan, ("error", "drop"))):
        if value not in choices:
            raise ConfigError(f"data.{key} must be {', '.join(choices)}, got {value!r}.{did_you_mean(value, choices)}")
    held = _contents(Path(path).expanduser()) if path is not None else {}
    wanted = {
        "train": (inputs, targets), "val": (val_inputs, val_targets), "test": (test_inputs, test_targets)
    }  # fmt: skip
    notes: list[str] = []
    found: dict[str, ArrayDataset] = {}
    classes: list[str] = []
    facts = Facts()
    is_picture = False
    for split, (one, other) in wanted.items():
        first = _find(held, path, split, "inputs", one)
        if first is None:
            continue
        second = None if targets is None else _find(held, path, split, "targets", other, first)
        made = _Rows(first, layout)
        is_picture = made.is_picture
        labels, names = _targets(second, len(made))
        if names is not None and split == "train":
            classes = names
        labels = labels if names is None else _renumbered(labels, names, classes, second)
        found[split] = _kept(made, labels, second, on_nan, notes)
        notes.append(f"{split}: {made.told}{'' if second is None else f', targets {second.told}'}")
    if targets is None:
        facts.task = "reconstruction"
    if classes:
        facts.task, facts.classes = "classification", classes
    if not is_picture:
        facts.encoding = {"kind": "arrays"}
    return Splits(found["train"], found.get("val"), found.get("test"), facts, notes)


def read_inputs(path: str) -> Tensor:
    """Return the inputs (N, ...) in a file: its only array, else that which is called so by custom.

    Raises:
        DataError: there is none, or it is not known which it is.
    """
    held = _contents(Path(path).expanduser())
    array = next(iter(held.values())) if len(held) == 1 else _find(held, path, "train", "inputs", "auto")
    assert array is not None
    if not array.shape:
        raise DataError(f"{path}: '{array.name}' is a single number; inputs are (N, ...)")
    return _as_tensor(array.read(), array)


# ---- files ----------------------------------------------------------------------------------------------------------


@dataclass
class _Array:
    """An array in a file; `offset` is where its numbers begin, None where it can only be read whole."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], Any] = field(repr=False)
    offset: int | None = None

    @property
    def told(self) -> str:
        """Name, type and shape, for the summary."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.name} {dtype} {tuple(self.shape)}"


def _contents(path: Path) -> dict[str, _Array]:
    """Return the arrays of a file or a folder by name."""
    try:
        if path.is_dir():
            files = sorted(path.glob("*.npy"))
            if not files:
                raise DataError(f"'{path}' (data.path) holds no .npy file")
            return {file.stem: _npy(file) for file in files}
        if not path.exists():
            siblings = [one.name for one in path.parent.iterdir() if one.exists()] if path.parent.is_dir() else []
            near = nearest(path.name, siblings, 1)
            hint = f" Near it: '{path.parent / near[0]}'" if near else ""
            raise DataError(f"no file '{path}' (data.path).{hint}")
        kinds: dict[str, Callable[[Path], dict[str, _Array]]] = {
            ".npy": _alone, ".npz": _npz, ".safetensors": _safetensors
        }  # fmt: skip
        if path.suffix not in kinds:
            raise DataError(f"'{path}' is none of {', '.join(kinds)} (data.path)")
        return kinds[path.suffix](path)
    except PermissionError:
        raise unreadable(path) from None
    except IsADirectoryError as error:
        raise DataError(f"'{error.filename}' is a folder; a file is needed") from None


def _alone(file: Path) -> dict[str, _Array]:
    return {file.stem: _npy(file)}


def _npy(file: Path) -> _Array:
    try:
        with file.open("rb") as opened:
            version = numpy.lib.format.read_magic(opened)
            read_header = {
                (1, 0): numpy.lib.format.read_array_header_1_0, (2, 0): numpy.lib.format.read_array_header_2_0
            }[version]  # fmt: skip
            shape, is_fortran, dtype = read_header(opened)
            offset = opened.tell()
    except (ValueError, KeyError, EOFError) as error:
        raise DataError(f"{file} is no .npy file, or damaged ({str(error).splitlines()[0]})") from None
    _refuse_objects(file, file.stem, dtype)
    needed = offset + math.prod(shape) * dtype.itemsize
    if file.stat().st_size < needed:
        raise DataError(f"{file} is cut off: it has {file.stat().st_size:,} bytes, {needed:,} are needed")
    plain = not is_fortran and dtype.isnative and math.prod(shape) > 0
    return _Array(
        file, file.name, shape, dtype, lambda: numpy.load(file, allow_pickle=False), offset if plain else None
    )


def _npz(file: Path) -> dict[str, _Array]:
    if not zipfile.is_zipfile(file):  # numpy takes it for a pickle, and advises to load that
        raise DataError(f"{file} is no .npz file, or damaged (it is no archive)")
    try:
        with numpy.load(file, allow_pickle=False) as opened, zipfile.ZipFile(file) as members:
            found = {}
            for name in opened.files:
                with members.open(f"{name}.npy") as member:
                    version = numpy.lib.format.read_magic(member)
                    read = numpy.lib.format.read_array_header_1_0
                    shape, _, dtype = (numpy.lib.format.read_array_header_2_0 if version == (2, 0) else read)(member)
                _refuse_objects(file, name, dtype)
                found[name] = _Array(file, name, shape, dtype, functools.partial(_of_npz, file, name))
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{file} is no .npz file, or damaged ({str(error).splitlines()[0]})") from None
    return found


def _of_npz(file: Path, name: str) -> Any:
    try:
        with numpy.load(file, allow_pickle=False) as opened:
            return opened[name]
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise DataError(f"{file}: '{name}' is damaged ({str(error).splitlines()[0]})") from None


def _safetensors(file: Path) -> dict[str, _Array]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):  # it checks the whole header
            pass
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(size))
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{file} is no .safetensors file, or damaged ({str(error).splitlines()[0]})") from None
    types = {name: dtype for dtype, name in tensor_file.NAMES.items()}
    found = {}
    for name, one in header.items():
        if name != "__metadata__":
            if one["dtype"] not in types:
                raise DataError(f"{file}: '{name}' is {one['dtype']}, which is not read here")
            found[name] = _tensor(file, name, one["shape"], types[one["dtype"]], 8 + size + one["data_offsets"][0])
    return found


def _tensor(file: Path, name: str, shape: list[int], dtype: torch.dtype, offset: int) -> _Array:
    def read() -> Tensor:
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            return opened.get_tensor(name)

    return _Array(file, name, tuple(shape), dtype, read, offset if math.prod(shape) else None)


def _refuse_objects(file: Path, name: str, dtype: Any) -> None:
    if dtype.hasobject:
        raise DataError(f"{file}: '{name}' holds Python objects, which are never unpickled. Save it as numbers")


def _find(
    held: dict[str, _Array], path: str | None, split: str, what: str, wanted: str | None, beside: _Array | None = None
) -> _Array | None:
    """Return the inputs or targets of a split: as named, else as they are called by custom.

    Args:
        beside: the inputs, for which the targets are looked for: then there must be some.
    """
    key = f"data.{what}" if split == "train" else f"data.{split}_{what}"
    if wanted is None:
        return None
    if wanted != "auto":
        found = held.get(wanted) or _own_file(wanted, path)
        if found is None:
            there = f"{path} holds: {', '.join(held)}" if held else "No file of this name either"
            raise DataError(f"{key}={wanted}: there is no such array.{did_you_mean(wanted, held)} {there}")
        return found
    lowered = {name.lower(): name for name in held}
    names = [
        form for stem in _STEMS[what] for word in _WORDS[split]
        for form in (f"{stem}_{word}", f"{word}_{stem}", f"{stem}{word}", f"{word}{stem}")
    ]  # fmt: skip
    names += _STEMS[what] if split == "train" else ()
    for name in names:
        if name in lowered and held[lowered[name]] is not beside:
            return held[lowered[name]]
    if split == "train" or beside is not None:
        if path is None:
            raise ConfigError(f"{key} is not given. data.path=FILE, or {key}=FILE.npy")
        way_out = ", or data.targets=null where there are none" if what == "targets" else ""
        raise DataError(f"which array of {path} are the {what}? It holds: {', '.join(held)}. {key}=NAME{way_out}")
    return None


def _own_file(wanted: str, path: str | None) -> _Array | None:
    for file in (Path(wanted).expanduser(), *([Path(path).expanduser() / wanted] if path else [])):
        if file.suffix in (".npy", ".npz", ".safetensors") and file.exists():
            inside = _contents(file)
            if len(inside) > 1:
                raise DataError(f"'{file}' holds several arrays: {', '.join(inside)}. data.path={file}")
            return next(iter(inside.values()))
    return None


# ---- numbers --------------------------------------------------------------------------------------------------------

_LAYOUTS = ("auto", "channels_first", "channels_last")


class _Rows:
    """The inputs of a split: in memory, or mapped where they are many bytes.

    Attributes:
        told: what they are, for the summary. is_picture: whether they are taken for pictures.
    """

    def __init__(self, array: _Array, layout: str) -> None:
        self.array = array
        if not array.shape:
            raise DataError(f"{array.file}: '{array.name}' is a single number; inputs are (N, ...)")
        dtype = _type_of(array)
        self.told, self.is_picture = f"inputs {array.told}", False
        order, shape = self._layout(array.shape, layout, dtype)
        nbytes = math.prod(array.shape) * dtype.itemsize
        self.mapped = None
        plain = dtype == torch.uint8 or dtype.is_floating_point or dtype in (torch.int64, torch.int32)
        if nbytes > _LARGE_BYTES and array.offset is not None and plain:
            self.mapped = MappedRows(array.file, array.offset, dtype, shape, order)
            self.told += f", memory-mapped ({nbytes / 2**30:.1f} GiB)"
            return
        values = _as_tensor(array.read(), array).reshape(shape)
        if not (values.dtype == torch.uint8 or values.is_floating_point()):
            values = values.float() if values.dtype == torch.bool else values.long()
        self.values = values if order is None else values.permute(*order)

    def _layout(self, shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Any:
        """Return the order of the axes, and the shape before that."""
        few = (1, 3, 4)
        if len(shape) == 3 and dtype == torch.uint8 and min(shape[1:]) > 4:
            self.told, self.is_picture = f"{self.told}: grey pictures", True
            return None, (shape[0], 1, *shape[1:])
        if len(shape) != 4:
            if layout != "auto":
                raise ConfigError(f"data.layout={layout} is for inputs of four axes, '{self.array.name}' is {shape}")
            return None, shape
        is_last = layout == "channels_last" or (layout == "auto" and shape[3] in few and shape[1] not in few)
        self.is_picture = True
        guess = ", by its sizes (data.layout)" if layout == "auto" else ""
        self.told += f": pictures {'(N, H, W, C)' if is_last else '(N, C, H, W)'}{guess}"
        return (0, 3, 1, 2) if is_last else None, shape

    def __len__(self) -> int:
        return self.array.shape[0]

    def rows(self, indices: Tensor) -> Tensor:
        """Return some of them."""
        return self.mapped.rows(indices) if self.mapped is not None else self.values.index_select(0, indices)


def _type_of(array: _Array) -> torch.dtype:
    if isinstance(array.dtype, torch.dtype):
        dtype = array.dtype
    else:
        kind = array.dtype.kind
        if kind not in "biuf" or array.dtype.itemsize > 8:
            raise DataError(f"{array.file}: '{array.name}' is {array.dtype}; numbers are needed")
        dtype = getattr(torch, "bool" if kind == "b" else array.dtype.newbyteorder("=").name)
    if dtype.is_complex:
        raise DataError(f"{array.file}: '{array.name}' is {dtype}; real numbers are needed")
    return dtype


def _as_tensor(values: Any, array: _Array) -> Tensor:
    if isinstance(values, Tensor):
        return values
    _type_of(array)
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(numpy.ascontiguousarray(native))


def _targets(array: _Array | None, count: int) -> tuple[Tensor, list[str] | None]:
    """Return targets (N, ...) as int64 or floats, and the names of the classes where they are words."""
    if array is None:
        return torch.zeros(count), None
    if not array.shape:
        raise DataError(f"{array.file}: '{array.name}' is a single number; targets are (N, ...)")
    if array.shape[0] != count:
        raise DataError(f"{array.file}: inputs hold {count:,} samples but targets '{array.name}' {array.shape[0]:,}")
    values = array.read()
    if not isinstance(values, Tensor) and values.dtype.kind in "US":
        names, labels = numpy.unique(values.reshape(-1).astype(str), return_inverse=True)
        return torch.from_numpy(labels.astype(numpy.int64)), names.tolist()
    tensor = _as_tensor(values, array)
    tensor = tensor if tensor.is_floating_point() else tensor.long()
    is_column = tensor.dim() == 2 and tensor.shape[1] == 1 and not tensor.is_floating_point()
    return (tensor.squeeze(1) if is_column else tensor), None


def _renumbered(labels: Tensor, names: list[str], classes: list[str], array: _Array | None) -> Tensor:
    """Return labels by the classes of train."""
    unknown = [name for name in names if name not in classes]
    if unknown:
        assert array is not None
        raise DataError(f"{array.name} has class '{unknown[0]}', train does not (train: {', '.join(classes[:10])})")
    return torch.tensor([classes.index(name) for name in names])[labels]


def _kept(made: _Rows, labels: Tensor, targets: _Array | None, on_nan: str, notes: list[str]) -> ArrayDataset:
    """Return the data set of a split, after a look at every number in it."""
    wrong = ~_finite(labels)
    source = targets if targets is not None and bool(wrong.any()) else made.array
    at = source.name
    if made.mapped is not None or made.values.is_floating_point():
        chunk = max(1, _CHUNK_BYTES // max(1, made.rows(torch.arange(min(1, len(made)))).nbytes))
        for indices in torch.arange(len(made)).split(chunk):
            wrong[indices] |= ~_finite(made.rows(indices))
    count = int(wrong.sum())
    if count and on_nan == "error":
        first = int(wrong.nonzero()[0])
        text = (
            f"{source.file}: {count:,} of {len(made):,} samples of '{at}' hold NaN or infinities, first sample {first}"
        )
        raise DataError(f"{text}. data.on_nan=drop")
    everything: ArrayDataset
    if made.mapped is not None:
        everything = MappedDataset(made.mapped, torch.arange(len(made)), labels)
    else:
        everything = ArrayDataset(made.values, labels)
    if count:
        notes.append(f"left out {count:,} samples of '{at}' that hold NaN or infinities (data.on_nan=drop)")
        return everything.subset((~wrong).nonzero().flatten())
    return everything


def _finite(values: Tensor) -> Tensor:
    """Return which rows hold finite numbers alone, (N,)."""
    if not values.is_floating_point():
        return torch.ones(len(values), dtype=torch.bool)
    return values.reshape(len(values), -1).isfinite().all(1)
