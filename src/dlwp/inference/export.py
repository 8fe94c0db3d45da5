"""Own the export of a network: written under another name, run in a new process, compared, and only then in its place.

Knows nothing of configs and command lines, nor of the bytes of a format. Torch is imported inside the functions, so
that wrong options are refused at once.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp import __version__
from dlwp.errors import ConfigError, MachineError, RunError, did_you_mean
from dlwp.runs import files

if TYPE_CHECKING:
    from torch import Tensor

    from dlwp.data.datasets import Facts
    from dlwp.inference.networks import Network

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors", "python": ".py"}
"""Format -> the ending of its files' names."""

LIMIT = 1e-4
"""The largest difference of an output that is let pass, in parts of the largest output: see `difference`."""

SIZES = (1, 2, 5)
"""Samples of the batches that are compared: of several sizes, so that the file is seen to take any."""

_ONE = {"logits": "logit", "probabilities": "probability", "output": "output"}
_TRIES, _HUGE = 4000, 1e30
_NEEDED = {"onnx": ("onnx", "onnxruntime", "onnxscript")}


def check(
    format: str = "onnx",
    output: str | Path | None = None,
    preprocessing: bool = False,
    softmax: bool = False,
    inputs: Sequence[str] = (),
) -> None:
    """Refuse options of `export` that cannot work, before anything slow is imported.

    Raises:
        ConfigError: an unknown format, or an option without effect. MachineError: a package is missing.
    """
    if format not in SUFFIXES:
        raise ConfigError(f"no format '{format}'.{did_you_mean(format, SUFFIXES)} There are: {', '.join(SUFFIXES)}")
    for name in [name for name, value in (("preprocessing", preprocessing), ("softmax", softmax)) if value]:
        if format in ("safetensors", "python"):
            held = "weights" if format == "safetensors" else "a formula"
            raise ConfigError(f"{name}=true has no effect on format={format}, which holds {held}. Leave it out")
    if output is not None and Path(output).expanduser().is_dir():
        raise ConfigError(f"output={output} is a folder. output={Path(output) / ('model' + SUFFIXES[format])}")
    if any(importlib.util.find_spec(name) is None for name in _NEEDED.get(format, ())):
        raise MachineError(
            "format=onnx needs the packages onnx, onnxruntime and onnxscript: pip install 'dlwp[onnx]'"
        )  # fmt: skip


def export(
    network: Network,
    format: str = "onnx",
    output: str | Path | None = None,
    preprocessing: bool = False,
    *,
    softmax: bool = False,
    inputs: Sequence[str] = (),
    say: Callable[[str], Any] = lambda line: None,
) -> Path:
    """Write a network to a file that runs elsewhere, and return its path.

    The file has its name only when a new process, with nothing but the file, has run it on batches of 1, 2 and 5
    inputs, prepared as its metadata says, and its outputs differ from the network's by at most `LIMIT`.

    Args:
        network: of any task.
        format: onnx (runs in onnxruntime), torch_export (runs in torch, without the model's code; torch.export.load is
            for files that one trusts), safetensors (the weights, with what builds the model again by dlwp), or python
            (a fitted formula as a function of NumPy arrays).
        output: of the file; None: RUN/export/model with the format's ending, or ./NAME of a published network.
        preprocessing: whether uint8 pictures (B, C, H, W) go in, scaled and normalised inside; else float32 that is.
        softmax: whether probabilities come out of a network that classifies, else logits.
        inputs: pictures that are compared on (files, folders, patterns); none: smooth random ones drawn by a seed.
        say: called with each line that a person is told.

    Raises:
        ConfigError, MachineError: see `check`; the disk is full. DataError: a picture of `inputs` cannot be read.
        RunError: the model cannot be exported, or the file gives other outputs than it. No file is left then.
    """
    from dlwp import devices

    check(format, output, preprocessing, softmax, inputs)
    facts = network.facts
    if not facts.input_shape:
        raise ConfigError(f"{network.name} does not say what shape its inputs have: train it on data of one shape")
    if preprocessing and facts.task == "sequence":
        raise ConfigError("preprocessing=true has no effect on a network that takes tokens. Leave it out")
    devices.limit_threads()
    path = network.stem.with_name(network.stem.name + SUFFIXES[format])
    path = path if output is None else Path(output).expanduser()
    is_formula = hasattr(network.model, "python")
    if format == "python" and not is_formula:
        raise ConfigError(f"format=python is for formulas (model=expression), {network.name} has none. format=onnx")
    batches = _defined(network) if is_formula else _batches(facts, inputs)
    expected = _expected(network, batches)
    output_name = "logits" if _classifies(facts, expected[0]) else "output"
    if softmax:
        if output_name != "logits":
            raise ConfigError(f"softmax=true is for networks that classify; {network.name} does not. Leave it out")
        output_name, expected = "probabilities", [one.softmax(1) for one in expected]
    metadata = _metadata(network, preprocessing, output_name)
    data, what = _bytes(network, format, metadata, batches)
    size, checked = _written(path, format, data, metadata, batches, expected)
    for line in _told(network, path, format, f"{size / 1e6:.3g} MB · {what}", metadata, expected[0].shape, checked):
        say(line)
    return path


