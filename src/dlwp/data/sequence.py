"""Own text as a data set: its tokens, its parts in the order of the text, and windows of it.

Knows nothing of models, or of how text is made of what they say.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from dlwp import randomness
from dlwp.data.datasets import ArrayDataset, Facts, Splits
from dlwp.errors import ConfigError, DataError, did_you_mean, nearest

_LEVELS = ("characters", "bytes")
_IGNORED = -100
"""A target that is not counted: the `ignore_index` of torch's criteria."""
_SHOWN = 10


def sequence(
    path: str | Sequence[str],
    level: str = "characters",
    length: int = 128,
    val_fraction: float = 0.1,
    test_fraction: float = 0.0,
    seed: int = 0,
) -> Splits:
    """Return windows of a text, each with itself shifted by one token as the target.

    The text is cut into train, val and test in its own order, so that no window of one part holds a token of another.
    Of train an epoch is the windows that lie side by side from a first token on, which is drawn by (seed, epoch); of
    val and test each token but the first is predicted exactly once.

    Args:
        path: a file, several, or a folder of .txt files, read in the order of their names.
        level: "characters" of UTF-8 text, or "bytes".
        length: tokens T of a window.
        val_fraction, test_fraction: shares of the text.
        seed: of the run.

    Raises:
        DataError: no such file, no text in it, no UTF-8, or a part is shorter than a window.
        ConfigError: an argument is none of those possible.

    Example:
        >>> Path("poem.txt").write_text("so much depends upon " * 99) # doctest: +SKIP
        >>> sequence("poem.txt", length=16).facts.num_classes # doctest: +SKIP
    """
    fractions = _fractions(level, length, val_fraction, test_fraction)
    files = _files(path)
    tokens, names = _bytes(files) if level == "bytes" else _characters(files)
    parts = _parts(tokens, fractions, length, files[0])
    facts = Facts(
        task="sequence", num_classes=len(names), classes=names,
        encoding={"kind": "sequence", "level": level, "vocabulary": names if level == "characters" else 256,
                  "length": length},
    )  # fmt: skip
    where = str(files[0]) if len(files) == 1 else f"{len(files)} files, {files[0]} to {files[-1].name}"
    notes = [f"{len(tokens):,} {level} of {where}: {_told(parts)}, in the order of the text"]
    notes.append(f"an epoch: windows of {length} side by side, from a token on that is drawn anew in each")
    held = {name: TokenWindows.covering(part, length) for name, part in parts.items() if name != "train"}
    train = ShiftedWindows(parts["train"], length, seed)
    return Splits(train, held.get("val"), held.get("test"), facts, notes, _unseen(parts, names))


def _fractions(level: str, length: int, val: float, test: float) -> dict[str, float]:
    if level not in _LEVELS:
        raise ConfigError(
            f"data.level cannot be {level!r}.{did_you_mean(str(level), _LEVELS)} There are: {', '.join(_LEVELS)}"
        )
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise ConfigError(f"data.length must be a number of tokens, at least 1, got {length!r}. data.length=128")
    found = {"val": 0.1 if val == "auto" else val, "test": test}
    for name, share in found.items():
        if not isinstance(share, int | float) or not 0 <= share < 1:
            raise ConfigError(f"data.{name}_fraction must be a share from 0 to below 1, got {share!r}")
    if sum(found.values()) >= 1:
        raise DataError(f"data.val_fraction + data.test_fraction = {sum(found.values()):g}: nothing is left to train")
    return found


# ---- files ----------------------------------------------------------------------------------------------------------


def _files(path: str | Sequence[str]) -> list[Path]:
    """Return the files meant, at least one.

    Raises:
        DataError: one is not there, or a folder has none.
    """
    found: list[Path] = []
    for one in [path] if isinstance(path, str) else path:
        place = Path(one).expanduser()
        if place.is_dir():
            inside = sorted(place.glob("*.txt"))
            if not inside:
                raise DataError(f"folder '{place}' has no .txt files (data.path). Give the file: data.path=FILE")
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            siblings = [each.name for each in place.parent.iterdir() if each.exists()] if place.parent.is_dir() else []
            near = nearest(place.name, siblings, 1)
            hint = f" Near it: '{place.parent / near[0]}'" if near else ""
            raise DataError(f"no file '{place}' (data.path).{hint}")
    if not found:
        raise ConfigError("data.path names no file. data.path=FILE.txt")
    return found


