"""Own a table in the order of time as a data set: windows of the past, and the values that follow each.

Knows nothing of models. How the file is read and put in order stands in `ordered`; what a forecast is compared with,
in `naive`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from dlwp.data.datasets import ArrayDataset, Facts, Splits
from dlwp.data.ordered import Ordered, read, words_of
from dlwp.errors import ConfigError, DataError

_LONGEST_SEASON = 400
_MOST_ENDS = 4000
"""Windows of train on which seasons are compared."""


def timeseries(
    path: str,
    target: str | Sequence[str],
    window: int | str = "auto",
    horizon: int = 24,
    columns: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
    time: str | None = "auto",
    season: int | str = "auto",
    missing: str = "error",
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> Splits:
    """Return windows of a table: `window` rows of its columns, and the `horizon` values of the target that follow.

    In time train comes first, then val, then test. What a window is to forecast lies in its own part; what it looks
    back on may reach into the part before. All columns are standardised by the rows of train. An input is (W, D): the
    columns, and behind them those that are known ahead, moved up by the horizon, so that a row holds their values of
    that many rows later. A target is (H · targets,), step by step.

    Args:
        path: a CSV file. target: the column that is forecast, or several.
        window: rows W looked back on; "auto": the season, or twice the horizon where that is more.
        horizon: rows H that are forecast.
        columns: number columns that are looked back on; None: all but counters of the rows.
        known: columns whose future is known, such as the hour or holidays.
        time: the column of dates; "auto": the first that holds such, None: the rows are in order.
        season: rows after which things repeat, for the seasonal naive forecast; "auto": that of the least error on
            train.
        missing: "error", or "previous": an empty field takes the value before it.
        val_fraction, test_fraction: shares of the rows.

    Raises:
        DataError: the file is not as said, a field is no number, or a part is too short.
        ConfigError: an argument is none of those possible.
    """
    rows = read(path, time)
    targets = [target] if isinstance(target, str) else list(target)
    names, notes = _chosen(rows, targets, columns, known or ())
    series = {name: rows.filled(name, missing) for name in dict.fromkeys([*names, *(known or ()), *targets])}
    bounds = _bounds(rows.count, val_fraction, test_fraction)
    values = numpy.stack([series[name] for name in targets], 1)  # (N, targets)
    period = _season(values[: bounds["train"][1]], season, horizon)
    width = _window(window, horizon, period, bounds)
    ends = {name: _ends(name, *pair, width, horizon) for name, pair in bounds.items()}
    first = bounds["train"][1]
    scale = {name: _scale(series[name][:first]) for name in series}
    encoding: dict[str, Any] = {
        "kind": "series", "columns": names, "known": list(known or ()), "targets": targets, "time": rows.time,
        "missing": missing, "window": width, "horizon": horizon, "season": period, "spacing_s": rows.spacing_s,
        "scale": {name: list(pair) for name, pair in scale.items()},
    }  # fmt: skip
    inputs, wanted = standardised(series, encoding), _columns(series, targets, scale)
    held = {name: SeriesWindows(inputs, wanted, found, width, horizon) for name, found in ends.items()}
    encoding["baseline"] = {name: naive_errors(values, ends[name], horizon, period) for name in ends if name != "train"}
    facts = _facts(encoding, scale)
    notes = [*rows.notes, *notes, f"forecasts {horizon} rows of {', '.join(targets)} from {width} before them"]
    notes += [_told(bounds, rows), f"to beat: {baseline_line(encoding)}"]
    return Splits(held["train"], held.get("val"), held.get("test"), facts, notes, rows.warnings)


def _facts(encoding: dict[str, Any], scale: Mapping[str, tuple[float, float]]) -> Facts:
    known, targets, horizon = encoding["known"], encoding["targets"], encoding["horizon"]
    means, stds = ([scale[name][at] for name in targets] * horizon for at in (0, 1))
    return Facts(
        task="regression", inputs=[*encoding["columns"], *(f"{name} +{horizon}" for name in known)],
        target_names=[f"{name} +{step}" for step in range(1, horizon + 1) for name in targets],
        target_mean=means, target_std=stds, encoding=encoding,
    )  # fmt: skip


# ---- columns --------------------------------------------------------------------------------------------------------


def _chosen(
    rows: Ordered, targets: Sequence[str], columns: Sequence[str] | None, known: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the columns that are looked back on, and what is said of those left out."""
    for key, wanted in (("target", targets), ("columns", columns or ()), ("known", known)):
        for name in wanted:
            rows.check(name, f"data.{key}")
    if columns is not None:
        return list(dict.fromkeys([*columns, *targets])), []
    counters = [name for name, values in rows.numbers.items() if _counts(values) and name not in targets]
    names = [name for name in rows.numbers if name not in counters]
    notes = [f"left out: {words_of(counters)}, which only count the rows"] if counters else []
    texts = [name for name in rows.texts if name != rows.time]
    notes += [f"left out: {words_of(texts)}, which are no numbers"] if texts else []
    return names, notes


