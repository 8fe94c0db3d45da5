"""Own the picture data sets that have a name: where each lies, how it is fetched, and its classes.

Knows nothing of how pictures are fed, augmented or learned from. Every set is given whole, as uint8 (N, C, H, W).
"""

from __future__ import annotations

import errno
import importlib.util
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy
import torch
from torch import Tensor

from dlwp.data import pictures
from dlwp.data.datasets import ArrayDataset, Facts, Splits
from dlwp.data.splits import cut_validation
from dlwp.downloads import Source, UnreachableError, digest_of, fetch, is_page, unpack, unpack_gzip
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
    sources = _sources(made, root, options)
    try:
        try:
            return made(str(root), download=False, **options)
        except RuntimeError:
            if not download:
                raise
        for source in sources:
            _provide(source, made)
        return made(str(root), download=False, **options)
    except PermissionError as error:
        raise pictures.unreadable(Path(error.filename or root)) from None
    except (OSError, RuntimeError, UnreachableError, UnpicklingError, AssertionError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
            raise MachineError(f"cannot write to '{root}' ({error.strerror}). data.root=FOLDER") from None
        raise _why_not(name, sources, download, root, error) from None


def _provide(source: Source, made: Any) -> None:
    """Fetch a file, unless it is there, and lay what it holds where torchvision looks for it."""
    plain = source.path.with_suffix("")
    if source.path.suffix == ".gz" and plain.name in _IDX_BYTES:
        if not plain.exists():
            _fetch(source)
            unpack_gzip(source.path, plain, _IDX_BYTES[plain.name])
    else:
        _fetch(source)
        if source.path.name.endswith(".tar.gz"):
            unpack(source.path, source.path.parent, made.base_folder)


def _fetch(source: Source) -> None:
    if not source.path.exists():
        fetch(source)
    elif digest_of(source.path) != source.digest:
        raise RuntimeError("another checksum")


def _sources(made: Any, root: Path, options: dict[str, Any]) -> list[Source]:
    """Return the files that a set consists of, as torchvision lists them."""
    if hasattr(made, "resources"):
        folder = root / made.__name__ / "raw"
        return [Source(folder / name, tuple(one + name for one in made.mirrors), md5) for name, md5 in made.resources]
    if hasattr(made, "split_list"):
        url, name, md5 = made.split_list[options["split"]]
        return [Source(root / name, (url,), md5)]
    return [Source(root / made.filename, (made.url,), made.tgz_md5)]


def _why_not(name: str, sources: list[Source], download: bool, root: Path, error: Exception) -> DataError:
    """Return what to tell when torchvision has no data: not there, damaged, or no way to fetch it."""
    for path, expected in ((source.path, source.digest) for source in sources):
        if path.is_file() and (found := digest_of(path)) != expected:
            page = " (it looks like a web page)" if is_page(path) else ""
            way_out = "Remove it, and try again"
            if download:
                path.unlink()
                way_out = "Removed; try again"
            return DataError(f"{path}: md5 is {found[:8]}…, expected {expected[:8]}…{page}. {way_out}")
    if not isinstance(error, UnreachableError):
        if not download and "not found" in str(error):
            return DataError(f"{name} is not in '{root}', or not whole there. Add data.download=true, or set data.root")
        why = " ".join(str(error).split())[:120] or type(error).__name__
        if isinstance(error, UnpicklingError):  # of torch, which speaks to programmers
            why = "a .pt file holds more than tensors, or none"
        return DataError(f"{name} in '{root}' is damaged ({why}). Remove it, and try again")
    missing = [source for source in sources if not source.path.is_file()] or sources[:1]
    first = missing[0]
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    why = f" ({error})" if str(error) else ""
    listed = [f"{source.path} (md5 {source.digest})" for source in missing] if more else []
    place = f"Put {first.path.name} (md5 {first.digest}){more} into '{first.path.parent}'"
    return DataError(f"cannot reach {first.host}{why}. {place}", listed)
