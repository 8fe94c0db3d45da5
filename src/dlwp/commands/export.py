"""Own `dlwp-export`: write a network to a file that runs without its training code, or without torch.

Knows nothing of how that is done: `dlwp.api.export` does it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dlwp import __version__
from dlwp.commands import entry
from dlwp.errors import ConfigError

_DESCRIPTION = """Write a network to a file that runs elsewhere; it is run in a new process and compared first.

  dlwp-export checkpoint=RUN                     RUN/export/model.onnx, for onnxruntime (a run, a checkpoint, or last)
  dlwp-export checkpoint=RUN format=torch_export          model.pt2, for torch without the model's code
  dlwp-export checkpoint=RUN format=safetensors           model.safetensors: weights, and what builds the model again
  dlwp-export checkpoint=RUN format=python                model.py: a fitted formula as a function of NumPy arrays
  dlwp-export model=efficientnet_lite preprocessing=true  a published network; as dlwp-predict takes them
  dlwp-export model=torchvision model.name=resnet50 output=resnet50.onnx

keys:
  format         onnx, torch_export, safetensors, python (onnx)
  output         the file; auto: RUN/export/model, or ./NAME of a published network, with the format's ending (auto)
  preprocessing  true: uint8 pictures (B, C, H, W) of the network's size go in; false: normalised float32 (false)
  softmax        true: probabilities come out; false: logits (false)
  inputs         pictures to compare on: a file, folder or pattern, several with commas; auto: smooth drawn ones (auto)

The file takes batches of any size. Its metadata hold class names, shape of the inputs, mean, std, how pictures are cut
and scaled, and dlwp's version. Its outputs differ from the network's by at most 1e-4 of the largest, or none is left.
"""
_OWN = {
    "checkpoint": "", "format": "onnx", "output": "auto", "preprocessing": "false", "softmax": "false",
    "inputs": "auto",
}  # fmt: skip
_FURTHER = ("model", "trust")


def main() -> int:
    """Run the command; return the exit status."""
    return entry.run(_export)


def _export() -> int:
    parser = argparse.ArgumentParser(
        prog="dlwp-export", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"dlwp {__version__}")
    parser.add_argument("words", nargs="*", metavar="key=value", help="keys as above, and model=, model.…, trust=")
    own, words = _read(parser.parse_intermixed_args().words)
    from dlwp.inference import export

    options: dict[str, Any] = {
        "format": own["format"],
        "output": None if own["output"] == "auto" else own["output"],
        "preprocessing": _switch(own, "preprocessing"),
        "softmax": _switch(own, "softmax"),
        "inputs": _listed(own["inputs"]),
    }
    export.check(**options)
    from dlwp import api

    api.export(own["checkpoint"] or None, words=words, say=print, **options)
    return 0


def _read(given: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return own keys, and settings for the model."""
    own, words = dict(_OWN), list[str]()
    for word in given:
        if "=" not in word:
            raise ConfigError(f"'{word}' is no setting. dlwp-export checkpoint=RUN, or model=efficientnet_lite")
        entry.take(word, own, words, _FURTHER)
    if not own["checkpoint"] and not any(word.startswith("model=") for word in words):
        raise ConfigError("what is exported? checkpoint=RUN (a run, a checkpoint, or last), or model=efficientnet_lite")
    return own, words


def _switch(own: dict[str, str], key: str) -> bool:
    if own[key] not in ("true", "false"):
        raise ConfigError(f"{key} must be true or false, got '{own[key]}'")
    return own[key] == "true"


def _listed(text: str) -> list[str]:
    """Return the words of `inputs`; a file whose name holds a comma is one."""
    if text == "auto":
        return []
    return [text] if Path(text).expanduser().exists() else [word for word in text.split(",") if word]