def _counts(values: numpy.ndarray) -> bool:
    """Return whether values never fall and, but for a few steps, grow by the same."""
    steps = numpy.diff(values)
    usual = float(numpy.median(steps)) if len(steps) > 1 else 0.0
    return usual > 0 and bool((steps >= 0).all() and (steps == usual).mean() > 0.9)


def _scale(values: numpy.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation; 1 for a column that never changes."""
    std = float(values.std())
    return float(values.mean()), std if std > 1e-12 else 1.0


def _columns(series: Mapping[str, numpy.ndarray], names: Sequence[str], scale: Mapping[str, Any]) -> Tensor:
    """Return standardised columns, float32 (N, D)."""
    found = [(series[name] - scale[name][0]) / scale[name][1] for name in names]
    return torch.from_numpy(numpy.stack(found, 1).astype(numpy.float32))


def standardised(series: Mapping[str, numpy.ndarray], encoding: Mapping[str, Any]) -> Tensor:
    """Return what windows are cut from: the columns, then those known ahead, moved up by the horizon; (N, D).

    Args:
        series: name -> values (N,); a column known ahead may have more, the rows to come.
        encoding: of the data.
    """
    count, horizon, scale = len(series[encoding["targets"][0]]), encoding["horizon"], encoding["scale"]
    parts = [_columns({name: series[name][:count] for name in encoding["columns"]}, encoding["columns"], scale)]
    for name in encoding["known"]:
        ahead = _columns(series, [name], scale)[horizon : horizon + count]
        parts.append(torch.cat([ahead, ahead.new_zeros(count - len(ahead), 1)]))  # those of no window
    return torch.cat(parts, 1)


# ---- parts ----------------------------------------------------------------------------------------------------------


def _bounds(count: int, val: float, test: float) -> dict[str, tuple[int, int]]:
    """Return first row and end of each part that has a share, in the order of time."""
    shares = {"val": 0.2 if val == "auto" else val, "test": test}
    for name, share in shares.items():
        if not isinstance(share, int | float) or not 0 <= share < 1:
            raise ConfigError(f"data.{name}_fraction must be a share from 0 to below 1, got {share!r}")
    sizes = {name: round(count * share) for name, share in shares.items() if share > 0}
    if sum(sizes.values()) >= count:
        raise DataError(f"data.val_fraction + data.test_fraction = {sum(shares.values()):g}: nothing is left to train")
    begin, found = count - sum(sizes.values()), {}
    found["train"] = (0, begin)
    for name, size in sizes.items():
        found[name] = (begin, begin + size)
        begin += size
    return found


def _ends(name: str, begin: int, end: int, window: int, horizon: int) -> Tensor:
    """Return the last rows of the windows whose forecasts lie in [begin, end)."""
    first = max(window, begin) - 1
    found = torch.arange(first, max(first, end - horizon))
    if len(found) == 0:
        raise DataError(
            f"{name} has {end - begin:,} rows: no window of {window} rows with {horizon} to forecast has room. "
            f"data.window={max(1, (end - begin) // 4)} data.horizon={max(1, (end - begin) // 8)}"
        )
    return found


def _window(window: int | str, horizon: int, period: int, bounds: Mapping[str, tuple[int, int]]) -> int:
    for key, value in (("window", window), ("horizon", horizon)):
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"data.{key} must be a number of rows, at least 1, got {value!r}")
    if window == "auto":
        return min(max(period, 2 * horizon), max(1, bounds["train"][1] // 4))
    return int(window)


def _told(bounds: Mapping[str, tuple[int, int]], rows: Ordered) -> str:
    pieces = [f"{name} {end - begin:,} rows from {rows.label(begin)}" for name, (begin, end) in bounds.items()]
    return f"in time: {', '.join(pieces)}; windows of val and test look back over the border"


# ---- the seasonal naive forecast ------------------------------------------------------------------------------------


def naive(values: numpy.ndarray, ends: numpy.ndarray, horizon: int, period: int) -> numpy.ndarray:
    """Return the forecast that repeats the last season, (n, H, targets) of values (N, targets).

    Of step h it is the value at e + h - p · ceil(h / p), e the last row known and p the season.

    Source: Hyndman, Athanasopoulos: Forecasting: Principles and Practice, third edition, section 5.2.
    """
    steps = numpy.arange(1, horizon + 1)
    places = ends[:, None] + (steps - period * -(-steps // period))[None]
    return values[places]


def naive_errors(values: numpy.ndarray, ends: Tensor, horizon: int, period: int) -> dict[str, float]:
    """Return RMSE and MAE of the seasonal naive forecast over windows, in the unit of the target."""
    where = ends.numpy()
    where = where[where >= period - 1]
    truth = values[where[:, None] + numpy.arange(1, horizon + 1)[None]]
    errors = naive(values, where, horizon, period) - truth
    return {"rmse": float(numpy.sqrt((errors**2).mean())), "mae": float(numpy.abs(errors).mean())}


def _season(values: numpy.ndarray, season: int | str, horizon: int) -> int:
    """Return the season: as given, else that whose naive forecast errs least on train."""
    longest = max(1, min(_LONGEST_SEASON, len(values) // 3))
    if season != "auto":
        if isinstance(season, bool) or not isinstance(season, int) or not 1 <= season <= len(values) // 2:
            raise ConfigError(f"data.season must be a number of rows, 1 to {len(values) // 2:,}, got {season!r}")
        return season
    ends = numpy.arange(longest - 1, len(values) - horizon)
    if len(ends) == 0:
        return 1
    ends = ends[:: math.ceil(len(ends) / _MOST_ENDS)]
    truth = values[ends[:, None] + numpy.arange(1, horizon + 1)[None]]
    errors = [numpy.abs(naive(values, ends, horizon, one) - truth).mean() for one in range(1, longest + 1)]
    return int(numpy.argmax(errors <= min(errors) + 1e-9 * numpy.abs(truth).mean())) + 1  # of equal ones the shortest


def baseline_line(encoding: Mapping[str, Any], split: str | None = None) -> str:
    """Return the seasonal naive forecast's errors, of each part or of one, for a person."""
    errors = {name: one for name, one in encoding["baseline"].items() if split in (None, name)}
    told = " · ".join(f"{name} rmse {one['rmse']:.4g}, mae {one['mae']:.4g}" for name, one in errors.items())
    return f"seasonal naive ({encoding['season']} rows before): {told}"


# ---- windows --------------------------------------------------------------------------------------------------------


class SeriesWindows(ArrayDataset):
    """Windows of rows held once: inputs (W, D), and as target the H rows after, flattened, float32.

    Args:
        values: (N, D). targets: (N, targets). ends: int64 (n,), the last row of each window. window, horizon: W, H.
    """

    def __init__(self, values: Tensor, targets: Tensor, ends: Tensor, window: int, horizon: int) -> None:
        self.values, self.targets, self.ends, self.window, self.horizon = values, targets, ends, window, horizon

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.batch(torch.tensor([range(len(self))[index]], device=self.ends.device))
        return inputs[0], targets[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return self.values.nbytes + self.targets.nbytes

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs (B, W, D) and targets (B, H · targets) of these windows."""
        ends = self.ends.index_select(0, indices)
        past, future = self.values.unfold(0, self.window, 1), self.targets.unfold(0, self.horizon, 1)  # views
        inputs = past.index_select(0, ends - self.window + 1).transpose(1, 2).contiguous()
        return inputs, future.index_select(0, ends + 1).transpose(1, 2).flatten(1)

    def to(self, device: torch.device) -> ArrayDataset:
        """Return the same on a device."""
        held = (self.values.to(device), self.targets.to(device), self.ends.to(device))
        return SeriesWindows(*held, self.window, self.horizon)

    def subset(self, indices: Tensor) -> ArrayDataset:
        """Return the windows at `indices`, of the same rows."""
        return SeriesWindows(self.values, self.targets, self.ends[indices], self.window, self.horizon)


def last_window(path: str, encoding: Mapping[str, Any]) -> tuple[Tensor, Ordered, int]:
    """Return the input (W, D) from which the rows after the end of a table are forecast, its rows, and their end.

    Rows behind the last value of the target are taken for the future: of them columns known ahead are read.

    Raises:
        DataError: the table has too few rows, lacks a column, or the future of one that must be known.
    """
    rows = read(path, encoding["time"])
    for name in [*encoding["columns"], *encoding["known"]]:
        rows.check(name, "the run was trained on it")
    there = ~numpy.isnan(rows.numbers[encoding["targets"][0]])
    count, window, horizon = int(there.nonzero()[0].max(initial=-1)) + 1, encoding["window"], encoding["horizon"]
    if count < window:
        raise DataError(f"{path} has {count:,} rows with {encoding['targets'][0]}; a forecast looks back on {window:,}")
    series = {name: rows.filled(name, encoding["missing"], count) for name in encoding["columns"]}
    if encoding["known"] and rows.count < count + horizon:
        raise DataError(
            f"{path}: the future of {words_of(encoding['known'])} is needed: {horizon} rows after the last value of "
            f"{encoding['targets'][0]}, which is left empty there; found {rows.count - count}"
        )
    for name in encoding["known"]:
        series[name] = rows.filled(name, encoding["missing"], count + horizon)
    return standardised(series, encoding)[-window:], rows, count
