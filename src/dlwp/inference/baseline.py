"""Own the baselines of a table: gradient-boosted trees, and one answer for all, on the very rows that a run has.

Knows nothing of the run's own model, nor of how what is found is shown.
"""

from __future__ import annotations

import time
from typing import Any

import numpy

from dlwp.build import Parts
from dlwp.data.datasets import ArrayDataset
from dlwp.errors import ConfigError

_MOST_CATEGORIES = 254
"""Categories that scikit-learn's trees take of a column; of more, the code is taken as a number."""


def baselines(parts: Parts, split: str) -> dict[str, Any]:
    """Fit scikit-learn's HistGradientBoosting as it comes on train, and measure it, and a constant, on a split.

    Args:
        parts: of a run on a table. split: which is measured.

    Returns:
        "trees" and "constant": accuracy, or rmse, mae and r2 in the target's unit (each the mean over several targets);
        "answer", the constant, for a person; "elapsed_s" of the fit.

    Raises:
        ConfigError: the data is no table of classes or numbers.
    """
    facts, train, wanted = parts.data.facts, parts.data.train, getattr(parts.data, split)
    if (facts.encoding or {}).get("kind") != "table" or not isinstance(train, ArrayDataset):
        raise ConfigError("baseline=true is for tables (data=csv, data=parquet). Leave it out")
    began = time.perf_counter()
    inputs, targets = train.inputs.numpy(), _targets(train, facts)
    there, truth = wanted.inputs.numpy(), _targets(wanted, facts)
    sizes, num = facts.cardinalities or [], inputs.shape[1]
    categories = [num - len(sizes) + at for at, size in enumerate(sizes) if size <= _MOST_CATEGORIES]
    options = {"categorical_features": categories or None, "random_state": parts.seed}
    if facts.task == "classification":
        found, constant = _classified(inputs, targets, there, options)
        scores = {"trees": _accuracy(found, truth), "constant": _accuracy(constant, truth)}
        answer = facts.classes[constant] if facts.classes else str(constant)
    else:
        found = numpy.stack([_boosted(inputs, one, there, options) for one in targets.T], 1)
        constant = numpy.broadcast_to(targets.mean(0), truth.shape)
        scores = {"trees": _errors(found, truth), "constant": _errors(constant, truth)}
        answer = f"the mean, {', '.join(f'{one:.5g}' for one in targets.mean(0))}"
    return {**scores, "answer": answer, "elapsed_s": time.perf_counter() - began}


def _targets(data: ArrayDataset, facts: Any) -> numpy.ndarray:
    """Return class indices (N,), or numbers (N, T) in the target's own unit."""
    values = data.targets.numpy()
    if facts.target_std is None:
        return values
    return values.astype(numpy.float64) * numpy.array(facts.target_std) + numpy.array(facts.target_mean)


def _classified(inputs: Any, targets: Any, there: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    # with early stopping, as it comes for more than 10,000 rows, a part of train must hold two of each class
    stops = "auto" if numpy.unique(targets, return_counts=True)[1].min() > 1 else False
    trees = HistGradientBoostingClassifier(early_stopping=stops, **options).fit(inputs, targets)
    return trees.predict(there), numpy.bincount(targets).argmax()


def _boosted(inputs: Any, targets: Any, there: Any, options: dict[str, Any]) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(**options).fit(inputs, targets).predict(there)


def _accuracy(found: Any, truth: Any) -> dict[str, float]:
    return {"accuracy": float((found == truth).mean())}


def _errors(found: Any, truth: Any) -> dict[str, float]:
    gaps = found - truth
    spread = ((truth - truth.mean(0)) ** 2).sum(0)
    unexplained = numpy.divide((gaps**2).sum(0), spread, out=numpy.zeros_like(spread), where=spread > 0)
    rmse, mae = float((gaps**2).mean() ** 0.5), float(numpy.abs(gaps).mean())
    return {"rmse": rmse, "mae": mae, "r2": float(1 - unexplained.mean())}
