"""Own the finding of facts: the task that the data poses, its shapes, classes and normalisation, and how each is known.

Knows nothing of models, or of what the facts are used for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, default_collate

from dlwp import nested, randomness
from dlwp.data.datasets import ArrayDataset, Facts, Splits, as_arrays, first_samples, is_iterable, size, targets_of
from dlwp.errors import ConfigError, DataError, DlwpError

_FEW = 2048
"""How many samples of a data set that must be read one by one are looked at."""


def find_facts(
    splits: Splits, *, task: str = "auto", classes: Any = None, mean: Any = None, std: Any = None, collate: Any = None
) -> None:
    """Fill `splits.facts` from keys, else from attributes of the data sets, else from samples; note each source.

    Data sets of two tensors become `ArrayDataset`s; in these, targets of a regression become float32 of shape (N, D).

    Args:
        splits: the facts that its maker set are kept unless a key says otherwise.
        task: one of the choices of `data.task`.
        classes: number of classes, or their names in the order of the indices; None finds them.
        mean, std: a number, one a channel, "auto" (from train), or None for no normalisation.
        collate: what makes a batch of a list of samples; None: torch's `default_collate`.

    Raises:
        DataError: a split is empty, a sample is none, or a label is out of range.
        ConfigError: a key does not fit the data.
    """
    for name, dataset in splits.present().items():
        setattr(splits, name, as_arrays(dataset))
        if not is_iterable(dataset) and size(dataset) == 0:
            raise DataError(f"{name} is empty (0 samples)")
    facts = splits.facts
    sample = splits.sample = first_sample(splits.train, collate)
    _find_task(facts, task, nested.target_of(sample))
    if facts.task == "regression":
        for dataset in splits.present().values():
            _make_columns(dataset)
        sample = splits.sample = first_sample(splits.train, collate)
    facts.input_shape, target = _shape(nested.inputs_of(sample)), nested.target_of(sample)
    facts.target_shape = facts.input_shape if facts.task == "reconstruction" else _shape(target)
    if isinstance(sample, Mapping | tuple | list) and (nested.is_named(sample) or not nested.is_pair(sample)):
        splits.notes.append(_of_many_parts(sample))
        if mean is not None or std is not None:
            raise ConfigError(f"data.mean and data.std are for pairs (input, target). {splits.notes[-1]}")
    if facts.task == "classification":
        _find_classes(splits, classes)
        assert facts.num_classes is not None
        check_labels(splits, facts.num_classes, f"there are {facts.num_classes} classes", "data.classes")
    _find_normalisation(splits, mean, std)


def first_sample(dataset: Dataset[Any], collate: Any = None) -> Any:
    """Return sample 0, after checking that batches can be made of its kind.

    Args:
        collate: the user's own, which takes anything; then the sample is as it stands in a batch that it makes.

    Raises:
        DataError: it is None, or holds what is neither tensor, array nor number.
    """
    sample = _read(dataset, 0)
    if collate is not None and sample is not None:
        with randomness.preserved():
            return nested.each(collate([sample]), _first)
    check_sample(sample, 0, dataset)
    return sample


def _read(dataset: Dataset[Any], index: int) -> Any:
    try:
        if is_iterable(dataset):
            found = first_samples(dataset, 1)
            if not found:
                raise DataError(f"{name_of(dataset)} yields nothing: its __iter__ gives no sample")
            return found[0]
        with randomness.preserved():
            randomness.seed_sample(0, 0, index)  # else samples that are drawn would all be the same one
            return dataset[index]
    except Exception as error:  # any error: the data set is the user's own
        told = explained(error, index, dataset)
        if told is error:
            raise
        raise told from error


def check_sample(sample: Any, index: int, dataset: Dataset[Any], collate: Any = None) -> None:
    """Raise DataError where no batch can be made of a sample; one's own `collate` may take anything but None."""
    where = f"sample {index} of {name_of(dataset)}"
    if sample is None:
        raise DataError(f"{where} is None; it must give (input, target)")
    if collate is not None:
        return
    if isinstance(sample, str | bytes):  # collated without a word
        raise DataError(f"{where} is a {type(sample).__name__}; it must give (input, target)")
    try:
        default_collate([sample])
    except TypeError:
        parts = sample.values() if isinstance(sample, Mapping) else sample
        parts = parts if isinstance(sample, tuple | list | Mapping) else (sample,)
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise DataError(
            f"{where} is ({kinds}); it must give (input, target), a tuple or a dictionary of tensors, arrays or numbers"
        ) from None


def name_of(dataset: Dataset[Any]) -> str:
    """Return the name of the class of a data set, of the whole for a subset."""
    return name_of(dataset.dataset) if isinstance(dataset, Subset) else type(dataset).__name__


def path_of(dataset: Dataset[Any], index: int) -> str | None:
    """Return the file of a sample where the data set lists them, as torchvision's do: `samples` of (path, class)."""
    if isinstance(dataset, Subset):
        return path_of(dataset.dataset, dataset.indices[index])
    for name in ("samples", "paths", "files"):
        entries = getattr(dataset, name, None)
        if isinstance(entries, Sequence) and not isinstance(entries, str) and 0 <= index < len(entries):
            entry = entries[index][0] if isinstance(entries[index], tuple | list) else entries[index]
            if isinstance(entry, str | os.PathLike):
                return str(entry)
    return None