def _read(files: Sequence[Path]) -> list[bytes]:
    try:
        contents = [file.read_bytes() for file in files]
    except OSError as error:
        raise DataError(f"'{error.filename}' cannot be read: {error.strerror}") from None
    if not any(contents):
        raise DataError(f"'{files[0]}' is empty (0 bytes); text to learn from is needed (data.path)")
    return contents


def _bytes(files: Sequence[Path]) -> tuple[Tensor, list[str]]:
    content = b"".join(_read(files))
    return torch.frombuffer(bytearray(content), dtype=torch.uint8), [_byte_name(value) for value in range(256)]


def _byte_name(value: int) -> str:
    return chr(value) if 32 < value < 127 else f"0x{value:02x}"


def _characters(files: Sequence[Path]) -> tuple[Tensor, list[str]]:
    """Return tokens (N,), uint8 or int32, and the characters that they stand for, in the order of their code points."""
    points = []
    for file, content in zip(files, _read(files), strict=True):
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"'{file}' is no UTF-8 text: byte 0x{content[error.start]:02x} at {error.start:,}. data.level=bytes "
                "takes any file"
            ) from None
        points.append(numpy.frombuffer(text.encode("utf-32-le"), dtype=numpy.int32))
    known, tokens = numpy.unique(numpy.concatenate(points), return_inverse=True)
    if len(known) == 1:
        raise DataError(f"'{files[0]}' holds one character alone, {chr(known[0])!r}: there is nothing to learn")
    kind = numpy.uint8 if len(known) <= 256 else numpy.int32
    return torch.from_numpy(tokens.astype(kind)), [chr(point) for point in known]


# ---- parts ----------------------------------------------------------------------------------------------------------


def _parts(tokens: Tensor, fractions: dict[str, float], length: int, where: Path) -> dict[str, Tensor]:
    """Return views of the tokens, train first; those that have a share.

    Raises:
        DataError: one has no whole window, nor the token after it.
    """
    total = len(tokens)
    counts = {name: round(total * share) for name, share in fractions.items() if share > 0}
    counts = {"train": total - sum(counts.values()), **counts}
    for name, count in counts.items():
        if count <= length:
            key = "" if name == "train" else f", or a larger data.{name}_fraction"
            raise DataError(
                f"{where}: {name} has {count:,} of {total:,} tokens, a window needs {length + 1:,}. "
                f"data.length={max(1, (count - 1) // 2)}{key}"
            )
    return dict(zip(counts, tokens.split(list(counts.values())), strict=True))


def _told(parts: dict[str, Tensor]) -> str:
    total = sum(map(len, parts.values()))
    places = {"train": "the first", "val": "then" if "test" in parts else "the last", "test": "the last"}
    return ", ".join(f"{name} {places[name]} {len(part) / total:.0%}" for name, part in parts.items())


def _unseen(parts: dict[str, Tensor], names: Sequence[str]) -> list[str]:
    known = torch.zeros(len(names), dtype=torch.bool)
    known[parts["train"].unique().long()] = True
    found = []
    for name, part in parts.items():
        values = part.unique().long()
        strange = values[~known[values]].tolist()
        if strange:
            shown = ", ".join(repr(names[one]) for one in strange[:_SHOWN])
            more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
            found.append(f"{name} holds what train does not, so that it cannot be predicted: {shown}{more}")
    return found


# ---- windows --------------------------------------------------------------------------------------------------------


