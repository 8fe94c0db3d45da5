"""Own the reading of a table's file into columns of text: which encoding, delimiter and header it has is found out.

Knows nothing of what the texts mean.
"""

from __future__ import annotations

import csv
import gc
import io
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from dlwp.errors import ConfigError, DataError, MachineError, did_you_mean

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_LOOKED_AT = 50
"""Records that delimiter and header are guessed from."""
_CHUNK = 65_536


@dataclass
class Texts:
    """A column as text, each different value once.

    Attributes:
        values: the different texts, without blanks around them. codes: int32 (N,), which of them each row has.
        meant: what they were read as, so that it is done once.
    """

    values: list[str]
    codes: numpy.ndarray
    meant: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def rows(self, indices: numpy.ndarray) -> Texts:
        """Return the same column at these rows."""
        return Texts(self.values, self.codes[indices], self.meant)

    def __getitem__(self, row: int) -> str:
        return self.values[self.codes[row]]


@dataclass
class Read:
    """A table as it stands in its file.

    Attributes:
        columns: by name, in the order of the file. num_rows: rows without the header.
        form: delimiter, header and encoding with which it was read. said: the same for a person.
    """

    columns: dict[str, Texts]
    num_rows: int
    form: dict[str, Any]
    said: str


def texts(cells: Iterable[str], count: int) -> Texts:
    """Return cells, of which there are `count`, as a column.

    >>> texts(["b", "a", " b"], 3)
    Texts(values=['b', 'a'], codes=array([0, 1, 0], dtype=int32))
    """
    places: defaultdict[str, int] = defaultdict()
    places.default_factory = places.__len__
    codes = numpy.fromiter(map(places.__getitem__, cells), numpy.int32, count)
    bare = [value.strip() for value in places]
    if bare == list(places):
        return Texts(bare, codes)
    whole = texts(bare, len(bare))
    return Texts(whole.values, whole.codes[codes])


def read(path: str | Path, form: dict[str, Any] | None = None, key: str = "data.path") -> Read:
    """Return a file as a table: Parquet by its ending, else delimited text.

    Args:
        path: of the file. form: delimiter, header (true, false) and encoding; what is missing or auto is guessed.
        key: the setting that named the file, for messages.

    Raises:
        DataError: no such file, it is empty, or a row has another number of fields. ConfigError: an unknown encoding.
        MachineError: a Parquet file, and pyarrow is not installed.
    """
    place = Path(path).expanduser()
    form = {name: value for name, value in (form or {}).items() if value != "auto"}
    if place.is_dir():
        raise DataError(f"{key}={path} is a folder; a file is needed")
    if not place.exists():
        near = [one.name for one in place.parent.iterdir() if one.is_file()] if place.parent.is_dir() else []
        raise DataError(f"no file '{path}' ({key}).{did_you_mean(place.name, near)}")
    if place.suffix.lower() in (".parquet", ".pq"):
        return _parquet(place, str(path))
    try:
        data = place.read_bytes()
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}") from None
    encoding = str(form.get("encoding") or _encoding(data))
    try:
        text = data.decode(encoding)
    except LookupError:
        raise ConfigError(f"data.encoding={encoding} is unknown to Python. utf-8, cp1252, latin-1, ...") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line} is not {encoding}. data.encoding=auto, or cp1252, latin-1, ...") from None
    if not text.strip():
        raise DataError(f"'{path}' is empty ({len(data)} bytes)")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"{path}:{line} holds zero bytes: it is no text, or damaged. data.encoding=utf-16 if it is that"
        )
    return _table(text, form, encoding, str(path))


def _encoding(data: bytes) -> str:
    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return name
    for name in ("utf-8", "cp1252"):
        try:
            data.decode(name)
            return name
        except UnicodeDecodeError:
            continue
    return "latin-1"


def _table(text: str, form: dict[str, Any], encoding: str, path: str) -> Read:
    delimiter = form.get("delimiter") or _delimiter(text)
    delimiter = "\t" if delimiter in ("tab", "\\t") else delimiter
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ConfigError(f"data.delimiter must be one character, or tab, got {delimiter!r}")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    collects = gc.isenabled()
    gc.disable()  # the millions of cells hold no cycles, and looking for some takes half of the time
    try:
        first = next(row for row in reader if row)
        header = form.get("header")
        header = _is_header(first) if header is None else header
        names = [name.strip() for name in first] if header else [f"column_{at + 1}" for at in range(len(first))]
        _check_names(names, path)
        columns = _columns(itertools.chain([] if header else [first], reader), len(names), text, delimiter, path)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from None
    finally:
        gc.enable() if collects else None
    count = len(columns[0])
    if count == 0:
        raise DataError(f"'{path}' has a header and no row")
    found = {}
    for name in names:
        found[name] = texts(columns.pop(0), count)  # one after the other, so that the cells are held once
    said = f"{encoding}, {_DELIMITERS.get(delimiter, repr(delimiter))}, {'' if header else 'no '}header"
    form = {"delimiter": delimiter, "header": bool(header), "encoding": encoding}
    return Read(found, count, form, said)


def _check_names(names: Sequence[str], path: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has two columns '{twice}'. Rename one, or data.header=false where that is no header")


def _delimiter(text: str) -> str:
    """Return the delimiter that cuts the first records into the most fields, the same number in most of them."""
    lines = list(itertools.islice(io.StringIO(text, newline=""), _LOOKED_AT))
    best, most = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        try:
            counts = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            continue
        usual = max(set(counts), key=counts.count)
        score = counts.count(usual) / len(counts), usual
        if usual > 1 and score > most:
            best, most = delimiter, score
    return best


def _is_header(first: Sequence[str]) -> bool:
    return all(cell.strip() and not _is_number(cell) for cell in first)


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "."))
        return True
    except ValueError:
        return False


def _columns(rows: Iterable[list[str]], width: int, text: str, delimiter: str, path: str) -> list[list[str]]:
    """Return the cells of each column; empty lines are no rows."""
    columns: list[list[str]] = [[] for _ in range(width)]
    rows = filter(None, rows)
    while chunk := list(itertools.islice(rows, _CHUNK)):
        if set(map(len, chunk)) != {width}:
            raise _ragged(text, width, delimiter, path)
        for column, cells in zip(columns, zip(*chunk), strict=True):
            column.extend(cells)
    return columns


def _ragged(text: str, width: int, delimiter: str, path: str) -> DataError:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    wrong = next(row for row in reader if row and len(row) != width)
    return DataError(
        f"{path}:{reader.line_num} has {len(wrong)} fields, the first line has {width}. Mend the line (a delimiter in "
        f"a text needs quotes), or data.delimiter (now {delimiter!r})"
    )


def _parquet(place: Path, path: str) -> Read:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MachineError(f"reading '{path}' needs pyarrow: pip install 'dlwp[parquet]'") from None
    try:
        table = parquet.read_table(place)
        found = {}
        for name in table.column_names:
            cells = table.column(name).cast(pyarrow.string()).to_pylist()
            found[name] = texts(("" if cell is None else cell for cell in cells), len(cells))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"'{path}' cannot be read as Parquet: {str(error).splitlines()[0][:150]}") from None
    if table.num_rows == 0:
        raise DataError(f"'{path}' has no row")
    return Read(found, table.num_rows, {}, "Parquet")
