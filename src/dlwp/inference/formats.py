"""Own the bytes of an exported file: ONNX, torch.export's program, or safetensors, each with its metadata.

Knows nothing of where they are written, nor whether they are right.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dlwp import tensor_file
from dlwp.data.datasets import Facts
from dlwp.errors import RunError
from dlwp.inference.networks import Network
from dlwp.inference.rerun import TEXTS


class Whole(nn.Module):
    """A model with what lies before and behind it: softmax(model(factor · inputs + offset)).

    Args:
        model: gives (B, K), or an output of any shape. factor, offset: against one input; None: it is taken as it is.
        softmax: whether probabilities are given in place of logits.
    """

    factor: Tensor
    offset: Tensor

    def __init__(self, model: nn.Module, constants: tuple[Tensor, Tensor] | None, softmax: bool) -> None:
        super().__init__()
        self.model = model
        self.scales, self.softmax = constants is not None, softmax
        if constants is not None:
            self.register_buffer("factor", constants[0])
            self.register_buffer("offset", constants[1])

    def forward(self, input: Tensor) -> Tensor:
        values = input.float() * self.factor + self.offset if self.scales else input
        outputs = self.model(values)
        return outputs.softmax(1) if self.softmax else outputs


def constants(facts: Facts) -> tuple[Tensor, Tensor]:
    """Return factor and offset of shape (C, 1, ...) that scale and normalise: (scale · x - mean) / std.

    Source: `BatchTransform`, which trained the model and against which the file is compared.
    """
    shape = (-1,) + (1,) * (len(facts.input_shape) - 1)
    scale = 1 / 255 if len(facts.input_shape) == 3 else 1.0  # pictures are uint8
    mean = torch.tensor(facts.mean or [0.0], dtype=torch.float64)
    std = torch.tensor(facts.std or [1.0], dtype=torch.float64)
    return (scale / std).view(shape).float(), (-mean / std).view(shape).float()


def onnx(whole: nn.Module, example: Tensor, output: str, metadata: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the bytes of an ONNX model with a batch of any size, and its opset for a person.

    Raises:
        RunError: torch cannot translate the model, or it has more than the 2 GB that one such file can hold.
    """
    with _quiet("onnx", whole):
        program = torch.onnx.export(
            whole, (example,), dynamo=True, verbose=False, input_names=["input"], output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )  # fmt: skip
        assert program is not None
        program.model.metadata_props.update(as_text(metadata))
        return program.model_proto.SerializeToString(), f"ONNX opset {program.model.opset_imports['']}"


def torch_export(whole: nn.Module, example: Tensor, output: str, metadata: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the bytes of a program of torch.export with a batch of any size, and what it is for a person.

    Raises:
        RunError: torch cannot trace the model.
    """
    with _quiet("torch_export", whole):
        program = torch.export.export(whole, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={"dlwp.json": json.dumps(metadata)})
        return buffer.getvalue(), f"program of torch.export ({torch.__version__})"


def safetensors(network: Network, metadata: Mapping[str, Any]) -> tuple[Iterable[bytes | memoryview], str]:
    """Return the bytes of a file of the weights, piece by piece, that says how its model is built again."""
    tensors = network.model.state_dict()
    said = {**metadata, "model": network.section, "facts": network.facts.record()}
    return tensor_file.pieces(tensors, as_text(said)), f"{len(tensors):,} tensors"


def python(network: Network, metadata: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the source of a module with the fitted formula as `predict`, and the formula for a person."""
    model: Any = network.model
    with torch.no_grad():
        fitted = {name: value.tolist() for name, value in model.parameters_().items()}
    source, head = model.python("predict", fitted), "; ".join(model.describe()[:-1])
    values = [f"{name} = {_listed(value)}" for name, value in fitted.items()]
    imports = ["import numpy", *(["import scipy.special"] if "scipy." in source else [])]
    lines = [
        f'"""{head}', "", *values, "", f"Fitted and written by dlwp {metadata['dlwp']}.", '"""', "",
        *imports, "", f"METADATA = {json.dumps(metadata)!r}", "", "", source, "",
    ]  # fmt: skip
    return "\n".join(lines).encode(), head


def _listed(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else f"{len(value)} numbers"


def as_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata as text by key: JSON, but for what is text already."""
    return {
        key: value if key in TEXTS else json.dumps(value, ensure_ascii=False, allow_nan=False)
        for key, value in metadata.items()
    }


@contextlib.contextmanager
def _quiet(format: str, whole: nn.Module) -> Iterator[None]:
    """Keep from the person what torch's exporters print, log and warn; turn what they raise into one line."""
    before, said = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    except MemoryError:
        raise
    except Exception as error:  # any error: the exporters raise what they like of what a model does
        why = next((line for line in _innermost(error).splitlines() if line.strip()), type(error).__name__)
        name = type(getattr(whole, "model", whole)).__name__
        raise RunError(
            f"format={format}: torch cannot export {name} with a batch of any size ({why.strip()[:200]}). "
            "format=safetensors keeps its weights"
        ) from error
    finally:
        logging.disable(before)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\x1b\[\d+m", "", str(error))  # torch colours what it raises
