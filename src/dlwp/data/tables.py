"""Own tables as data sets: from a file to splits of inputs and targets, with all that was found out about it said.

Knows nothing of how a file is cut into columns, what a text means, or what learns from the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import torch

from dlwp.data import columns as meanings
from dlwp.data import delimited, rowcode, rowsplits
from dlwp.data.datasets import ArrayDataset, Facts, Splits
from dlwp.data.schema import Schema, read_schema
from dlwp.errors import ConfigError, DataError

_SHOWN = 4
_ROWS_SHOWN = 4
_FEW_CLASSES = 20
"""Whole numbers that are still taken for classes; and of more classes each is to have two rows on average."""


def table(
    path: str, target: Any = None, *, task: str = "auto", classes: Any = None, types: Any = None, columns: Any = None,
    exclude: Any = None, missing: Any = "auto", delimiter: Any = "auto", header: Any = "auto", encoding: str = "auto",
    decimal: str = "auto", schema: str | None = None, split: str = "auto", group: str | None = None,
    time: str | None = None, val_fraction: Any = "auto", test_fraction: float = 0.0, val_path: str | None = None,
    test_path: str | None = None, standardize: Any = "auto", drop_missing: bool = False, dtype: str = "auto",
    seed: int = 0,
) -> Splits:  # fmt: skip
    """Read a table with named columns: delimited text, or Parquet by its ending.

    Inputs (N, D + C): see `rowcode.fit`. Targets: class indices (N,), or numbers (N, T), standardised as train's.

    Args:
        path: the file. target: the column to be learned, or a list of columns of numbers. task: or auto.
        classes: their order, a list; None: by number, else by letters.
        types: column -> number, category, date or ignore, where that is not to be guessed.
        columns: those that are inputs, all others are not; None: all. exclude: those that are not.
        missing: texts that stand for a missing value. delimiter, header, encoding, decimal: of the file. schema: a file
            with these, as a dry run writes it.
        split: random, stratified, group (a group is whole in one split), time (the latest rows are val and test).
        group, time: columns of these. val_fraction, test_fraction: shares of the rows.
        val_path, test_path: files with the rows of these splits.
        standardize: whether numbers and targets are. drop_missing: whether rows with a missing value are left out.
        dtype: float32, float64. seed: of the run.

    Raises:
        DataError: a file or column is not there, or a value is not what it should be. ConfigError: a key does not fit.
    """
    asked = Schema(
        target=_listed(target, "data.target"), types=types or {}, missing=missing, delimiter=delimiter, header=header,
        encoding=encoding, decimal=decimal,
    )  # fmt: skip
    asked = asked if schema is None else asked.completed(read_schema(schema))
    standardize, dtype = _checked(standardize, dtype)
    whole = delimited.read(path, asked.form())
    found = _Table(path, whole, asked, standardize)
    found.choose(_listed(columns, "data.columns"), _listed(exclude, "data.exclude"), group, time)
    found.pose(task, classes)
    others = {name: other for name, other in (("val", val_path), ("test", test_path)) if other}
    files = {name: delimited.read(other, whole.form, f"data.{name}_path") for name, other in others.items()}
    fractions = rowsplits.fractions(val_fraction, test_fraction, others)
    kept = found.whole_rows(whole, path, drop_missing)
    parts, how = rowsplits.cut(
        kept, fractions, split, targets=found.codes(whole, path)[kept] if found.classes else None,
        group=found.column(whole, group, "data.group"), time=found.moments(time), seed=seed,
    )  # fmt: skip
    found.code = rowcode.fit(whole.columns, found.inputs, parts["train"], found.reading, standardize, path)
    found.code |= {"dtype": dtype, "group": group}
    found.measure(parts["train"])
    sets = {name: found.dataset(whole, rows, path, name, dtype) for name, rows in parts.items()}
    for name, other in files.items():
        rows = found.whole_rows(other, others[name], drop_missing)
        sets[name] = found.dataset(other, rows, others[name], name, dtype)
    found.warn_of_twins(sets, tuple(files))
    notes = [*found.notes(), *([how] if how else [])]
    shown = parts["train"][:_ROWS_SHOWN].tolist()
    samples = rowcode.sample_table(whole.columns, found.code, sets["train"].inputs.numpy(), shown)
    told = sets["train"], sets.get("val"), sets.get("test"), found.facts(), notes, found.warnings
    return Splits(*told, samples=samples, guesses=found.schema())


csv = parquet = table  # a config has the name of its function


class _Table:
    """What is known of a table while it is read; each method finds out one more thing."""

    def __init__(self, path: str, whole: delimited.Read, asked: Schema, standardize: bool) -> None:
        self.path, self.whole, self.standardize = path, whole, standardize
        names = list(whole.columns)
        if not asked.target:
            raise ConfigError(f"data.target is not given: which column is to be learned? {path} has {_some(names, 30)}")
        self.targets = asked.target
        for name in self.targets:
            self.column(whole, name, "data.target")
        self.kinds = meanings.check_kinds(asked.types, names, path)
        missing = (
            list(meanings.MISSING) if asked.missing == "auto" else [str(one) for one in _listed(asked.missing, "")]
        )
        decimal = asked.decimal
        if decimal == "auto":
            decimal = meanings.guess_decimal(whole.columns, missing, whole.form.get("delimiter"))
        elif decimal not in (".", ","):
            raise ConfigError(f"data.decimal must be '.' or ',', got {decimal!r}")
        self.reading: dict[str, Any] = {"missing": missing, "decimal": decimal}
        self.left_out = dict[str, str]()
        self.warnings: list[str] = []
        self.task, self.why = "", ""
        self.classes: list[str] | None = None
        self.code: dict[str, Any] = {}
        self.mean: list[float] | None = None
        self.std: list[float] | None = None
        self.remarks: list[str] = []

    def column(self, read: delimited.Read, name: str | None, key: str, of: str | None = None) -> Any:
        """Return a column, or what is wrong with the key that names it; None where none is named."""
        if name is not None and name not in read.columns:
            names = list(read.columns)
            raise DataError(
                f"{of or self.path} has no column '{name}' ({key})."
                f"{rowsplits.near(name, names)} Columns: {_some(names, 30)}"
            )
        return None if name is None else read.columns[name]

    # ---- which columns are what ---------------------------------------------------------------------------------

    def choose(self, columns: list[str], exclude: list[str], group: str | None, time: str | None) -> None:
        """Find out which columns are inputs, and of what kind."""
        for key, names in (("data.columns", columns), ("data.exclude", exclude), ("data.time", [time] if time else [])):
            for name in names:
                self.column(self.whole, name, key)
        inputs = dict[str, str]()
        for name, texts in self.whole.columns.items():
            if name in self.targets or name in exclude or (columns and name not in columns):
                continue
            kind, why = self.kinds.get(name), "data.types"
            if kind is None and name == group:
                kind, why = "ignore" if self.standardize else "category", "data.group"
            if kind is None:
                kind, why = meanings.guess(texts, **self.reading)
            if kind == "ignore":
                self.left_out[name] = why
            else:
                inputs[name] = kind
        counts = [name for name in inputs if self.standardize and name not in {*self.kinds, *columns}]
        counts = [name for name in counts if meanings.is_count(self.whole.columns[name], **self.reading)]
        for name in counts if len(counts) < len(inputs) else ():
            del inputs[name]
            self.left_out[name] = "counts the rows"
        self.inputs = inputs
        if not inputs:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
            raise DataError(f"{self.path} has no column to learn from ({why or 'none but the target'}). data.types=...")
        self._warn_of_leaks()

    def _warn_of_leaks(self) -> None:
        for target in self.targets:
            wanted = self.whole.columns[target]
            for name in self.inputs:
                other = self.whole.columns[name]
                if len(other.values) != len(wanted.values) or len(other.values) < 2:
                    continue
                pairs = numpy.unique(other.codes.astype(numpy.int64) * len(wanted.values) + wanted.codes)
                is_same = set(other.values) == set(wanted.values)
                if len(pairs) == len(wanted.values) and (is_same or 2 * len(other.values) < len(other.codes)):
                    same = "is the same as" if is_same else "says all of"
                    self.warnings.append(
                        f"column '{name}' {same} the target '{target}': what is learned from it is worth nothing. "
                        f"data.exclude=[{name}]"
                    )

    # ---- the task -----------------------------------------------------------------------------------------------

    def pose(self, task: str, classes: Any) -> None:
        """Find out what is to be learned of the target."""
        if task not in ("auto", "classification", "regression"):
            raise ConfigError(f"data.task={task}: a table poses classification or regression")
        first = self.targets[0]
        texts = self.whole.columns[first]
        kind = self.kinds.get(first) or meanings.guess(texts, **self.reading)[0]
        present = [text for text in texts.values if text not in self.reading["missing"]]
        if not present:
            raise DataError(f"{self.path}: the target '{first}' is missing in all {self.whole.num_rows:,} rows")
        if len(present) == 1:
            raise DataError(f"{self.path}: the target '{first}' is always '{present[0]}': there is nothing to learn")
        self.task, self.why = task, "data.task"
        if task == "auto":
            self.task, self.why = self._task_of(kind, texts, len(present))
        if self.task == "classification":
            if len(self.targets) > 1:
                raise ConfigError(f"data.target has {len(self.targets)} columns: several targets must be numbers")
            if 2 * len(present) > self.whole.num_rows and len(present) > _FEW_CLASSES:
                raise DataError(
                    f"{self.path}: the target '{first}' has {len(present):,} different texts in "
                    f"{self.whole.num_rows:,} rows, which are no classes. Another data.target"
                )
            named = [str(one) for one in classes] if isinstance(classes, Sequence) else None
            self.classes = named or rowcode.ordered(set(present))

    def _task_of(self, kind: str, texts: delimited.Texts, present: int) -> tuple[str, str]:
        if len(self.targets) > 1:
            return "regression", "several targets"
        if kind == "number":
            if not self.standardize:
                return "regression", "numbers"
            values, _ = meanings.numbers(texts, **self.reading)
            if self.kinds.get(self.targets[0]) is None and present <= _FEW_CLASSES and meanings.is_whole(values):
                other = "; as numbers: data.task=regression" if present > 2 else ""
                return "classification", f"only {present} whole numbers{other}"
            return "regression", "numbers"
        return "classification", "text" if kind != "date" else "dates are taken as text"

    def codes(self, read: delimited.Read, of: str) -> numpy.ndarray:
        """Return class indices of all rows, -1 where the target is missing."""
        assert self.classes is not None
        texts = self.column(read, self.targets[0], "data.target", of)
        places = {text: number for number, text in enumerate(self.classes)}
        strange = [at for at, text in enumerate(texts.values) if text not in (*places, *self.reading["missing"])]
        if strange:
            raise DataError(
                f"{of}: '{self.targets[0]}' has '{texts.values[strange[0]]}', which is no class "
                f"{'of data.classes' if of == self.path else 'in ' + self.path} ({_some(self.classes)})"
            )
        return numpy.array([places.get(text, -1) for text in texts.values])[texts.codes]

    def numbers(self, read: delimited.Read, of: str) -> numpy.ndarray:
        """Return the targets of all rows as numbers (N, T), NaN where missing."""
        columns = {name: self.column(read, name, "data.target", of) for name in self.targets}
        values = [rowcode.parsed(name, one, "number", self.reading, of)[one.codes] for name, one in columns.items()]
        return numpy.stack(values, 1)

    # ---- rows ---------------------------------------------------------------------------------------------------

    def moments(self, name: str | None) -> numpy.ndarray | None:
        """Return what the rows are ordered by in time: dates or numbers."""
        if name is None:
            return None
        texts = self.whole.columns[name]
        kind = self.kinds.get(name, meanings.guess(texts, **self.reading)[0])
        kind = "date" if kind == "date" else "number"
        found = rowcode.parsed(name, texts, kind, self.reading, self.path)[texts.codes]
        return found.astype("int64") if kind == "date" else found

    def whole_rows(self, read: delimited.Read, of: str, drop_missing: bool) -> numpy.ndarray:
        """Return the rows that have a target, and, where others are left out, no missing value."""
        lacks = self.codes(read, of) < 0 if self.classes else numpy.isnan(self.numbers(read, of)).any(1)
        if lacks.any():
            self.remarks.append(f"{int(lacks.sum()):,} rows of {of} without a target left out")
        if lacks.all():
            raise DataError(f"{of}: the target is missing in all {len(lacks):,} rows")
        before = int(lacks.sum())
        for name in self.inputs:
            texts = self.column(read, name, "which is an input", of)
            missing = [at for at, text in enumerate(texts.values) if text in self.reading["missing"]]
            if missing and drop_missing:
                lacks |= numpy.isin(texts.codes, missing)
        if int(lacks.sum()) > before:
            self.remarks.append(f"{int(lacks.sum()) - before:,} rows of {of} with a missing value left out")
        if lacks.all():
            raise DataError(f"{of}: every row has a missing value. data.drop_missing=false")
        return (~lacks).nonzero()[0]

    def measure(self, rows: numpy.ndarray) -> None:
        """Measure mean and deviation of the targets of train."""
        if self.classes is None and self.standardize:
            values = self.numbers(self.whole, self.path)[rows]
            self.mean, spread = values.mean(0).tolist(), values.std(0)
            self.std = [one if one > 0 else 1.0 for one in spread.tolist()]

    def dataset(self, read: delimited.Read, rows: numpy.ndarray, of: str, split: str, dtype: str) -> ArrayDataset:
        """Return rows as inputs and targets."""
        table = {name: read.columns[name].rows(rows) for name in self.inputs}
        inputs, unknown = rowcode.encode(table, self.code, len(rows), dtype, of)
        for name, texts in unknown.items():
            count, first = sum(texts.values()), next(iter(texts))
            self.remarks.append(f"{split}: {count:,} rows have a '{name}' that train has not, such as '{first}'")
        if self.classes is not None:
            return ArrayDataset(torch.from_numpy(inputs), torch.from_numpy(self.codes(read, of)[rows]))
        targets = self.numbers(read, of)[rows]
        if self.mean is not None:
            targets = (targets - numpy.array(self.mean)) / numpy.array(self.std)
        return ArrayDataset(torch.from_numpy(inputs), torch.from_numpy(targets.astype(dtype)))

    def warn_of_twins(self, sets: dict[str, ArrayDataset], files: tuple[str, ...]) -> None:
        """Count the rows that are also in train, value for value."""
        seen = set(_fingerprints(sets["train"]))
        for name in ("val", "test"):
            if name in sets and (count := sum(one in seen for one in _fingerprints(sets[name]))):
                text = f"{count:,} of {len(sets[name]):,} rows of {name} are also in train, value for value"
                if name in files:
                    self.warnings.append(f"{text}: results will be too good")
                else:
                    self.remarks.append(text)

    # ---- what is said of it -------------------------------------------------------------------------------------

    def notes(self) -> list[str]:
        """Return what was found out, a line a matter."""
        found = [
            f"{self.path}: {self.whole.num_rows:,} rows, {len(self.whole.columns)} columns ({self.whole.said})",
            f"inputs: {rowcode.described(self.code)}{self._missing()}",
        ]
        if self.left_out:
            shown = [f"{name} ({why})" for name, why in self.left_out.items()]
            found.append(f"left out: {_some(shown)}")
        return [*found, self._target_note(), *self.remarks]

    def _missing(self) -> str:
        lacking = dict[str, int]()
        for name in self.inputs:
            texts = self.whole.columns[name]
            places = [at for at, text in enumerate(texts.values) if text in self.reading["missing"]]
            if places:
                lacking[name] = int(numpy.isin(texts.codes, places).sum())
        shown = [f"{name} {count:,}" for name, count in sorted(lacking.items(), key=lambda one: -one[1]) if count]
        return f" · missing: {_some(shown)}" if shown else " · none missing"

    def _target_note(self) -> str:
        name = ", ".join(self.targets)
        head = f"target: {name}, {self.task} ({self.why})"
        if self.classes is not None:
            codes = self.codes(self.whole, self.path)
            shares = numpy.bincount(codes[codes >= 0], minlength=len(self.classes)) / (codes >= 0).sum()
            order = sorted(range(len(self.classes)), key=lambda at: -shares[at])
            return f"{head}: {_some([f'{self.classes[at]} {shares[at]:.1%}' for at in order])}"
        values = self.numbers(self.whole, self.path)
        bounds = [f"{rowcode.shown(low)} to {rowcode.shown(high)}" for low, high in _ranges(values)]
        return f"{head}: {_some(bounds)}" + (", standardised" if self.mean is not None else "")

    def facts(self) -> Facts:
        """Return what is known of the data."""
        encoding = {"kind": "table", "form": self.whole.form, "targets": self.targets, **self.code}
        return Facts(
            task=self.task, classes=self.classes, num_classes=len(self.classes) if self.classes else None,
            inputs=rowcode.names(self.code),
            cardinalities=[len(one["values"]) + 1 for one in self.code["categories"]],
            target_names=self.targets, target_mean=self.mean, target_std=self.std, encoding=encoding,
        )  # fmt: skip

    def schema(self) -> Schema:
        """Return all guesses, as a dry run writes them."""
        types = {name: self.inputs.get(name, "ignore") for name in self.whole.columns if name not in self.targets}
        kinds = dict.fromkeys(self.targets, "category" if self.classes is not None else "number")
        return Schema(
            target=self.targets, types={**types, **kinds}, **self.whole.form, **self.reading, path=self.path,
            reasons=self.left_out,
        )  # fmt: skip


def _fingerprints(data: ArrayDataset) -> list[Any]:
    targets = data.targets.reshape(len(data), -1).numpy()
    whole = numpy.ascontiguousarray(
        numpy.concatenate([data.inputs.numpy(), targets.astype(data.inputs.numpy().dtype)], 1)
    )
    return whole.view(numpy.dtype((numpy.void, whole.dtype.itemsize * whole.shape[1]))).ravel().tolist()


def _ranges(values: numpy.ndarray) -> list[tuple[float, float]]:
    return list(zip(numpy.nanmin(values, 0).tolist(), numpy.nanmax(values, 0).tolist()))


def _some(names: Sequence[str], most: int = _SHOWN) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _listed(value: Any, key: str) -> list[str]:
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _checked(standardize: Any, dtype: str) -> tuple[bool, str]:
    """Return both keys without auto."""
    if standardize not in (True, False, "auto"):
        raise ConfigError(f"data.standardize must be true, false or auto, got {standardize!r}")
    if dtype not in ("auto", "float32", "float64"):
        raise ConfigError(f"data.dtype must be float32, float64 or auto, got {dtype!r}")
    return standardize is not False, "float32" if dtype == "auto" else dtype
