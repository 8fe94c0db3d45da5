"""Own the bytes of a file of tensors as they are written: the safetensors format, piece by piece, without a copy.

Knows nothing of what the tensors are. Reading is left to safetensors, whose writer would hold the whole file in memory
or write past `runs.files`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Type of numbers -> its name in a file."""


def pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a file of these tensors: its header, then each tensor's own memory.

    A tensor is copied only where it is not on the host or does not lie there in order, and then alone.

    Args:
        tensors: by name; of any device and strides. metadata: further text that the header holds.

    Raises:
        TypeError: the format has no such type of numbers.

    Source: github.com/huggingface/safetensors, "Format".
    """
    header: dict[str, Any] = {"__metadata__": {**(metadata or {}), "format": "pt"}}
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # so that each is aligned
    end = 0
    for name, tensor in ordered:
        if tensor.dtype not in NAMES:
            raise TypeError(f"{name} is {tensor.dtype}, which a file of tensors cannot hold")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        yield plain.view(-1).view(torch.uint8).numpy().data
