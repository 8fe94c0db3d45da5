"""Own pictures with several labels each as a data set: the table that names them, and what is wrong in it.

Knows nothing of models, nor of how pictures are decoded.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlwp.data import imagefolder, pictures
from dlwp.data.datasets import NAMES, Facts, Splits
from dlwp.data.pictures import Listing
from dlwp.errors import ConfigError, DataError, did_you_mean
from dlwp.settings import PICTURE_SUFFIXES

_SEPARATORS = ("|", ";", ",", " ")
_SHOWN = 10
_Row = Mapping[str, str]


def multilabel(
    root: str,
    labels: str,
    file_column: str | None = None,
    label_column: str | None = None,
    separator: str | None = None,
    split_column: str | None = None,
    classes: Any = None,
    image_size: int = 224,
    resize: int | None = None,
    interpolation: str = "bilinear",
    fit: str = "crop",
    loader: str = "auto",
    on_error: str = "error",
) -> Splits:
    """Return the pictures that a table names, each with a 0 or 1 for every label.

    Args:
        root: the folder of the pictures.
        labels: a CSV file with a header: a column of file names, and a column of labels, or one of 0 and 1 a label.
        file_column: None: the first whose values are pictures of the folder.
        label_column: holds the labels, with separators; None: found out.
        separator: between labels; None: the first of | ; , and blank that occurs.
        split_column: holds train, val or test; None: "split", where there is one.
        classes: names of the labels, in their order; None: all that occur, sorted, or the columns of 0 and 1.
        image_size, resize, interpolation, fit, loader, on_error: as `imagefolder` takes them.

    Raises:
        DataError: no such folder, file or column; a picture is not there; a value is neither 0 nor 1; or a label is
            unknown. ConfigError: keys do not fit each other.
    """
    folder, path = pictures.existing_folder(root), Path(labels).expanduser()
    form = imagefolder.form_of(image_size, resize, interpolation, fit)
    header, rows = _table(path)
    known = _files_of(folder)
    file_column = _file_column(path, header, rows, file_column, folder, known)
    if split_column is None:
        split_column = "split" if "split" in header else None
    elif split_column not in header:
        raise _no_column(path, split_column, header, "data.split_column")
    rest = [name for name in header if name not in (file_column, split_column)]
    label_column, binary = _label_columns(path, rest, rows, label_column)
    if label_column is not None:
        given, how = _separated(rows, label_column, separator)
    else:
        given = [[name for name in binary if row[name].strip() == "1"] for row in rows]
        how = f"labels are {len(binary)} columns of 0 and 1"
    names = _names(path, classes, binary or sorted({one for each in given for one in each}), given)
    listings, notes = _listings(path, folder, known, rows, given, names, file_column, split_column)
    found, told = imagefolder.decoded(listings, form, loader, on_error)
    facts = Facts(
        task="multilabel", num_classes=len(names), classes=names,
        form={"fit": fit, "resize": form.resize, "interpolation": interpolation},
    )  # fmt: skip
    shown = f"pictures of {folder}, made {image_size}x{image_size} ({imagefolder.words_of(form)})"
    paths = {name: listing.paths for name, listing in listings.items()}
    warnings = [*pictures.in_two_splits(paths), *_unnamed(folder, known, paths), *_rare(listings, names)]
    notes = [shown, f"{path}: files in '{file_column}', {how}", *notes, *told]
    return Splits(found["train"], found.get("val"), found.get("test"), facts, notes, warnings)


# ---- the table ------------------------------------------------------------------------------------------------------


def _table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or ())
            rows = list(reader)
    except FileNotFoundError:
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"no file '{path}' (data.labels).{did_you_mean(path.name, siblings)}") from None
    except PermissionError:
        raise pictures.unreadable(path) from None
    except IsADirectoryError:
        raise DataError(f"data.labels={path} is a folder; a CSV file is needed") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8 ({error})") from None
    if len(header) < 2 or not rows:
        raise DataError(f"{path} has {len(header)} columns and {len(rows)} rows; a column of file names and one of "
                        "labels are needed, with commas between them and a header")  # fmt: skip
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DataError(f"{path}, row {number}: it has not {len(header)} values, as the header has")
    return header, rows


def _no_column(path: Path, name: str, header: Sequence[str], key: str) -> DataError:
    return DataError(f"{path} has no column '{name}' ({key}).{did_you_mean(name, header)} Columns: {_some(header)}")


def _file_column(
    path: Path, header: Sequence[str], rows: Sequence[_Row], key: str | None, folder: Path, known: Mapping[str, str]
) -> str:
    if key is not None:
        if key not in header:
            raise _no_column(path, key, header, "data.file_column")
        return key
    for name in header:
        if any(_known(known, row[name]) for row in rows[:100]):
            return name
    example = f"'{rows[0][header[0]]}'"
    raise DataError(f"no column of {path} names pictures of '{folder}' (such as {example}). data.root=FOLDER, or "
                    "data.file_column=NAME")  # fmt: skip


def _files_of(folder: Path) -> dict[str, str]:
    """Return the pictures of a folder and its folders, by their path in it, with and without the ending."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURE_SUFFIXES:
            name = path.relative_to(folder).as_posix()
            found[name] = str(path)
            found.setdefault(name.removesuffix(path.suffix), str(path))
    return found


