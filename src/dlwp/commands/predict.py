"""`dlwp-predict`: say what is in pictures, by a pretrained network or a run of one's own.

Knows nothing of how that is found: `dlwp.api.load` gives a predictor.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp import __version__
from dlwp.commands import entry
from dlwp.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dlwp.inference.predictor import Predicted

_DESCRIPTION = """Say what is in pictures: the likeliest classes of each; go on with a text or a table.

  dlwp-predict photo.jpg                        by the network that comes with dlwp (ImageNet's 1,000 classes)
  dlwp-predict holiday/ '*.png' format=csv      folders and patterns; format=table, json, csv; output=FILE
  dlwp-predict checkpoint=RUN photo.jpg         by a run of your own (a run folder, a checkpoint, or last)
  dlwp-predict checkpoint=RUN X.npy             of a run on arrays: a line a row (output=out.npy: all outputs)
  dlwp-predict model=torchvision model.name=resnet50 photo.jpg
  dlwp-predict - < photo.jpg                    standard input
  dlwp-predict photos/ plots=true               a sheet of the pictures with what was found: predictions.png
  dlwp-predict photos/ features=features.npz    what the last layer is given; .safetensors, or a folder for
                                                TensorBoard's projector
  dlwp-predict photos/ precision=fp32           or bf16, fp16; else auto: bf16 where that is faster, which then is said
  dlwp-predict checkpoint=RUN cells/ output=masks   of a run that finds masks (data=segmentation): a PNG each;
                                                plots=true adds masks/overlays
  dlwp-predict checkpoint=RUN photo.jpg threshold=0.3   of a run of several labels (data=multilabel): all above it (0.5)
  dlwp-predict checkpoint=RUN new.csv output=out.csv   rows of a table, with the predictions behind them; new.npy alike
  dlwp-predict checkpoint=RUN prompt="ROMEO:"   a run of data=sequence: how a text goes on; length=500 tokens,
                                                temperature=0.8, top_k=NUMBER, seed=0
  dlwp-predict checkpoint=RUN table.csv         a run of data=timeseries: the rows after the table's end; plots=true
"""
DEFAULTS = {
    "checkpoint": "", "format": "table", "output": "", "top_k": "", "batch_size": "32", "plots": "false",
    "features": "", "precision": "auto", "threshold": "", "prompt": "", "length": "", "temperature": "", "seed": "",
}  # fmt: skip
"""The keys of the command, as they are where they are not typed."""
_OTHERS = {
    "ArrayPredictor": "predict_arrays", "MaskPredictor": "predict_masks", "RowPredictor": "predict_rows",
    "SeriesPredictor": "predict_series", "TextPredictor": "predict_text",
}  # fmt: skip
"""Class of a predictor of other things than pictures -> the module of this room whose `predict` shows what it finds."""
_FURTHER = ("model", "device", "trust", "trainer.tta")


def main() -> int:
    """Run the command; return the exit status."""
    return entry.run(_predict)


def _predict() -> int:
    own, words, named = _read()
    predictor = None
    if own["checkpoint"]:
        from dlwp import api

        predictor = api.load(own["checkpoint"], words=words, precision=own["precision"])
        if type(predictor).__name__ in _OTHERS:
            module = importlib.import_module(f"dlwp.commands.{_OTHERS[type(predictor).__name__]}")
            return module.predict(predictor, own, named)
    for key in ("prompt", "length", "temperature", "seed"):
        if own[key]:
            raise ConfigError(f"{key}={own[key]} has no effect on pictures: it is for runs of data=sequence")
    if not named:
        raise ConfigError("no picture is given. dlwp-predict photo.jpg, a folder, a pattern, or - for standard input")
    top_k, batch_size = number(own, "top_k") if own["top_k"] else None, number(own, "batch_size")
    plots = {"false": None, "true": "predictions.png"}.get(own["plots"], own["plots"])
    from dlwp.inference import sources

    given = sources.expand(named)
    if own["features"] and Path(own["features"]).suffix not in (".npz", ".safetensors", ""):
        text = f"features={own['features']}: give a .npz, a .safetensors, or a folder for TensorBoard's projector"
        raise ConfigError(text)
    if predictor is None:
        from dlwp import api

        predictor = api.load(words=words, precision=own["precision"])
    if own["precision"] == "auto" and predictor.precision != "fp32":
        print(
            f"machine  {predictor.precision} ({predictor.reason}); precision=fp32 for the last digits", file=sys.stderr
        )
    keep = plots is not None or bool(own["features"] and not Path(own["features"]).suffix)
    threshold = _threshold(own["threshold"], predictor)
    found = predictor.predict(
        given, top_k=top_k, threshold=threshold, batch_size=batch_size, features=bool(own["features"]),
        keep_pictures=keep,
    )  # fmt: skip
    done = _shown(found, own, len(given), keep=bool(own["features"] or plots or own["format"] == "json"))
    if own["features"]:
        _write_features(Path(own["features"]), done)
    if plots is not None:
        from dlwp.inference import sheet

        if any(one.picture is not None for one in done):
            sheet.draw(done, Path(plots).expanduser())
            print(f"plots    {plots}", file=sys.stderr)
    faults = [one for one in done if one.fault is not None]
    if faults:
        raise DataError(f"{len(faults):,} of {len(given):,} pictures cannot be read and were left out (named above)")
    return 0


def _read() -> tuple[dict[str, str], list[str], list[str]]:
    """Return own keys, settings for the model, and the words that name pictures."""
    parser = argparse.ArgumentParser(
        prog="dlwp-predict", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"dlwp {__version__}")
    parser.add_argument("words", nargs="*", metavar="PICTURE or key=value", help="pictures, keys as above, settings")
    own, words, named = {**DEFAULTS, "typed": ""}, list[str](), list[str]()
    for word in parser.parse_intermixed_args().words:
        if "=" not in word or Path(word).exists():
            named.append(word)
        else:
            entry.take(word, own, words, _FURTHER)
            own["typed"] += f" {word.partition('=')[0]}"
    if own["format"] not in ("table", "json", "csv"):
        raise ConfigError(f"format must be table, json or csv, got '{own['format']}'")
    if own["precision"] not in ("auto", "fp32", "bf16", "fp16"):
        raise ConfigError(f"precision must be auto, fp32, bf16 or fp16, got '{own['precision']}'")
    return own, words, named


def number(own: dict[str, str], key: str) -> int:
    """Return the value of a key that is a count.

    Raises:
        ConfigError: it is none.
    """
    if not own[key].isdigit() or int(own[key]) < 1:
        raise ConfigError(f"{key} must be a whole number ≥ 1, got '{own[key]}'")
    return int(own[key])


def _threshold(text: str, predictor: Any) -> float:
    if not text:
        return 0.5
    if predictor.facts.task != "multilabel":
        raise ConfigError(f"threshold={text} has no effect: {predictor.name} gives one class a picture. top_k=5")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise ConfigError(f"threshold must be a probability, at least 0 and below 1, got '{text}'")
    return value


# ---- what is shown --------------------------------------------------------------------------------------------------


def _shown(found: Iterator[Predicted], own: dict[str, str], count: int, *, keep: bool) -> list[Predicted]:
    """Print predictions as they come, or write them to the output; return those that are needed further."""
    from tqdm import tqdm

    done: list[Predicted] = []
    text: Any = io.StringIO() if own["output"] or own["format"] == "json" else sys.stdout
    bar = tqdm(found, total=count, unit=" pictures", leave=False, disable=None if count > 8 else True)
    table = csv.writer(text, lineterminator="\n") if own["format"] == "csv" else None
    if table is not None:
        table.writerow(["file", "rank", "label", "index", "probability"])
    for one in bar:
        if one.fault is not None:
            bar.write(f"dlwp: warning: left out: {one.fault}", file=sys.stderr)
        elif table is not None:
            table.writerows(_rows(one))
        elif own["format"] == "table":
            _print(bar, "\n".join(_lines(one)), text)
        done.append(one) if keep or one.fault is not None else None
    if own["format"] == "json":
        from dlwp.inference.predictor import as_json

        text.write(as_json(done) + "\n")
    if own["output"]:
        from dlwp.runs import files

        files.write_atomic(Path(own["output"]).expanduser(), text.getvalue())
    elif text is not sys.stdout:
        sys.stdout.write(text.getvalue())
    return done


def _print(bar: Any, text: str, stream: Any) -> None:
    bar.write(text, file=stream) if stream is sys.stdout else print(text, file=stream)


def _lines(one: Predicted) -> list[str]:
    """Return the block of a picture: its name, then a line for each class."""
    from dlwp.inference.sources import name_of

    if not one.predictions:
        return [name_of(one.source), "       –  no label above the threshold"]
    return [name_of(one.source), *(f"{best.probability:>8.2%}  {best.label}" for best in one.predictions)]


def _rows(one: Predicted) -> list[list[Any]]:
    from dlwp.inference.sources import name_of

    ranked: Sequence[Any] = list(enumerate(one.predictions, 1))
    return [[name_of(one.source), rank, best.label, best.index, f"{best.probability:.6f}"] for rank, best in ranked]


def _write_features(path: Path, done: Sequence[Predicted]) -> None:
    import torch

    from dlwp.inference import vectors
    from dlwp.inference.sources import name_of

    good = [one for one in done if one.features is not None]
    if not good:
        return
    pictures = [one.picture for one in good if one.picture is not None]
    vectors.write(
        path.expanduser(), [name_of(one.source) for one in good],
        [one.predictions[0].label if one.predictions else "" for one in good],
        torch.stack([one.features for one in good]),  # type: ignore[misc]
        torch.stack(pictures) if pictures else None,
    )  # fmt: skip
    print(f"features {path}: {len(good):,} of {good[0].features.numel():,} numbers", file=sys.stderr)  # type: ignore[union-attr]
