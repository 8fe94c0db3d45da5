"""Own the search space: each word of several values as a dimension that Optuna can draw from.

Knows nothing of trials. Optuna is imported inside the function that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dlwp.config import check
from dlwp.errors import ConfigError


@dataclass(frozen=True)
class Dimension:
    """What one key may be.

    Attributes:
        key: its name. kind: "choice", "int" or "float". sign: what it is typed with, "", "+" or "++".
        choices: of a choice, each as it would be typed.
        low, high: of numbers, both included. step: between numbers, None: any. log: drawn evenly in the logarithm.
    """

    key: str
    kind: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    sign: str = ""

    def word(self, value: Any) -> str:
        """Return the word that sets a value."""
        return f"{self.sign}{self.key}={self.text(value)}"

    def text(self, value: Any) -> str:
        """Return a value as one would type it."""
        if self.kind == "float":
            return repr(float(value)) if self.step is None else f"{value:.12g}"
        return str(value)

    def place_of(self, value: Any) -> Any:
        """Return a config's value as a value of this dimension, None where it lies outside."""
        if self.kind == "choice":
            return check.typed(value) if check.typed(value) in self.choices else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        if self.step is not None and abs((value - self.low) / self.step % 1 - 0.5) < 0.5 - 1e-9:
            return None
        return value if self.kind == "float" or value == int(value) else None

    def ends(self) -> list[str]:
        """Return the words to check before the first trial: of all choices, or of the ends."""
        return [self.word(value) for value in self.choices or (self.low, self.high)]

    def listed(self) -> list[Any]:
        """Return all values.

        Raises:
            ConfigError: they cannot be listed.
        """
        if self.kind == "choice":
            return list(self.choices)
        if self.step is None:
            raise ConfigError(
                f"hydra.sweeper.sampler=grid needs values that can be listed; '{self.key}' is an interval. "
                f"{self.key}=0.1,0.2,0.4, or range(...), or sampler=tpe"
            )
        count = round((self.high - self.low) / self.step) + 1
        values = [self.low + self.step * index for index in range(count)]
        return [int(value) for value in values] if self.kind == "int" else values

    def distribution(self) -> Any:
        """Return it as a distribution of Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(self.choices)
        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values, from which `Dimension(**values)` makes it again."""
        return asdict(self)


def read(word: check.Word) -> Dimension:
    """Return the dimension that a word of several values means.

    Raises:
        ConfigError: it cannot be searched.
    """
    return replace(_read(word), sign=word.sign)


def _read(word: check.Word) -> Dimension:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(word.text)
    value: Any = override.value()
    log = "log" in getattr(value, "tags", ())
    if strange := set(getattr(value, "tags", ())) - {"log"}:
        raise ConfigError(f"{word.key}: unknown tag '{min(strange)}'. There is: log, as in tag(log,interval(1e-4,1))")
    listed = tuple(check.split(one)[2] or "" for one in word.sweep or ())
    if override.is_interval_sweep():
        return _numbers(word.key, value.start, value.end, None, log, whole=isinstance(value.start, int))
    if override.is_range_sweep() and not value.shuffle:
        if not listed:
            raise ConfigError(f"'{word.text}' holds no value: the end of a range is not one of them")
        whole = all(isinstance(one, int) for one in (value.start, value.stop, value.step))
        low, high = sorted((float(listed[0]), float(listed[-1])))
        return _numbers(word.key, low, high, abs(value.step), log, whole=whole)
    if not listed:
        raise ConfigError(f"'{word.text}' cannot be searched: list the values, or write interval(...) or range(...)")
    if log:
        raise ConfigError(
            f"'{word.text}': a list has no logarithm. {word.key}={','.join(listed)}, or tag(log,range(...))"
        )
    return Dimension(word.key, "choice", tuple(dict.fromkeys(listed)))


def _numbers(key: str, low: float, high: float, step: float | None, log: bool, *, whole: bool) -> Dimension:
    if low > high:
        raise ConfigError(f"{key}: {low:g} to {high:g} is empty. The smaller end comes first")
    if log and low <= 0:
        raise ConfigError(f"{key}: a logarithm needs values above 0, got {low:g}. interval({high / 1000:g},{high:g})")
    if log and step not in (None, 1):
        raise ConfigError(f"{key}: tag(log,...) and a step of {step:g} exclude each other. Leave one out")
    if log and not whole:
        step = None
    if whole:
        low, high = int(low), int(high)
    return Dimension(key, "int" if whole else "float", (), low, high, step, log)


def defaults(dimensions: Sequence[Dimension], values: Any, choices: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the default configuration as values of the space, None where it lies outside.

    Args:
        dimensions: of the space. values: a config. choices: group -> option, of that config.
    """
    found = {}
    for one in dimensions:
        value = choices[one.key] if one.key in choices else _at(values, one.key)
        place = None if value is None else one.place_of(value)
        if place is None:
            return None
        found[one.key] = place
    return found


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values
