"""Own the picture data sets that have a name: where each lies, how it is fetched, and its classes.

Knows nothing of how pictures are fed, augmented or learned from. Every set is given whole, as uint8 (N, C, H, W).
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse

import numpy
import torch
from torch import Tensor

from dlwp.data import pictures
from dlwp.data.datasets import ArrayDataset, Facts, Splits
from dlwp.data.splits import cut_validation
from dlwp.errors import DataError, MachineError, nearest

_DIGITS = [str(digit) for digit in range(10)]
_IDX_BYTES = {
    "train-images-idx3-ubyte": 47_040_016, "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016, "t10k-labels-idx1-ubyte": 10_008,
}  # fmt: skip


def digits() -> Splits:
    """Return 1,797 handwritten digits, 8x8 grey, that come with scikit-learn; a fixed fifth of them is the test split.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (UCI).
    """
    spec = importlib.util.find_spec("sklearn")  # importing it would take 1.4 s
    if spec is None or spec.origin is None:
        raise MachineError("data=digits needs the package scikit-learn: pip install scikit-learn")
    table = numpy.loadtxt(
        Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",", dtype=numpy.int64
    )
    pixels = torch.from_numpy((table[:, :-1] * 255 + 8) // 16).to(torch.uint8).view(-1, 1, 8, 8)  # 0..16 to 0..255
    facts = Facts(task="classification", num_classes=10, classes=_DIGITS)
    halves = cut_validation(
        Splits(ArrayDataset(pixels, torch.from_numpy(table[:, -1].copy())), facts=facts), 0.2, seed=0
    )
    return Splits(halves.train, test=halves.val, facts=facts)


def mnist(root: str = "data", download: bool = True) -> Splits:
    """Return MNIST: 60,000 and 10,000 handwritten digits, 28x28 grey.

    Args:
        root: folder that holds MNIST/raw.
        download: whether to fetch what is not there.

    Source: LeCun et al. 1998, Gradient-based learning applied to document recognition.
    """
    return _mnist_like("mnist", "MNIST", root, download, _DIGITS)


def fashion_mnist(root: str = "data", download: bool = True) -> Splits:
    """Return Fashion-MNIST: 60,000 and 10,000 articles of clothing, 28x28 grey.

    Args:
        root: folder that holds FashionMNIST/raw.
        download: whether to fetch what is not there.

    Source: Xiao et al. 2017, Fashion-MNIST.
    """
    return _mnist_like("fashion_mnist", "FashionMNIST", root, download, None)


def cifar10(root: str = "data", download: bool = True) -> Splits:
    """Return CIFAR-10: 50,000 and 10,000 pictures of 10 classes, 32x32 RGB.

    Args:
        root: folder that holds cifar-10-batches-py, or pictures as cifar10/{train,test}/CLASS/*.jpg.
        download: whether to fetch what is in neither form there.

    Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """
    base = _folder(root, download)
    folder = base / "cifar10"
    if (base / "cifar-10-batches-py").is_dir() or not (folder / "train").is_dir():
        return _cifar("cifar10", "CIFAR10", base, download)
    folders = {split: folder / split for split in ("train", "test") if (folder / split).is_dir()}
    parts, classes, notes = pictures.read_splits(folders, "cifar10")
    facts = Facts(task="classification", num_classes=len(classes), classes=classes)
    return Splits(
        parts["train"], test=parts.get("test"), facts=facts,
        notes=[f"read from JPEG pictures in {folder}, not from the original binary files", *notes],
    )  # fmt: skip


def cifar100(root: str = "data", download: bool = True) -> Splits:
    """Return CIFAR-100: 50,000 and 10,000 pictures of 100 classes, 32x32 RGB.

    Args:
        root: folder that holds cifar-100-python.
        download: whether to fetch what is not there.

    Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """
    return _cifar("cifar100", "CIFAR100", _folder(root, download), download)


def svhn(root: str = "data", download: bool = True) -> Splits:
    """Return SVHN: 73,257 and 26,032 house numbers cut to single digits, 32x32 RGB.

    Args:
        root: folder that holds train_32x32.mat and test_32x32.mat.
        download: whether to fetch what is not there.

    Source: Netzer et al. 2011, Reading Digits in Natural Images with Unsupervised Feature Learning.
    """
    base = _folder(root, download)
    parts = {}
    for split in ("train", "test"):
        found = _open("svhn", "SVHN", base, download, split=split)
        pixels = torch.from_numpy(numpy.ascontiguousarray(found.data.transpose(0, 2, 3, 1))).permute(0, 3, 1, 2)
        parts[split] = ArrayDataset(pixels, torch.from_numpy(found.labels))
    return _named(parts, _DIGITS)


def _named(parts: dict[str, ArrayDataset], classes: list[str]) -> Splits:
    facts = Facts(task="classification", num_classes=len(classes), classes=classes)
    return Splits(parts["train"], test=parts["test"], facts=facts)


def _mnist_like(name: str, kind: str, root: str, download: bool, classes: list[str] | None) -> Splits:
    base = _folder(root, download)
    for file, expected in _IDX_BYTES.items():
        path = base / kind / "raw" / file
        if path.exists() and path.stat().st_size != expected:  # torchvision looks only whether it is there
            raise DataError(f"{path} has {path.stat().st_size:,} bytes, expected {expected:,}. Remove it and try again")
    parts = {}
    for split in ("train", "test"):
        found = _open(name, kind, base, download, train=split == "train")
        parts[split] = ArrayDataset(found.data.unsqueeze(1), found.targets)
        classes = classes or list(found.classes)
    assert classes is not None
    return _named(parts, classes)


def _cifar(name: str, kind: str, base: Path, download: bool) -> Splits:
    parts = {}
    for split in ("train", "test"):
        found = _open(name, kind, base, download, train=split == "train")
        pixels: Tensor = torch.from_numpy(numpy.ascontiguousarray(found.data)).permute(0, 3, 1, 2)
        parts[split] = ArrayDataset(pixels, torch.tensor(found.targets))
        classes = list(found.classes)
    return _named(parts, classes)


# ---- finding and fetching -------------------------------------------------------------------------------------------


def _folder(root: str, download: bool) -> Path:
    """Return the data folder, after checking that it is there where nothing may be fetched."""
    folder = Path(root).expanduser()
    if folder.is_dir():
        if not os.access(folder, os.R_OK | os.X_OK):
            raise pictures.unreadable(folder)
        return folder
    if folder.exists():
        raise DataError(f"'{folder}' (data.root) is a file, a folder is needed")
    if not download:
        siblings = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()] if folder.parent.is_dir() else []
        near = nearest(folder.name, siblings, 1)
        hint = f" Near it: '{folder.parent / near[0]}'" if near else " data.download=true fetches it"
        raise DataError(f"no data folder '{folder}' (data.root).{hint}")
    return folder


def _open(name: str, kind: str, root: Path, download: bool, **options: Any) -> Any:
    """Return torchvision's own object for one split; what is missing is fetched with a bar and a checksum."""
    from dlwp import torchvision_ops

    torchvision_ops.ensure_importable()
    from torchvision import datasets

    made = getattr(datasets, kind)
    try:
        return made(str(root), download=download, **options)
    except PermissionError as error:
        raise pictures.unreadable(Path(error.filename or root)) from None
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
            raise MachineError(f"cannot write to '{root}' ({error.strerror}). data.root=FOLDER") from None
        raise _why_not(name, _sources(made, root, options), download, root, error) from None


def _sources(made: Any, root: Path, options: dict[str, Any]) -> list[tuple[Path, str, str]]:
    """Return (path, MD5, address) of each file that torchvision fetches for a set."""
    if hasattr(made, "resources"):
        folder = root / made.__name__ / "raw"
        return [(folder / file, md5, made.mirrors[0] + file) for file, md5 in made.resources]
    if hasattr(made, "split_list"):
        url, file, md5 = made.split_list[options["split"]]
        return [(root / file, md5, url)]
    return [(root / made.filename, made.tgz_md5, made.url)]


def _why_not(
    name: str, sources: list[tuple[Path, str, str]], download: bool, root: Path, error: Exception
) -> DataError:
    """Return what to tell when torchvision has no data: not there, damaged, or no way to fetch it."""
    for path, expected, _ in sources:
        if path.is_file() and (found := _md5(path)) != expected:
            page = " (it looks like a web page)" if _is_page(path) else ""
            way_out = "Remove it, and try again"
            if download:
                path.unlink()
                way_out = "Removed; try again"
            return DataError(f"{path}: md5 is {found[:8]}…, expected {expected[:8]}…{page}. {way_out}")
    if not download:
        return DataError(f"{name} is not in '{root}'. Add data.download=true, or set data.root")
    missing = [(path, md5) for path, md5, _ in sources if not path.is_file()] or [sources[0][:2]]
    host = urlparse(sources[0][2]).hostname
    path, md5 = missing[0]
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    why = f" (HTTP {error.code})" if isinstance(error, HTTPError) else ""
    if not isinstance(error, URLError | OSError) and "rror downloading" not in str(error):
        why = f" ({str(error).splitlines()[0]})"
    listed = [f"{path} (md5 {md5})" for path, md5 in missing] if more else []
    return DataError(f"cannot reach {host}{why}. Put {path.name} (md5 {md5}){more} into '{path.parent}'", listed)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))
