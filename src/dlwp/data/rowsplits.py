"""Own the cutting of a table's rows into train, val and test: at random, by class, by group or by time.

Knows nothing of what the rows hold.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy
import torch

from dlwp import randomness
from dlwp.data.delimited import Texts
from dlwp.data.splits import choose
from dlwp.errors import ConfigError, DataError, did_you_mean

WAYS = ("auto", "random", "stratified", "group", "time")
_USUAL = 0.2


def near(name: str, names: list[str]) -> str:
    """Return the names that resemble one, letters of either case alike."""
    same = [one for one in names if one.lower() == name.lower()]
    return f" Did you mean '{same[0]}'?" if same else did_you_mean(name, names)


def fractions(val: Any, test: Any, others: Collection[str]) -> dict[str, float]:
    """Return the shares of val and test that are cut off; 0 where they have a file of their own.

    Raises:
        ConfigError: a share is out of range. DataError: nothing would be left to train on.
    """
    val = (0.0 if "val" in others else _USUAL) if val == "auto" else val
    found = dict[str, float]()
    for name, value in (("val", val), ("test", test)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ConfigError(f"data.{name}_fraction must be a number from 0 to below 1, got {value!r}")
        if value > 0 and name in others:
            raise ConfigError(
                f"data.{name}_fraction={value:g} and data.{name}_path both give {name}. Leave one of them out"
            )
        found[name] = float(value)
    if sum(found.values()) >= 1:
        raise DataError(f"data.val_fraction + data.test_fraction = {sum(found.values()):g}: nothing is left to train")
    return found


def cut(
    rows: numpy.ndarray, shares: dict[str, float], way: str, *, targets: numpy.ndarray | None, group: Texts | None,
    time: numpy.ndarray | None, seed: int,
) -> tuple[dict[str, numpy.ndarray], str]:  # fmt: skip
    """Return the rows of each split, and a note on how they were cut: a function of (rows, shares, way, seed).

    Args:
        rows: int64, those that are used. shares: of val and test, of these rows.
        way: one of `WAYS`; auto is by time or group where such a column is named, else by class where there are some.
        targets: class indices of these rows. group: a column of all rows. time: numbers of all rows.

    Raises:
        ConfigError: the way needs a column that is not named. DataError: a split would be empty.
    """
    if way not in WAYS:
        raise ConfigError(f"data.split={way}: there are {', '.join(WAYS)}.{did_you_mean(str(way), WAYS)}")
    if way == "auto":
        named = {"time": time is not None, "group": group is not None, "stratified": targets is not None}
        way = next((name for name, there in named.items() if there), "random")
    for name, column in (("group", group), ("time", time)):
        if (way == name) != (column is not None):
            text = f"needs data.{name}=COLUMN" if column is None else f"makes no use of data.{name}"
            raise ConfigError(f"data.split={way} {text}")
    if way == "stratified" and targets is None:
        raise ConfigError("data.split=stratified needs classes, this target has numbers. data.split=random")
    counts = {name: round(len(rows) * share) for name, share in shares.items()}
    for name, share in shares.items():
        if share and not counts[name]:
            raise DataError(f"{name} would be empty (0 of {len(rows):,} rows). A larger data.{name}_fraction, or 0")
    if sum(counts.values()) >= len(rows):
        raise DataError(f"train would be empty ({len(rows):,} rows). A smaller data.val_fraction")
    if not any(counts.values()):
        return {"train": rows}, ""
    if way == "time":
        assert time is not None
        number = _by_time(time[rows], counts)
    elif way == "group":
        assert group is not None
        number = _by_group(group.codes[rows], counts, seed)
    else:
        number = _at_random(len(rows), counts, targets if way == "stratified" else None, seed)
    parts = {name: rows[number == place] for place, name in enumerate(("train", "val", "test"))}
    parts = {name: part for name, part in parts.items() if name == "train" or counts[name]}
    for name, part in parts.items():
        if not len(part):
            raise DataError(
                f"{name} would be empty: data.split={way} leaves it no {'group' if way == 'group' else 'row'}"
            )
    return parts, _said(parts, shares, way, seed)


def _said(parts: dict[str, numpy.ndarray], shares: dict[str, float], way: str, seed: int) -> str:
    how = {
        "random": f"at random, seed {seed}", "stratified": f"stratified, seed {seed}",
        "group": f"whole groups, seed {seed}", "time": "the latest rows",
    }[way]  # fmt: skip
    name = "val" if "val" in parts else "test"
    return f"{name} {len(parts[name]):,} ({100 * shares[name]:g}% of rows, {how})"


def _at_random(total: int, counts: dict[str, int], classes: numpy.ndarray | None, seed: int) -> numpy.ndarray:
    number = numpy.zeros(total, numpy.int64)
    left = numpy.arange(total)
    for place, name in ((2, "test"), (1, "val")):
        labels = None if classes is None else torch.from_numpy(classes[left])
        chosen = choose(len(left), counts[name], labels, randomness.generator(seed, "split", place)).numpy()
        number[left[chosen]] = place
        left = left[~chosen]
    return number


def _by_group(groups: numpy.ndarray, counts: dict[str, int], seed: int) -> numpy.ndarray:
    """Deal whole groups out, in random order: to test and val as long as they come nearer to their counts by it."""
    different, inverse, sizes = numpy.unique(groups, return_inverse=True, return_counts=True)
    of_group = numpy.zeros(len(different), numpy.int64)
    order = iter(randomness.permutation(len(different), seed, "split").tolist())
    for place, name in ((2, "test"), (1, "val")):
        held = 0
        while held < counts[name] and (one := next(order, None)) is not None:
            of_group[one] = place
            held += int(sizes[one])
    return of_group[inverse]


def _by_time(moments: numpy.ndarray, counts: dict[str, int]) -> numpy.ndarray:
    """Give the latest rows to test, those before them to val; rows without a time to train."""
    order = numpy.argsort(numpy.where(numpy.isnan(moments), -numpy.inf, moments), kind="stable")
    number = numpy.zeros(len(moments), numpy.int64)
    end = len(moments) - counts["test"]
    number[order[end:]] = 2
    number[order[end - counts["val"] : end]] = 1
    return number
