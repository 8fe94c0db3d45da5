"""Hold that torchvision imports whether or not its compiled operators fit the installed torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from dlwp.torchvision_ops import ensure_importable


def in_a_new_process(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program apart: what torchvision registers cannot be taken back in this process."""
    return subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)


def test_after_the_door_torchvision_works_and_a_second_call_says_the_same() -> None:
    said = ensure_importable()
    import torchvision
    from torchvision.transforms import v2

    assert said in ("compiled", "declared") and ensure_importable() == said
    assert v2.functional.horizontal_flip(torch.arange(4).view(1, 1, 4)).flatten().tolist() == [3, 2, 1, 0]
    assert torchvision.models.resnet18(num_classes=3).fc.out_features == 3


def test_the_door_is_needed_where_the_operators_are_declared() -> None:
    """The fault that the door is for: once torchvision no longer has it, the door can go."""
    if ensure_importable() == "compiled":
        pytest.skip("torchvision's compiled operators fit the torch that is installed")
    assert "operator torchvision::nms does not exist" in in_a_new_process("import torchvision").stderr


def test_operators_that_fit_no_longer_are_declared() -> None:
    """Break the operators as an unfitting build does: the library is there and cannot be loaded."""
    if ensure_importable() == "declared":
        pytest.skip("torchvision's compiled operators do not fit the torch that is installed: declared already")
    program = """
import torch
from dlwp import torchvision_ops
def refuse(path):
    raise OSError("undefined symbol")
torch.ops.load_library = refuse
print(torchvision_ops.ensure_importable())
import torchvision
"""
    done = in_a_new_process(program)
    assert (done.returncode, done.stdout.strip()) == (0, "declared"), done.stderr