def explained(error: Exception, index: int, dataset: Dataset[Any]) -> Exception:
    """Return what to raise where a sample was not read: `error`, or DataError for a bad file; both name the sample."""
    if isinstance(error, DlwpError):
        return error
    path = path_of(dataset, index)
    where = f"sample {index} of {name_of(dataset)}{f' ({path})' if path else ''}"
    if isinstance(error, OSError | SyntaxError) or type(error).__module__.startswith("PIL."):
        # Pillow raises SyntaxError for some broken PNG files
        return DataError(f"{where} cannot be read: {one_line(error)}. Remove or replace it, or data.on_error=skip")
    error.add_note(f"at {where}")
    return error


def one_line(error: Exception) -> str:
    """Return kind and text of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def _find_task(facts: Facts, key: str, target: Any) -> None:
    if key != "auto":
        facts.task, facts.sources["task"] = key, "data.task"
    elif facts.task != "other":
        facts.sources["task"] = "the data set"
    elif target is not None and not isinstance(target, dict | tuple | list | str):
        target = torch.as_tensor(target)
        if target.is_floating_point():
            facts.task = "regression"
        elif target.dim() == 0:
            facts.task = "classification"
        facts.sources["task"] = f"targets are {str(target.dtype).removeprefix('torch.')}"
    else:
        facts.sources["task"] = "samples have no target that is a number or a tensor"


def _of_many_parts(sample: Any) -> str:
    """Return what a sample that is no pair is made of, for the summary."""
    name = nested.target_name(sample)
    if name is None and not nested.is_named(sample) and nested.target_of(sample) is not None:
        name = "the last"
    told = f"target: {name}" if name else f"no target among them (known by the name {', '.join(nested.TARGETS)})"
    return f"a sample is {nested.described(sample)} · {told}"


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, Tensor) and value.dim() else value


def _make_columns(dataset: Dataset[Any]) -> None:
    """Make targets (N,) of a regression (N, 1): a model gives (N, 1), and a difference of both would be (N, N)."""
    if isinstance(dataset, ArrayDataset):
        dataset.targets = dataset.targets if dataset.targets.is_floating_point() else dataset.targets.float()
        dataset.targets = dataset.targets.unsqueeze(1) if dataset.targets.dim() == 1 else dataset.targets


# ---- classes --------------------------------------------------------------------------------------------------------


def _find_classes(splits: Splits, key: Any) -> None:
    facts = splits.facts
    if isinstance(key, bool) or not (key is None or isinstance(key, int | Sequence)) or isinstance(key, str):
        raise ConfigError(f"data.classes must be a number of classes or a list of their names, got {key!r}")
    if isinstance(key, int):
        facts.num_classes, facts.classes, facts.sources["num_classes"] = key, None, "data.classes"
    elif key is not None:
        facts.classes = [_class_name(number, name) for number, name in enumerate(key)]
        facts.num_classes, facts.sources["num_classes"] = len(facts.classes), "data.classes"
    elif facts.classes is not None or facts.num_classes is not None:
        facts.num_classes = facts.num_classes or len(facts.classes or ())
        facts.sources["num_classes"] = "the data set"
    elif (names := names_of_classes(splits.train)) is not None:
        facts.classes, facts.num_classes = names, len(names)
        facts.sources["num_classes"] = f"{name_of(splits.train)}.classes"
    else:
        _count_classes(splits)


def _class_name(number: int, name: Any) -> str:
    if isinstance(name, bool):
        raise ConfigError(f"data.classes[{number}] is the boolean {name}; write '{'yes' if name else 'no'}' in quotes")
    return str(name)


def names_of_classes(dataset: Dataset[Any]) -> list[str] | None:
    """Return the data set's attribute `classes`; None where it has none."""
    if isinstance(dataset, Subset):
        return names_of_classes(dataset.dataset)
    names = getattr(dataset, "classes", None)
    return [str(name) for name in names] if isinstance(names, Sequence) and not isinstance(names, str) else None


def _count_classes(splits: Splits) -> None:
    """Take the largest label as the last class: of targets that can be had at once, else of a small set's samples."""
    largest = -1
    for name, dataset in splits.present().items():
        found = targets_of(dataset)
        if found is not None:
            values, source = found
        elif is_iterable(dataset):
            found_targets = [nested.target_of(sample) for sample in first_samples(dataset, _FEW)]
            values = torch.stack(list(map(torch.as_tensor, found_targets)))
            source = f"the first {len(values):,} samples"
        elif size(dataset) <= _FEW:
            values, source = _read_targets(dataset), f"all {size(dataset):,} samples"
        elif name == "train":
            raise ConfigError(
                f"the number of classes of {name_of(dataset)} is not known without reading all {size(dataset):,}"
                " samples. Give data.classes=NUMBER, or the class an attribute 'classes' or 'targets'"
            )
        else:
            continue
        largest = max(largest, int(values.max()))
        if name == "train":
            splits.facts.sources["num_classes"] = f"largest label, from {source}"
    splits.facts.num_classes = largest + 1