def _known(known: Mapping[str, str], name: str) -> str | None:
    return known.get(name.strip().removeprefix("./"))


def _label_columns(
    path: Path, rest: Sequence[str], rows: Sequence[_Row], key: str | None
) -> tuple[str | None, list[str]]:
    """Return the column that holds labels, or the columns of 0 and 1."""
    if key is not None:
        if key not in rest:
            raise _no_column(path, key, rest, "data.label_column")
        return key, []
    binary = [name for name in rest if all(row[name].strip() in ("0", "1") for row in rows)]
    if len(binary) == len(rest):
        return None, binary
    if len(rest) == 1:
        return rest[0], []
    if not binary:
        raise DataError(f"{path} has several columns that could hold labels: {_some(rest)}. data.label_column=NAME")
    doubtful = next(name for name in rest if name not in binary)
    number, value = next((n, row[doubtful]) for n, row in enumerate(rows, 2) if row[doubtful].strip() not in ("0", "1"))
    raise DataError(
        f"{path}, row {number}: column '{doubtful}' is {value!r}, the other columns are 0 or 1. Mend or remove it, or "
        "data.label_column=NAME"
    )


def _separated(rows: Sequence[_Row], column: str, separator: str | None) -> tuple[list[list[str]], str]:
    if separator is None:
        separator = next((one for one in _SEPARATORS if any(one in row[column].strip() for row in rows)), "|")
    elif separator == "":
        raise ConfigError("data.separator must be a character, such as '|'")
    given = [[part.strip() for part in row[column].split(separator) if part.strip()] for row in rows]
    shown = "blanks" if separator == " " else f"'{separator}'"
    return given, f"labels in '{column}', with {shown} between them"


def _names(path: Path, key: Any, found: list[str], given: Sequence[Sequence[str]]) -> list[str]:
    if key is not None and (isinstance(key, str | int) or not isinstance(key, Sequence)):
        raise ConfigError(f"data.classes must be a list of the names of the labels, got {key!r}")
    names = [str(one) for one in key] if key is not None else found
    if not names:
        raise DataError(f"no row of {path} has a label")
    for number, labels in enumerate(given, 2):
        strange = [one for one in labels if one not in names]
        if strange:
            raise DataError(f"{path}, row {number}: label '{strange[0]}' is not in data.classes."
                            f"{did_you_mean(strange[0], names)} There are: {_some(names)}")  # fmt: skip
    return names


def _listings(
    path: Path, folder: Path, known: Mapping[str, str], rows: Sequence[_Row], given: Sequence[Sequence[str]],
    names: Sequence[str], file_column: str, split_column: str | None,
) -> tuple[dict[str, Listing], list[str]]:  # fmt: skip
    """Return the pictures of each split; rows of one picture are joined."""
    lacking: list[str] = []
    labels: dict[tuple[str, str], set[str]] = {}
    for number, (row, own) in enumerate(zip(rows, given), 2):
        split = row[split_column].strip() if split_column is not None else "train"
        split = {"valid": "val", "validation": "val"}.get(split, split)
        if split not in NAMES:
            raise DataError(f"{path}, row {number}: '{split}' in '{split_column}' is no split."
                            f"{did_you_mean(split, NAMES)} There are: train, val, test")  # fmt: skip
        file = _known(known, row[file_column])
        if file is None:
            lacking.append(f"row {number}: {row[file_column]}")
        else:
            labels.setdefault((split, file), set()).update(own)
    if lacking:
        text = f"{len(lacking):,} of {len(rows):,} pictures of {path} are not in '{folder}': {lacking[0]}"
        raise DataError(f"{text}. data.root=FOLDER, or remove these rows", lacking[:_SHOWN] if len(lacking) > 1 else [])
    found: dict[str, Listing] = {}
    for name in NAMES:
        members = [(file, own) for (split, file), own in labels.items() if split == name]
        if members:
            targets: Any = [[float(one in own) for one in names] for _, own in members]
            found[name] = Listing(folder, [file for file, _ in members], targets, b"")
    if "train" not in found:
        raise DataError(f"no row of {path} is of train ('{split_column}')")
    several = Counter(len(own) for own in labels.values())
    notes = [f"{sum(count * size for size, count in several.items()) / len(labels):.2f} labels a picture on average"]
    if several[0]:
        notes.append(f"{several[0]:,} pictures have no label")
    if len(labels) < len(rows):
        notes.append(f"{len(rows):,} rows are of {len(labels):,} pictures: the labels of each were joined")
    return found, notes


def _unnamed(folder: Path, known: Mapping[str, str], paths: Mapping[str, Sequence[str]]) -> list[str]:
    named = {path for listed in paths.values() for path in listed}
    left = sorted(set(known.values()) - named)
    return [f"{len(left):,} pictures of '{folder}' are not in the table and are left out: {left[0]}"] if left else []


def _rare(listings: Mapping[str, Listing], names: Sequence[str]) -> list[str]:
    counts: Any = [sum(column) for column in zip(*listings["train"].targets)]
    few = [f"{name} ({int(count)})" for name, count in zip(names, counts) if count < 5]
    always = [name for name, count in zip(names, counts) if count == len(listings["train"].paths)]
    found = [f"labels of fewer than 5 pictures of train: {_some(few)}"] if few else []
    return found + ([f"every picture of train has the label {_some(always)}"] if always else [])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
