"""Own the hostile data of promise 8: pictures, the files of data sets and archives, each with an honest twin."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture.hostile_corpus import Evil, Make, add, several, write
from torture.hostile_places import pipe

MNIST = ("train", "data=mnist", "data.root=data", "data.download=false", "model=linear", "run_dir=outputs/r")
CIFAR = ("train", "data=cifar10", "data.root=data", "data.download=false", "model=linear", "run_dir=outputs/r")


def _png(width: int, height: int, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width * 3 + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _text_bomb() -> bytes:
    data = b"k\0\0" + zlib.compress(bytes(200_000_000), 9)
    return struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))


def picture(data: Callable[[], bytes]) -> Make:
    """Return what lays a file among honest pictures, of which there are enough to train on."""

    def make() -> None:
        for kind in ("cat", "dog"):
            for number in range(20):
                for split in ("train", "test"):
                    write(Path(f"data/cifar10/{split}/{kind}/{number}.png"), _png(8, 8))
        write(Path("data/cifar10/train/dog/1.png"), data())

    return make


add("honest: pictures", CIFAR, picture(lambda: _png(8, 8)), None)
_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(EVIL) (w) file\n"
add(
    "PNG of 20000x20000",
    CIFAR,
    picture(lambda: _png(20_000, 20_000)),
    r"dog/1.png \(sample \d+\) has more than 89,478,485 pixels",
)
add(
    "PNG of 9470x9470",
    CIFAR,
    picture(lambda: _png(9_470, 9_470)),
    r"dog/1.png \(sample \d+\) has more than 89,478,485 pixels",
)
add(
    "PNG with a text bomb",
    CIFAR,
    picture(lambda: _png(8, 8, _text_bomb())),
    r"dog/1.png \(sample \d+\) cannot be decoded \(Decompressed data too large",
)
add("EPS as a picture", CIFAR, picture(lambda: _EPS), r"dog/1.png \(sample \d+\) is not a picture")
add(
    "a picture that is a pickle",
    CIFAR,
    picture(lambda: pickle.dumps(Evil())),
    r"dog/1.png \(sample \d+\) is not a picture",
)
add("a picture that is a page", CIFAR, picture(lambda: b"<html>"), r"dog/1.png \(sample \d+\) is not a picture")
add("a picture cut off", CIFAR, picture(lambda: _png(8, 8)[:45]), r"dog/1.png \(sample \d+\) is cut off")
add("a picture that is a pipe", CIFAR, lambda: (picture(bytes)(), pipe(Path("data/cifar10/train/cat/0.png")))[0],
    "cat/0.png' is not a regular file")  # fmt: skip
_PICKLE = pickle.dumps(Evil())
_BATCHES = ("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6)))


def batches(pickled: Callable[[], bytes]) -> Make:
    """Return what lays all files of CIFAR-10's own form."""
    return lambda: several({f"data/cifar-10-batches-py/{name}": pickled() for name in _BATCHES})()


def honest_batch() -> bytes:
    """Return what each file of CIFAR-10 may hold: 20 pictures, and what else is asked of any of them."""
    import numpy

    labels = [number % 10 for number in range(20)]
    return pickle.dumps({"data": numpy.zeros((20, 3072), "uint8"), "labels": labels, "label_names": list("0123456789")})


add("batches that are pickles", CIFAR, batches(lambda: _PICKLE), "cifar10 is not in 'data', or not whole there")
add(
    "MNIST as .pt",
    MNIST,
    several({f"data/MNIST/processed/{name}.pt": _PICKLE for name in ("training", "test")}),
    "mnist in 'data' is damaged .a .pt file holds more than tensors",
)
_IDX = {
    "train-images-idx3": 47_040_016,
    "train-labels-idx1": 60_008,
    "t10k-images-idx3": 7_840_016,
    "t10k-labels-idx1": 10_008,
}
_HONEST = {
    name: struct.pack(">I", 2051 if "images" in name else 2049)
    + struct.pack(">III" if "images" in name else ">I", *((n // 784, 28, 28) if "images" in name else (n - 8,)))
    + bytes(n - (16 if "images" in name else 8))
    for name, n in _IDX.items()
}
add("honest: MNIST", MNIST, several({f"data/MNIST/raw/{name}-ubyte": data for name, data in _HONEST.items()}), None)


def _legacy() -> None:
    import torch

    for name in ("training", "test"):
        write(Path(f"data/MNIST/processed/{name}.pt"), b"")
        torch.save((torch.zeros(40, 28, 28).byte(), torch.arange(40) % 10), f"data/MNIST/processed/{name}.pt")


add("honest: MNIST as .pt", MNIST, _legacy, None)
_FALSE = {f"data/MNIST/raw/{name}-ubyte": struct.pack(">I", 2051) + b"\xff" * (n - 4) for name, n in _IDX.items()}
add("MNIST of a false head", MNIST, several(_FALSE), r"mnist in 'data' is damaged \(shape '\[4294967295")
_SVHN = ("train", "data=svhn", *MNIST[2:])
add("SVHN that is a pickle", _SVHN, lambda: write(Path("data/train_32x32.mat"), _PICKLE), "train_32x32.mat: md5 is ")

# ---- archives -------------------------------------------------------------------------------------------------------


def tar(**members: Any) -> Make:
    """Return what writes set.tar of members with the given fields, each after an honest one."""

    def make() -> None:
        with tarfile.open("set.tar.gz", "w:gz") as archive:
            for name in ("set/a", "set/b"):
                archive.addfile(_member(name, size=3), io.BytesIO(b"abc"))
            archive.addfile(_member(**members), io.BytesIO(bytes(members.get("size", 0))))

    return make


def _member(name: str, **fields: Any) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(found, field, value)
    return found


UNPACK = ("unpack", "set.tar.gz")
add("honest: tar", UNPACK, tar(name="set/c", size=3), None)
add("honest: gzip", ("unpack", "set.gz"), lambda: write(Path("set.gz"), gzip.compress(bytes(1000))), None)
add("tar with ..", UNPACK, tar(name="set/../../EVIL"), "the member 'set/../../EVIL' lies outside set/")
add("tar with an absolute name", UNPACK, tar(name=str(Path("/tmp/EVIL"))), "the member '/tmp/EVIL' lies outside set/")
add(
    "tar with a link",
    UNPACK,
    tar(name="set/c", type=tarfile.SYMTYPE, linkname="/etc"),
    "the member 'set/c' is no plain file",
)
add(
    "tar with a hard link",
    UNPACK,
    tar(name="set/c", type=tarfile.LNKTYPE, linkname="../../keep"),
    "the member 'set/c' is no plain file",
)
add(
    "tar with a device",
    UNPACK,
    tar(name="set/c", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "the member 'set/c' is no plain file",
)
add("tar with a pipe", UNPACK, tar(name="set/c", type=tarfile.FIFOTYPE), "the member 'set/c' is no plain file")
add("tar with a member twice", UNPACK, tar(name="set/a", size=3), "the member 'set/a' is there twice")
add("tar with another folder", UNPACK, tar(name="other/a", size=3), "the member 'other/a' lies outside set/")
add("tar bomb", UNPACK, tar(name="set/c", size=200_000_000), "the member 'set/c' makes it more than")
add(
    "a page as a tar",
    UNPACK,
    lambda: write(Path("set.tar.gz"), "<html>"),
    "cannot be unpacked .file could not be opened",
)
add(
    "gzip bomb",
    ("unpack", "set.gz"),
    lambda: write(Path("set.gz"), gzip.compress(bytes(200_000_000))),
    "set.gz holds more than 1,000,000 bytes",
)
