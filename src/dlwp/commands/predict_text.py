"""`dlwp-predict checkpoint=RUN prompt="..."`: let a run that has learned text go on with one.

Knows nothing of how that is found.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlwp.errors import ConfigError

if TYPE_CHECKING:
    from dlwp.inference.text import TextPredictor


def predict(predictor: TextPredictor, own: dict[str, str], named: Sequence[str]) -> int:
    """Print the prompt and what follows it as it comes, or write it; return the exit status.

    Raises:
        ConfigError: no prompt, or a key that is no number. DataError: the prompt has unknown characters.
    """
    if named:
        raise ConfigError(f"this run goes on with text: prompt=\"{named[0]}\" in place of '{named[0]}'")
    if "prompt" not in own["typed"].split():
        raise ConfigError('this run goes on with text. Give it a begin: prompt="Once upon", or prompt="" for none')
    if own["format"] == "csv":
        raise ConfigError("format=csv is for tables; text comes as format=table (as it is) or json")
    prompt = own["prompt"]
    found = predictor.stream(
        prompt, length=_whole(own, "length", "500"), temperature=_real(own, "temperature", "0.8"),
        top_k=_whole(own, "top_k", "0") or None, seed=_whole(own, "seed", "0"),
    )  # fmt: skip
    if own["format"] == "table" and not own["output"]:
        print(prompt, end="", flush=True)
        for piece in found:
            print(piece, end="", flush=True)
        print()
        return 0
    text = "".join(found)
    said = (
        json.dumps([{"prompt": prompt, "text": text}], ensure_ascii=False) if own["format"] == "json" else prompt + text
    )
    if own["output"]:
        from dlwp.runs import files

        files.write_atomic(Path(own["output"]).expanduser(), said + "\n")
    else:
        sys.stdout.write(said + "\n")
    return 0


def _whole(own: dict[str, str], key: str, default: str) -> int:
    text = own[key] or default
    if not text.isdigit():
        raise ConfigError(f"{key} must be a whole number ≥ 0, got '{text}'")
    return int(text)


def _real(own: dict[str, str], key: str, default: str) -> float:
    try:
        return float(own[key] or default)
    except ValueError:
        raise ConfigError(f"{key} must be a number, got '{own[key]}'") from None