def _read_targets(dataset: Dataset[Any]) -> Tensor:
    return torch.stack([torch.as_tensor(nested.target_of(_read(dataset, index))) for index in range(size(dataset))])


def check_labels(splits: Splits, num_classes: int, limit: str, key: str) -> None:
    """Check the labels of all splits whose targets can be had without reading the samples.

    Args:
        splits: of a classification.
        num_classes: labels must lie in [0, num_classes).
        limit: what sets the limit, as "the model has 3 outputs".
        key: the setting that would mend it.

    Raises:
        DataError: a label is out of range; it names split and sample.
    """
    for name, dataset in splits.present().items():
        found = targets_of(dataset)
        if found is None or found[0].is_floating_point() or found[0].dim() != 1:
            continue
        wrong = ((found[0] < 0) | (found[0] >= num_classes)).nonzero()
        if len(wrong):
            index = int(wrong[0])
            label, last = int(found[0][index]), int(found[0].max())
            way_out = f" {key}={last + 1}" if int(found[0].min()) >= 0 else " Labels count from 0"
            raise DataError(f"label {label} in {name} (sample {index}) but {limit} (0–{num_classes - 1}).{way_out}")


# ---- normalisation --------------------------------------------------------------------------------------------------


def _find_normalisation(splits: Splits, mean: Any, std: Any) -> None:
    facts = splits.facts
    kind = getattr(nested.inputs_of(splits.sample), "dtype", None)
    if "auto" in (mean, std) and isinstance(kind, torch.dtype) and not (kind == torch.uint8 or kind.is_floating_point):
        return  # whole numbers are names (of words, of categories)
    if mean is None and std is None:
        if facts.mean is not None:
            facts.sources["mean"] = "the data set"
        return
    if mean is None or std is None:
        raise ConfigError(
            f"data.{'std' if mean is None else 'mean'} is set without data.{'mean' if mean is None else 'std'}"
        )
    if "auto" in (mean, std):
        measured, source = measure(splits.train)
        mean, std = (measured[0] if mean == "auto" else mean), (measured[1] if std == "auto" else std)
    else:
        source = "data.mean, data.std"
    channels = facts.input_shape[0] if facts.input_shape else 1
    facts.mean = _per_channel("data.mean", mean, channels)
    facts.std = _per_channel("data.std", std, channels)
    facts.sources["mean"] = source
    if min(facts.std) <= 0:
        raise ConfigError(f"data.std must be above 0, got {std}")


def _per_channel(key: str, values: Any, channels: int) -> list[float]:
    try:
        listed = [float(value) for value in values] if isinstance(values, Sequence) else [float(values)]
    except (TypeError, ValueError):
        raise ConfigError(f"{key} must be a number, one number a channel, or auto, got {values!r}") from None
    if len(listed) not in (1, channels):
        raise ConfigError(f"{key} has {len(listed)} numbers but the data {channels} channels")
    return listed * (channels // len(listed))


def measure(dataset: Dataset[Any]) -> tuple[tuple[list[float], list[float]], str]:
    """Return (mean, standard deviation) per channel, and of what; a channel that never changes gets deviation 1."""
    if isinstance(dataset, ArrayDataset):
        chunks: Any = (dataset.batch(indices)[0] for indices in torch.arange(len(dataset)).split(256))
        source = "train"
    elif is_iterable(dataset):
        chunks = [_input_of(sample).unsqueeze(0) for sample in first_samples(dataset, _FEW)]
        source = f"the first {len(chunks):,} samples of train"
    else:
        indices = torch.linspace(0, size(dataset) - 1, min(size(dataset), _FEW)).long().tolist()
        chunks = [_input_of(_read(dataset, index)).unsqueeze(0) for index in indices]
        source = f"{len(indices):,} samples of train"
    total, squares, count = torch.zeros(1), torch.zeros(1), 0
    for chunk in chunks:
        values = chunk if chunk.dim() > 1 else chunk.unsqueeze(1)
        exact = values.float() if values.dtype == torch.uint8 else values.double()  # 256 · 255² is exact in fp32
        axes = list(range(1, values.dim() - 1))  # of a sum over samples, all but the channels
        sums = [part.sum(0) for part in (exact, exact.square())]
        total, squares = (
            old + (part.double().sum(axes) if axes else part.double())
            for old, part in zip((total, squares), sums, strict=True)
        )
        count += values.numel() // values.shape[1]
    scale = 255.0 if chunk.dtype == torch.uint8 else 1.0
    mean = total / count
    std = (squares / count - mean**2).clamp_min(0).sqrt()
    std = torch.where(std > 1e-12, std / scale, torch.ones_like(std))
    return ((mean / scale).tolist(), std.tolist()), source


def _input_of(sample: Any) -> Tensor:
    return torch.as_tensor(sample[0] if isinstance(sample, tuple | list) else sample)
