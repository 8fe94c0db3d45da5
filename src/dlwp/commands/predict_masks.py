"""Own what `dlwp-predict` does of a run that finds masks: write them, and say how much of each class there is.

Knows nothing of how masks are found.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlwp.errors import ConfigError, DataError

_WITHOUT_EFFECT = ("top_k", "features", "threshold")


def predict(predictor: Any, own: dict[str, str], named: Sequence[str]) -> int:
    """Write the mask of each picture into a folder, as PNG of the picture's size; print the share of each class.

    Args:
        predictor: a `MaskPredictor`. own: the keys of the command. named: the words that name pictures.

    Raises:
        ConfigError: no picture, no folder, or a key without effect. DataError: pictures cannot be read.
    """
    from dlwp.commands.predict import DEFAULTS, number
    from dlwp.inference import sources

    if not named:
        raise ConfigError("no picture is given. dlwp-predict checkpoint=RUN picture.png, a folder or a pattern")
    for key in _WITHOUT_EFFECT:
        if own[key] != DEFAULTS[key]:
            raise ConfigError(f"{key}={own[key]} has no effect: {predictor.name} gives masks. Leave it out")
    if not own["output"]:
        raise ConfigError("output=FOLDER is needed: masks are written there, as PNG. output=masks")
    folder = Path(own["output"]).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output must be a folder for masks, '{folder}' is a file. output=masks")
    plots = {"false": None, "true": str(folder / "overlays")}.get(own["plots"], own["plots"])
    given = sources.expand(named)
    names = _names(given)
    told: list[dict[str, Any]] = []
    faults = 0
    for name, one in zip(names, predictor.predict(given, batch_size=min(8, number(own, "batch_size")))):
        if one.fault is not None:
            print(f"dlwp: warning: left out: {one.fault}", file=sys.stderr)
            faults += 1
            continue
        _write(one, folder / name, None if plots is None else Path(plots).expanduser() / name, len(predictor.classes))
        shares = {label: round(share, 6) for label, share in zip(predictor.classes, one.shares) if share > 0}
        told.append({"file": sources.name_of(one.source), "mask": str(folder / name), "shares": shares})
        if own["format"] == "table":
            print(_line(told[-1]))
    _say(told, own["format"], predictor.classes)
    print(f"masks    {folder}: {len(told):,}, values are classes: {_listed(predictor.classes)}", file=sys.stderr)
    if plots is not None:
        print(f"plots    {plots}", file=sys.stderr)
    if faults:
        raise DataError(f"{faults:,} of {len(given):,} pictures cannot be read and were left out (named above)")
    return 0


def _names(given: Sequence[Any]) -> list[str]:
    """Return a file name for each mask: that of its picture; where two pictures have one, with their folders."""
    stems = ["standard-input" if isinstance(one, bytes) else Path(one).stem for one in given]
    long = [stem if isinstance(one, bytes) else "-".join(Path(one).with_suffix("").parts[-2:])
            for one, stem in zip(given, stems)]  # fmt: skip
    names = [longer if stems.count(stem) > 1 else stem for stem, longer in zip(stems, long)]
    return [f"{name}-{number}.png" if names.count(name) > 1 else f"{name}.png" for number, name in enumerate(names, 1)]


def _write(one: Any, mask: Path, overlay: Path | None, num_classes: int) -> None:
    from PIL import Image

    from dlwp.observers import overlays
    from dlwp.runs import files

    pictures = [(mask, overlays.mask_picture(one.mask, num_classes))]
    if overlay is not None:
        shown = overlays.columns([[one.picture, overlays.overlaid(one.picture, one.mask)]])
        pictures.append((overlay, Image.fromarray(shown)))
    for path, picture in pictures:
        files.make_folders(path.parent)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        files.write_atomic(path, buffer.getvalue())


def _line(told: dict[str, Any]) -> str:
    return f"{told['file']}  " + "  ".join(f"{label} {share:.1%}" for label, share in told["shares"].items())


def _say(told: Sequence[dict[str, Any]], format: str, classes: Sequence[str]) -> None:
    if format == "json":
        print(json.dumps(told, indent=1, ensure_ascii=False))
    elif format == "csv":
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(["file", "mask", *classes])
        table.writerows([one["file"], one["mask"], *(one["shares"].get(name, 0.0) for name in classes)] for one in told)


def _listed(classes: Sequence[str], most: int = 6) -> str:
    text = ", ".join(f"{number} {name}" for number, name in enumerate(classes[:most]))
    return text + (f" and {len(classes) - most} more" if len(classes) > most else "")