def _written(
    path: Path, format: str, data: bytes | Iterable[bytes | memoryview], metadata: dict[str, Any],
    batches: Sequence[Tensor], expected: Sequence[Tensor],
) -> tuple[int, str]:  # fmt: skip
    """Put a file in its place if it is right; return its size, and how right it is for a person."""
    import torch

    temporary = path.parent / f".tmp-{files.unique()}-{path.name}"  # its ending stays: torch looks at it
    try:
        files.make_folders(path.parent)
        files.write_synced(temporary, data)
        found, by = _rerun(temporary, format, batches, metadata)
        gap = difference(found, expected)
        if not gap <= LIMIT:  # a NaN is not
            raise RunError(
                f"format={format}: the file gives other outputs than the network: they differ by {gap:.1e} of the "
                f"largest, at most {LIMIT:.0e} is let pass. Nothing was written to {path}"
            )
        size = temporary.stat().st_size
        files.rename(temporary, path)
    except OSError as error:
        raise MachineError(files.fault(error, path)) from None
    finally:
        files.remove(temporary)
    largest, one = max(float(each.abs().max()) for each in expected), _ONE[metadata["output"]]
    sizes = f"{', '.join(map(str, SIZES[:-1]))} and {SIZES[-1]}"
    text = f"by {by} in a new process, on batches of {sizes}: largest difference {gap:.1e} of the largest {one}"
    whole = torch.cat(list(expected))
    alike = bool(((whole - whole[0]).abs().max() <= LIMIT * largest).item())
    return size, f"{text}, {largest:.3g}" + ", which is the same for all inputs: that proves little" * alike


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return by how much outputs differ: max |found - expected| / max |expected|, over all batches together.

    Logits are a few units large, so that it is about the absolute difference, and less. A NaN in either gives NaN,
    another shape infinity. Where all that is expected is 0, the difference is absolute.
    """
    import torch

    if any(one.shape != other.shape for one, other in zip(found, expected, strict=True)):
        return math.inf
    gaps = torch.stack([(one.double() - other.double()).abs().max() for one, other in zip(found, expected)])
    largest = torch.stack([one.double().abs().max() for one in expected]).max()
    return float(gaps.max() / largest) if largest != 0 else float(gaps.max())


def _expected(network: Network, batches: Sequence[Tensor]) -> list[Tensor]:
    """Return what the network itself gives of the batches, prepared as in training and prediction."""
    import torch
    from torch import Tensor

    from dlwp.data.augment import BatchTransform

    transform = BatchTransform([], network.facts.mean, network.facts.std, train=False)
    try:
        with torch.inference_mode():
            outputs = [network.model(transform(batch)[0]) for batch in batches]
    except (RuntimeError, TypeError, IndexError) as error:  # what torch raises of inputs that do not fit
        shape, why = list(network.facts.input_shape), (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{network.name} does not take one tensor of numbers {shape} ({why[:150]})") from error
    if not isinstance(outputs[0], Tensor):
        raise ConfigError(f"{network.name} gives {type(outputs[0]).__name__}; only a model of one tensor is exported")
    if not all(bool(one.isfinite().all()) for one in outputs):
        raise RunError(f"{network.name} itself gives NaN or infinite outputs: there is nothing to compare a file with")
    return outputs


def _classifies(facts: Facts, outputs: Tensor) -> bool:
    """Whether outputs are logits (B, K): data with classes may have trained a network that makes no use of them."""
    return facts.task == "classification" and outputs.dim() == 2 and outputs.shape[1] >= (facts.num_classes or 1)


def _metadata(network: Network, preprocessing: bool, output_name: str) -> dict[str, Any]:
    from dlwp.data.pictures import Form

    facts = network.facts
    form = None
    if _takes_pictures(facts):
        form = dataclasses.asdict(Form(facts.input_shape[1], facts.input_shape[2], **(facts.form or {})))
    further: dict[str, Any] = {} if facts.encoding is None else {"encoding": facts.encoding}
    if further.get("encoding", {}).get("kind") == "table":
        further |= {"inputs": facts.inputs, "target_mean": facts.target_mean, "target_std": facts.target_std}
    if hasattr(network.model, "python"):
        further["columns"] = _columns(network)
    return further | {
        "dlwp": __version__,
        "name": "/".join(Path(network.name).parts[-3:]),  # of a path no more: the file may go to strangers
        "task": facts.task,
        "input": _kind(facts, preprocessing),
        "output": output_name,
        "preprocessing": preprocessing,
        "input_shape": list(facts.input_shape),
        "classes": facts.classes,
        "mean": facts.mean,
        "std": facts.std,
        "form": form,
    }


def _columns(network: Network) -> dict[str, int]:
    """Return the columns that a formula looks at, and where they stand in its inputs."""
    model: Any = network.model
    return {name: model.columns.index(name) for name in model.used}


def _kind(facts: Facts, preprocessing: bool) -> str:
    """Return the kind of number that goes in."""
    if facts.task == "sequence":
        return "int64"
    return "uint8" if preprocessing and _takes_pictures(facts) else "float32"


def _takes_pictures(facts: Facts) -> bool:
    return len(facts.input_shape) == 3


def _bytes(
    network: Network, format: str, metadata: dict[str, Any], batches: Sequence[Tensor]
) -> tuple[bytes | Iterable[bytes | memoryview], str]:
    from dlwp.inference import formats

    if format == "safetensors":
        return formats.safetensors(network, metadata)
    if format == "python":
        return formats.python(network, metadata)
    preprocessing = metadata["preprocessing"]
    constants = formats.constants(network.facts) if preprocessing else None
    whole = formats.Whole(network.model, constants, metadata["output"] == "probabilities").eval()
    example = batches[1] if preprocessing or metadata["input"] == "int64" else batches[1].float()
    writer = formats.onnx if format == "onnx" else formats.torch_export
    return writer(whole, example, metadata["output"], metadata)


# ---- what is compared on --------------------------------------------------------------------------------------------


def _batches(facts: Facts, inputs: Sequence[str]) -> list[Tensor]:
    """Return batches of `SIZES` inputs: the pictures given, again and again, or ones drawn by a seed."""
    import torch

    if inputs:
        whole = _read(facts, inputs)
    else:
        whole = _drawn(facts, torch.Generator().manual_seed(0))
    return list(whole[[number % len(whole) for number in range(sum(SIZES))]].split(SIZES))


def _defined(network: Network) -> list[Tensor]:
    """Return batches of columns, of many sizes and signs, at which a formula is finite."""
    import torch

    draw, wanted = torch.Generator().manual_seed(0), sum(SIZES)
    size = 10 ** (6 * torch.rand(_TRIES, 1, generator=draw) - 3)
    rows = size * torch.randn(_TRIES, *network.facts.input_shape, generator=draw)
    rows = torch.cat([rows[::2], rows[1::2].abs()])
    with torch.inference_mode():
        outputs = network.model(rows)
    good = rows[(outputs.isfinite() & (outputs.abs() < _HUGE)).all(1)]
    if len(good) < wanted:
        raise RunError(
            f"{network.name} is finite at {len(good)} of {_TRIES:,} places tried: too few to compare a file on"
        )
    return list(good[:: len(good) // wanted][:wanted].split(SIZES))


def _read(facts: Facts, inputs: Sequence[str]) -> Tensor:
    import numpy
    import torch

    from dlwp.data import pictures
    from dlwp.inference import sources
    from dlwp.inference.predictor import in_channels

    if not _takes_pictures(facts) or facts.input_shape[0] not in (1, 3):
        raise ConfigError(f"inputs=PICTURES is for networks of pictures; this one takes {list(facts.input_shape)}")
    channels, height, width = facts.input_shape
    form = pictures.Form(height, width, **(facts.form or {}))
    paths = sources.expand(inputs)[: sum(SIZES)]
    arrays = [pictures.decode(path, number, form) for number, path in enumerate(paths)]
    batch = torch.from_numpy(numpy.stack(arrays)).permute(0, 3, 1, 2)  # (B, H, W, 3) to (B, 3, H, W)
    return in_channels(batch, channels).contiguous()


def _drawn(facts: Facts, generator: Any) -> Tensor:
    """Return smooth pictures, each with a brightness and contrast of its own, or numbers spread as the data's."""
    import torch

    count = sum(SIZES)
    if facts.task == "sequence":
        return torch.randint(facts.num_classes or 1, (count, *facts.input_shape), generator=generator)
    if not _takes_pictures(facts):
        numbers = torch.randn(count, *facts.input_shape, generator=generator)
        shape = (-1,) + (1,) * (len(facts.input_shape) - 1)
        if facts.mean is not None and facts.std is not None:
            numbers = numbers * torch.tensor(facts.std).view(shape) + torch.tensor(facts.mean).view(shape)
        for at, size in enumerate(reversed(facts.cardinalities or []), 1):  # the last columns are categories
            numbers[:, -at] = torch.randint(size, (count,), generator=generator).float()
        return numbers
    channels, height, width = facts.input_shape
    coarse = torch.randn(count, channels, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    light = torch.rand(2, count, 1, 1, 1, generator=generator)
    return ((0.3 + 0.4 * light[0] + (0.1 + 0.2 * light[1]) * smooth).clamp(0, 1) * 255).round().to(torch.uint8)


def _rerun(file: Path, format: str, batches: Sequence[Tensor], metadata: dict[str, Any]) -> tuple[list[Tensor], str]:
    """Return what a new process makes of the batches with the file alone, and what ran it."""
    import numpy
    import torch

    script = Path(__file__).with_name("rerun.py")
    with tempfile.TemporaryDirectory(prefix="dlwp-export-") as folder:
        place = Path(folder)
        job = {"format": format, "file": str(file.absolute()), "batches": len(batches), "path": sys.path}
        (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
        for number, batch in enumerate(batches):
            numpy.save(place / f"input-{number}.npy", batch.numpy())
        command = [sys.executable, "-P", str(script), folder]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, errors="replace")
        if done.returncode != 0:
            raise RunError(f"format={format}: the file does not run in a new process ({_why(done)}). None is left")
        said = json.loads((place / "said.json").read_text(encoding="utf-8"))
        found = [torch.from_numpy(numpy.load(place / f"output-{number}.npy")) for number in range(len(batches))]
    kept = {name: said["metadata"].get(name) for name in metadata}
    if kept != metadata:
        raise RunError(f"format={format}: the file does not hold the metadata that was put in. None is left")
    return found, said["by"]


def _why(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a process that failed raised, in one line: the last line of its traceback, and what follows it."""
    lines = done.stderr.strip().splitlines()
    begin = max((at for at, line in enumerate(lines) if re.match(r"[\w.]+: ", line)), default=0)
    text = " ".join(" ".join(lines[begin:]).split())
    return text.rpartition("ONNXRuntimeError] : ")[2][:300] or f"status {done.returncode}"


# ---- what is told ---------------------------------------------------------------------------------------------------


def _told(
    network: Network, path: Path, format: str, what: str, metadata: dict[str, Any], shape: Sequence[int], checked: str
) -> list[str]:
    """Return the lines that say what was written, what goes in and comes out, how right it is, and how it is run."""
    from dlwp.observers.console import labelled

    shape_in, shape_out = (", ".join(["batch", *map(str, one)]) for one in (network.facts.input_shape, shape[1:]))
    lines = {
        "exported": [f"{path} · {what}"],
        "input": [f"input: {metadata['input']} ({shape_in}), {_way_in(metadata)}"],
        "output": [f"{metadata['output']}: float32 ({shape_out}){_names(metadata)}"],
        "checked": [checked],
        "run it": _snippet(network, path, format, metadata),
    }
    return labelled(lines)


def _way_in(metadata: dict[str, Any]) -> str:
    pictures = metadata["form"] is not None
    if metadata["input"] == "int64":
        return "tokens, numbers of the classes that the metadata name"
    if metadata["preprocessing"]:
        steps = ["scaled to [0, 1]"] * pictures + ["normalised"] * (metadata["mean"] is not None)
        inside = f", {' and '.join(steps)} inside" if steps else ""
        return f"{'pictures' if pictures else 'numbers'} as they are{inside}"
    scaled = "pictures in [0, 1]" if pictures else "numbers"
    if "inputs" in metadata:
        return "rows as the encoding in the metadata makes them of columns"
    if metadata["mean"] is None:
        return scaled + (", standardised as encoding.scale in the metadata says" if metadata.get("encoding") else "")
    rounded = [[float(f"{one:.4g}") for one in metadata[name][:3]] for name in ("mean", "std")]
    more = ["…" if len(metadata["mean"]) > 3 else ""] * 2
    mean, std = (f"[{', '.join(map(str, some))}{end}]" for some, end in zip(rounded, more))
    return f"{scaled}, minus mean {mean}, by std {std}"


def _names(metadata: dict[str, Any]) -> str:
    classes = metadata["classes"]
    if not classes or metadata["output"] == "output":
        return ""
    return f", of {', '.join(classes[:3])}" + (f", … ({len(classes):,} classes)" if len(classes) > 3 else "")


def _snippet(network: Network, path: Path, format: str, metadata: dict[str, Any]) -> list[str]:
    """Return lines of Python that run the file as they stand."""
    shape = ", ".join(map(str, [1, *metadata["input_shape"]]))
    kind, output, place = metadata["input"], metadata["output"], json.dumps(str(path), ensure_ascii=False)
    if format == "onnx":
        return [
            "import numpy, onnxruntime",
            f"session = onnxruntime.InferenceSession({place})",
            f'({output},) = session.run(None, {{"input": numpy.zeros(({shape}), "{kind}")}})',
            "metadata = session.get_modelmeta().custom_metadata_map",
        ]
    if format == "torch_export":
        return [
            "import torch",
            f"model = torch.export.load({place}).module()",
            f"{output} = model(torch.zeros({shape}, dtype=torch.{kind}))",
        ]
    if format == "python":
        names = list(network.model.used)  # type: ignore[arg-type]
        return [
            f"from {path.stem} import predict",
            f"predict({', '.join(f'{name}=…' for name in names)})  # numbers, or arrays of them",
        ]
    from dlwp.parts import TRUSTED_PACKAGES

    package = network.section["_target_"].partition(".")[0]
    trusted = "" if package in TRUSTED_PACKAGES else f', trust=["{package}"]'
    return [
        "import torch",
        "from dlwp.inference.networks import of_file",
        f"network = of_file({place}{trusted})  # .model, .facts",
        f"{output} = network.model(torch.zeros({shape}{', dtype=torch.int64' if kind == 'int64' else ''}))",
    ]
