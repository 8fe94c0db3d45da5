"""Own how the state of an object becomes JSON and comes back: tuples, counters, infinities and keys that are no text.

Knows nothing of whose state it is.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import Any

from torch import Tensor

_FLOAT, _ITEMS = "$float", "$items"


def to_json(value: Any, keep: bool = False) -> Any:
    """Return containers of JSON values from which `from_json` makes the same again, keys that are no text included.

    Args:
        value: containers of numbers, texts and tensors. keep: leave tensors as they are, else they become lists.

    Raises:
        TypeError: something is of another kind.
    """
    if isinstance(value, Tensor) and keep:
        return value
    if isinstance(value, Tensor) or type(value).__module__ == "numpy":
        return to_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}  # JSON has no infinity, and the best value of a plateau scheduler begins with it
    if isinstance(value, dict):
        items = {key: to_json(item, keep) for key, item in value.items() if not callable(item)}
        if all(isinstance(key, str) for key in items):
            return items
        return {_ITEMS: [[to_json(key), item] for key, item in items.items()], "counts": isinstance(value, Counter)}
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [to_json(item, keep) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} is neither a number, a text, a tensor nor a container of those")


def from_json(value: Any) -> Any:
    """Return what `to_json` was given: lists for tuples, sets and tensors."""
    if isinstance(value, dict):
        if set(value) == {_FLOAT}:
            return float(value[_FLOAT])
        if set(value) == {_ITEMS, "counts"}:
            items = {from_json(key): from_json(item) for key, item in value[_ITEMS]}
            return Counter(items) if value["counts"] else items
        return {key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value
