"""`dlwp-eval`: measure a run's best weights on a split of its data, or a published network on one's own pictures.

Knows nothing of how that is done: `dlwp.api.evaluate` does it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

from dlwp import __version__
from dlwp.commands import entry
from dlwp.errors import ConfigError

_DESCRIPTION = """Measure a run's best weights on a split of its data: values with their 95% intervals, a table by
class, calibration, and pictures of the confusion matrix, of the calibration and of the worst mistakes.

  dlwp-eval checkpoint=outputs/latest               the test split
  dlwp-eval checkpoint=last split=val format=json   the newest run, for machines
  dlwp-eval checkpoint=RUN data.root=/d/x           other settings as in dlwp-train
  dlwp-eval model=efficientnet_lite data=imagefolder data.root=DIR
                                                    a published network on your pictures, in folders named after its
                                                    categories (golden_retriever) or their WordNet ids (n02099601)

keys:
  checkpoint  a run folder (its best weights), a checkpoint, or last
  split       train (not augmented), val or test; auto: test, or val where there is none (auto)
  tta         views of each picture whose outputs are averaged: mirror, mirror_translate or null (as in training)
  output      folder of the pictures (RUN/plots; of a published network outputs/eval/DATA-MODEL/TIME)
  plots       whether pictures are written: true, false (true)
  baseline    whether gradient-boosted trees and a constant are measured on the same rows of a table (false)
  format      text or json (text)
"""
_CHOICES = {"format": ("text", "json"), "plots": ("true", "false"), "baseline": ("true", "false")}


def main() -> int:
    """Run the command; return the exit status."""
    return entry.run(_evaluate)


def _evaluate() -> int:
    parser = argparse.ArgumentParser(
        prog="dlwp-eval", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"dlwp {__version__}")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="keys as below, and settings")
    own, words = _read(parser.parse_intermixed_args().settings)
    from dlwp import api

    found = api.evaluate(
        own["checkpoint"] or None, split=own["split"], words=words, output=own["output"] or None,
        plots=own["plots"] == "true", baseline=own["baseline"] == "true",
    )  # fmt: skip
    if own["format"] == "json":
        print(_as_json(found))
        return 0
    from dlwp import report

    print("\n".join(report.evaluation_lines(found)))
    return 0


def _read(settings: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the command's own keys, checked, and the words that are settings of the run."""
    own = {"checkpoint": "", "split": "auto", "tta": "", "output": "", "plots": "true", "format": "text"}
    own["baseline"] = "false"
    words = []
    for word in settings:
        key, separator, value = word.partition("=")
        if separator and key in own:
            own[key] = value
        else:
            words.append(word)
    if not own["checkpoint"] and not any(word.startswith(("model=", "model.")) for word in words):
        raise ConfigError(
            "checkpoint must be given: checkpoint=RUN (a run folder, a checkpoint, or last); or a published network: "
            "model=efficientnet_lite data=imagefolder data.root=DIR"
        )
    for key, choices in _CHOICES.items():
        if own[key] not in choices:
            raise ConfigError(f"{key} must be {' or '.join(choices)}, got '{own[key]}'")
    if own["output"] and own["plots"] == "false":
        raise ConfigError(f"output={own['output']} has no effect with plots=false. Leave one of them out")
    return own, [*words, *([f"trainer.tta={own['tta']}"] if own["tta"] else [])]


def _as_json(found: dict[str, Any]) -> str:
    """Return all but the words for a person, a key a line; what is no number is null."""
    items = {key: _plain(value) for key, value in found.items() if key not in ("line", "note", "baseline_line")}
    lines = [f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in items.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
