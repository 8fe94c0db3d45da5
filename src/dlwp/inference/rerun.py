"""Own the running of an exported file in a new process, as somebody would who has only the file.

Knows nothing of the network it was made of. It is run as a script, so that onnxruntime is seen to need no torch, and
torch no dlwp: `python -P rerun.py FOLDER`, where FOLDER holds job.json and the batches.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy

TEXTS = ("dlwp", "name", "task", "input", "output")
"""Keys of the metadata whose values are plain text; those of all others are JSON."""

_Runner = Callable[[numpy.ndarray], numpy.ndarray]


def main(folder: Path) -> None:
    """Run the file on each batch; leave the outputs, the metadata and the name of what ran it."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    run, metadata, by = _OPENERS[job["format"]](job["file"], job["path"])
    for number in range(job["batches"]):
        batch = numpy.load(folder / f"input-{number}.npy")
        numpy.save(folder / f"output-{number}.npy", run(prepared(batch, metadata)))
    said = {"metadata": metadata, "by": by}
    (folder / "said.json").write_text(json.dumps(said), encoding="utf-8")


def prepared(batch: numpy.ndarray, metadata: Mapping[str, Any]) -> numpy.ndarray:
    """Return a batch as the file's metadata says that it takes one: as it is, or scaled and normalised."""
    if metadata["preprocessing"] or metadata["input"] == "int64":
        return batch
    values = batch.astype(numpy.float64) / (255 if batch.dtype == numpy.uint8 else 1)
    if metadata["mean"] is not None:
        mean, std = (numpy.reshape(metadata[name], (-1,) + (1,) * (batch.ndim - 2)) for name in ("mean", "std"))
        values = (values - mean) / std
    return values.astype(numpy.float32)


def _onnx(file: str, path: list[str]) -> tuple[_Runner, dict[str, Any], str]:
    sys.modules["torch"] = None  # type: ignore[assignment]  # an import of it fails: the file must do without
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    metadata = {key: value if key in TEXTS else json.loads(value) for key, value in said.items()}
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0], metadata, f"onnxruntime {onnxruntime.__version__}"


def _torch_export(file: str, path: list[str]) -> tuple[_Runner, dict[str, Any], str]:
    sys.modules["dlwp"] = None  # type: ignore[assignment]  # an import of it fails: the file must do without
    import torch

    extra = {"dlwp.json": ""}
    model = torch.export.load(file, extra_files=extra).module()
    return _of_module(model), json.loads(extra["dlwp.json"]), f"torch {torch.__version__}"


def _safetensors(file: str, path: list[str]) -> tuple[_Runner, dict[str, Any], str]:
    import safetensors

    sys.path[:] = path  # of the process that wrote the file: the same dlwp, and classes of the person's own
    from dlwp.inference import networks
    from dlwp.parts import Trust

    with safetensors.safe_open(file, framework="numpy") as opened:
        said = opened.metadata()
    metadata = {key: value if key in TEXTS else json.loads(value) for key, value in said.items() if key != "format"}
    # the class was built a moment ago in the process that started this one, under its own rule of trust
    return (
        _of_module(networks.of_file(file, Trust()).model),
        metadata,
        f"dlwp {metadata['dlwp']} (the model built again)",
    )


def _of_module(model: Any) -> _Runner:
    import torch

    def run(batch: numpy.ndarray) -> numpy.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(batch)).numpy()

    return run


def _python(file: str, path: list[str]) -> tuple[_Runner, dict[str, Any], str]:
    sys.modules["torch"] = sys.modules["dlwp"] = None  # type: ignore[assignment]  # the file must do without
    import importlib.util

    spec = importlib.util.spec_from_file_location("exported", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    metadata = json.loads(module.METADATA)

    def run(batch: numpy.ndarray) -> numpy.ndarray:
        columns = {name: batch[:, at].astype(numpy.float64) for name, at in metadata["columns"].items()}
        found = module.predict(**columns)
        several = found if isinstance(found, tuple) else (found,)
        return numpy.stack([numpy.broadcast_to(one, len(batch)) for one in several], 1)

    return run, metadata, f"Python {sys.version.split()[0]}"


_OPENERS = {"python": _python, "onnx": _onnx, "torch_export": _torch_export, "safetensors": _safetensors}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