class TokenWindows(ArrayDataset):
    """Windows of a sequence held once: (tokens i to i + T, tokens i + 1 to i + T + 1), int64.

    Args:
        tokens: (N,), integers of any kind.
        starts: int64 (n,), where the windows begin.
        length: tokens T of a window.
        ignored: how many targets of the last window, its first ones, are not counted (-100).
    """

    def __init__(self, tokens: Tensor, starts: Tensor, length: int, ignored: int = 0) -> None:
        self.tokens, self.starts, self.length, self.ignored = tokens, starts, length, ignored
        self.shift = 0

    @classmethod
    def covering(cls, tokens: Tensor, length: int) -> TokenWindows:
        """Return windows in which each token but the first is a target once: the last may lie over the one before."""
        starts = torch.arange(0, len(tokens) - 1, length)
        last = len(tokens) - 1 - length
        ignored = int(starts[-1]) - last
        starts[-1] = last
        return cls(tokens, starts, length, ignored)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.batch(torch.tensor([range(len(self))[index]], device=self.starts.device))
        return inputs[0], targets[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens."""
        return self.tokens.nbytes

    @property
    def targets(self) -> Tensor:  # type: ignore[override]
        """Return the targets of a window at each place, (N - T, T), a view."""
        return self.tokens[1:].unfold(0, self.length, 1)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of these windows, int64 (B, T) each."""
        whole = self.tokens.unfold(0, self.length + 1, 1)  # a view
        windows = whole.index_select(0, self.starts.index_select(0, indices) + self.shift).long()
        inputs, targets = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
        if self.ignored:
            targets[indices == len(self) - 1, : self.ignored] = _IGNORED
        return inputs, targets

    def to(self, device: torch.device) -> ArrayDataset:
        """Return the same on a device."""
        return self._with(self.tokens.to(device), self.starts.to(device), self.ignored)

    def subset(self, indices: Tensor) -> ArrayDataset:
        """Return the windows at `indices`, of the same tokens."""
        return self._with(self.tokens, self.starts[indices], 0)

    def _with(self, tokens: Tensor, starts: Tensor, ignored: int) -> TokenWindows:
        return TokenWindows(tokens, starts, self.length, ignored)


class ShiftedWindows(TokenWindows):
    """Windows side by side, all moved by a number of tokens that is drawn for each epoch by (seed, epoch).

    Args:
        tokens: (N,). length: tokens T of a window. seed: of the run.
        starts: where the windows begin in an epoch that is not moved; None: side by side, one fewer than have room.
    """

    def __init__(self, tokens: Tensor, length: int, seed: int, starts: Tensor | None = None) -> None:
        self.seed = seed
        self.room = min(length, len(tokens) - length)  # how many places there are for the first window
        if starts is None:
            starts = torch.arange(0, len(tokens) - length - self.room + 1, length)
        super().__init__(tokens, starts, length)

    def set_epoch(self, number: int) -> None:
        """Move the windows to their places of an epoch."""
        draw = randomness.generator(self.seed, "windows", number)
        self.shift = int(torch.randint(self.room, (), generator=draw))

    def _with(self, tokens: Tensor, starts: Tensor, ignored: int) -> TokenWindows:
        return ShiftedWindows(tokens, self.length, self.seed, starts)


# ---- text to tokens and back ----------------------------------------------------------------------------------------


def encode(text: str, encoding: Mapping[str, Any]) -> list[int]:
    """Return the tokens of a text.

    Args:
        encoding: `Facts.encoding` of a sequence.

    Raises:
        DataError: it holds characters that the vocabulary lacks; they are named.
    """
    if encoding["level"] == "bytes":
        return list(text.encode())
    numbers = {character: number for number, character in enumerate(encoding["vocabulary"])}
    strange = [character for character in dict.fromkeys(text) if character not in numbers]
    if strange:
        shown = ", ".join(map(repr, strange[:_SHOWN])) + (", …" if len(strange) > _SHOWN else "")
        known = "".join(one for one in numbers if one.isprintable())
        raise DataError(f"the prompt has {shown}, which the text that was learned from lacks. It has: {known[:100]}")
    return [numbers[character] for character in text]


def decode(tokens: Iterable[int], encoding: Mapping[str, Any]) -> Iterator[str]:
    """Yield the text of tokens as they come; bytes that are no UTF-8 become U+FFFD."""
    if encoding["level"] == "bytes":
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in tokens:
            yield decoder.decode(bytes([token]))
        yield decoder.decode(b"", final=True)
    else:
        for token in tokens:
            yield encoding["vocabulary"][token]
