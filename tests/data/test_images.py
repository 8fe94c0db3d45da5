"""The named picture sets keep their promises: shapes, classes, layouts, and one line where they are missing."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch

from dlwp import torchvision_ops
from dlwp.data import images
from dlwp.data.splits import ArrayDataset, Splits
from dlwp.errors import DataError

SETS = [images.mnist, images.fashion_mnist, images.cifar10, images.cifar100, images.svhn]
DataRoot = Callable[[str], Path]
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def check(data: Splits, shape: tuple[int, ...], sizes: tuple[int, int], classes: int) -> None:
    """Check shape and size of both splits, and that each class is there as often as it should be."""
    for part, size in zip((data.train, data.test), sizes):
        assert isinstance(part, ArrayDataset)
        assert part.inputs.shape == (size, *shape) and part.inputs.dtype == torch.uint8
        assert part.targets.dtype == torch.int64 and len(part.targets.unique()) == classes
    assert data.facts.task == "classification"
    assert data.facts.classes is not None and len(data.facts.classes) == data.facts.num_classes == classes


def test_digits_have_a_fixed_stratified_test_split() -> None:
    data, again = images.digits(), images.digits()
    check(data, (1, 8, 8), (1438, 359), 10)
    assert torch.equal(data.test.inputs, again.test.inputs)
    assert torch.bincount(data.test.targets).tolist() == pytest.approx([36] * 10, abs=1)
    assert (data.train.inputs.min(), data.train.inputs.max()) == (0, 255)


def test_digits_are_read_without_importing_scikit_learn() -> None:
    code = "import sys; from dlwp.data import images; images.digits(); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize("make", [images.mnist, images.fashion_mnist])
def test_the_real_mnist_sets(make: Callable[..., Splits], data_root: DataRoot) -> None:
    root = data_root({"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw"}[make.__name__])
    data = make(str(root), download=False)
    check(data, (1, 28, 28), (60_000, 10_000), 10)


def test_the_real_cifar10_from_jpeg_pictures(data_root: DataRoot) -> None:
    root = data_root("cifar10")
    data = images.cifar10(str(root), download=False)
    check(data, (3, 32, 32), (50_000, 10_000), 10)
    assert data.facts.classes == CIFAR10_CLASSES
    assert data.notes[0] == f"read from JPEG pictures in {root / 'cifar10'}, not from the original binary files"
    mean = data.train.inputs.float().mean((0, 2, 3)) / 255
    assert mean.tolist() == pytest.approx([0.4913, 0.4821, 0.4465], abs=1e-4)


def test_cifar_is_read_in_torchvisions_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision_ops.ensure_importable()
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = numpy.arange(20 * 3072, dtype=numpy.int64).reshape(20, 3072).astype(numpy.uint8)

    def write(name: str, content: dict[str, object]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    part = {"data": pixels, "labels": [*range(10), *range(10)]}
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", write("data_batch_1", part)]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", write("test_batch", part)]])
    names = [f"kind {number}" for number in range(10)]
    md5 = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5})
    data = images.cifar10(str(tmp_path), download=False)
    check(data, (3, 32, 32), (20, 20), 10)
    assert data.facts.classes == names
    assert torch.equal(data.train.inputs.reshape(20, -1), torch.from_numpy(pixels))


@pytest.mark.parametrize("make", SETS)
def test_a_missing_folder_and_a_missing_set_are_told_in_one_line(make: Callable[..., Splits], tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    with pytest.raises(DataError) as caught:
        make(str(tmp_path / "datasets"), download=False)
    near = f"no data folder '{tmp_path / 'datasets'}' (data.root). Near it: '{tmp_path / 'dataset'}'"
    assert caught.value.message == near
    with pytest.raises(DataError) as caught:
        make(str(tmp_path / "dataset"), download=False)
    told = f"{make.__name__} is not in '{tmp_path / 'dataset'}', or not whole there. "
    assert caught.value.message == told + "Add data.download=true, or set data.root"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every connection to a port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (images.cifar10, "cifar-10-python.tar.gz (md5 c58f30108f718f92721af3b95e74349a) into '{}'"),
        (images.cifar100, "cifar-100-python.tar.gz (md5 eb9058c3a382ffc7106e4002c42a8d85) into '{}'"),
        (images.mnist, "train-images-idx3-ubyte.gz (md5 f68b3c2dcbeaaa9fbdd348bbdeb94873) and 3 more into '{}/MNIST/raw'"),  # noqa: E501
        (images.svhn, "train_32x32.mat (md5 e26dedcc434d2e4c54c9b2d4a06d8373) into '{}'"),
    ],
)  # fmt: skip
def test_without_network_the_file_its_place_and_its_checksum_are_told(
    make: Callable[..., Splits], words: str, tmp_path: Path, no_network: None
) -> None:
    root = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        make(str(root), download=True)
    assert caught.value.message.startswith("cannot reach ")
    assert caught.value.message.endswith(". Put " + words.format(root))
    assert "\n" not in caught.value.message


def test_a_web_page_in_place_of_the_file_is_removed(tmp_path: Path, no_network: None) -> None:
    file = tmp_path / "train_32x32.mat"
    file.write_text("<!DOCTYPE html><title>503</title>")
    md5 = hashlib.md5(file.read_bytes()).hexdigest()[:8]
    with pytest.raises(DataError) as caught:
        images.svhn(str(tmp_path), download=True)
    expected = f"{file}: md5 is {md5}…, expected e26dedcc… (it looks like a web page). Removed; try again"
    assert caught.value.message == expected
    assert not file.exists()


def test_a_damaged_file_stays_where_nothing_may_be_fetched(tmp_path: Path) -> None:
    file = tmp_path / "train_32x32.mat"
    file.write_bytes(b"cut")
    with pytest.raises(DataError, match="Remove it, and try again"):
        images.svhn(str(tmp_path), download=False)
    assert file.exists()


def test_a_half_written_mnist_file_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 60_000, 28, 28) + b"\0" * 100)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte has 116 bytes, expected 47,040,016\. Remove it"):
        images.mnist(str(tmp_path), download=False)


def test_what_was_put_there_by_hand_is_unpacked(tmp_path: Path, no_network: None, data_root: DataRoot) -> None:
    source = data_root("MNIST/raw") / "MNIST" / "raw"
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.name.endswith("ubyte") and file.name != "t10k-labels-idx1-ubyte":
            (folder / file.name).symlink_to(file)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress((source / "t10k-labels-idx1-ubyte").read_bytes()))
    with pytest.raises(
        DataError, match=r"t10k-labels-idx1-ubyte.gz: md5 is .*, expected ec29112d…\. Removed; try again"
    ):
        images.mnist(str(tmp_path))  # a file of the same content, packed otherwise, is not the one that was published
