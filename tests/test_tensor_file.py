"""A file of tensors is what safetensors reads, and takes no memory to write."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from dlwp import tensor_file

HALVES = torch.arange(12.0).view(3, 4).to(torch.bfloat16)
TENSORS = {
    "weight": torch.randn(2, 3, 4, 4),
    "channels_last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    "halves": HALVES,
    "transposed": HALVES.T,
    "row": HALVES[1],
    "expanded": torch.tensor([1.0]).expand(5),
    "none": torch.zeros(0, 4),
    "scalar": torch.tensor(3),
    "flags": torch.tensor([True, False, True]),
    "complex": torch.tensor([1 + 2j, 3j]).conj(),
    "größe": torch.tensor(2.5, dtype=torch.float64),
}


def test_safetensors_reads_what_is_written() -> None:
    read = safetensors.torch.load(b"".join(tensor_file.pieces(TENSORS)))
    assert set(read) == set(TENSORS)
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in TENSORS.items())


def test_the_bytes_are_those_of_the_library() -> None:
    plain = {
        name: TENSORS[name].contiguous() for name in ("weight", "channels_last", "halves", "none", "scalar", "flags")
    }
    assert b"".join(tensor_file.pieces(plain)) == safetensors.torch.save(plain, metadata={"format": "pt"})


def test_a_tensor_that_lies_in_order_is_not_copied() -> None:
    weight = torch.zeros(4)
    _, piece = tensor_file.pieces({"weight": weight})
    weight.fill_(1.0)
    assert bytes(piece) == torch.ones(4).numpy().tobytes()


def test_a_type_that_the_format_lacks_is_named() -> None:
    with pytest.raises(TypeError, match=r"weight is torch\.complex128"):
        b"".join(tensor_file.pieces({"weight": torch.zeros(1, dtype=torch.complex128)}))
