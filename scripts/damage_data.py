"""Damage small sound data sets by a seed: a run on each must end with status 3, in one line that names the file.

Owns the data sets, the damages and what is promised; knows nothing of the messages, which tests/ hold. What a reader
takes in spite of its damage (a missing value of a table, say) is drawn again.
Run it as: python scripts/damage_data.py [--folders 50] [--seed 0] [--show]
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gzip
import io
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy
from PIL import Image

FAST = ("trainer.epochs=1", "logger.tensorboard=false", "logger.plots=false", "trainer.progress=false", "device=cpu")
WORDS = {
    "imagefolder": "data=imagefolder data.root=set data.image_size=8 data.batch_size=4 data.augment=null model=linear",
    "imagefolder, read by workers": "data=imagefolder data.root=set data.image_size=8 data.batch_size=4 "
    "data.augment=null data.loader=workers data.num_workers=0 model=linear",
    "csv": "data=csv data.path=set/t.csv data.target=kind data.types={height:number,width:number} model=mlp",
    "sequence": "data=sequence data.path=set/t.txt data.length=16 model=transformer model.width=8 model.depth=1",
    "arrays": "data=arrays data.path=set data.batch_size=8 model=linear",
    "npz": "data=arrays data.path=set/set.npz data.batch_size=8 model=linear",
    "segmentation": "data=segmentation data.root=set data.image_size=16 data.batch_size=2 model=unet model.channels=4 "
    "model.depth=1",
    "timeseries": "data=timeseries data.path=set/t.csv data.target=load data.window=4 data.horizon=2 model=mlp",
    "multilabel": "data=multilabel data.root=set data.labels=set/labels.csv data.image_size=8 data.augment=null "
    "model=linear",
}
"""Kind of data -> the command that learns from it."""

Damage = Callable[[Path, random.Random], None]


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (12, 12), values: int = 256) -> None:
    """Write a picture of noise, another one for each path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = numpy.random.default_rng(sum(str(path).encode())).integers(0, values, (*size, 3), dtype=numpy.uint8)
    if values == 2:
        Image.fromarray(noise[..., 0]).save(path)
    else:
        Image.fromarray(noise).convert(mode).save(path)


def lay(kind: str) -> None:
    """Lay a sound data set of a kind into ./set."""
    folder = Path("set")
    folder.mkdir()
    generator = numpy.random.default_rng(1)
    if kind.startswith("imagefolder"):
        for split, name, number in ((s, n, i) for s in ("train", "val") for n in ("ant", "bee") for i in range(4)):
            picture(folder / split / name / f"{number}.png")
    elif kind == "csv":
        rows = [f"{i * 0.5},{i % 7},{'red' if i % 3 else 'blue'},{'cat' if i % 2 else 'dog'}" for i in range(60)]
        (folder / "t.csv").write_text("\n".join(["height,width,colour,kind", *rows]) + "\n")
    elif kind == "sequence":
        (folder / "t.txt").write_text("the cat sat on the mat and ate the rat\n" * 30)
    elif kind in ("arrays", "npz"):
        held = {"x": generator.normal(size=(40, 6)).astype("float32"), "y": numpy.arange(40) % 3}
        if kind == "npz":
            numpy.savez(folder / "set.npz", **held)
        for name, array in held.items() if kind == "arrays" else ():
            numpy.save(folder / f"{name}.npy", array)
    elif kind == "segmentation":
        for number in range(6):
            picture(folder / "images" / f"{number}.png", size=(16, 16))
            picture(folder / "masks" / f"{number}.png", size=(16, 16), values=2)
    elif kind == "timeseries":
        rows = [f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00,{i % 24},{(i * 7) % 11}" for i in range(240)]
        (folder / "t.csv").write_text("\n".join(["time,load,wind", *rows]) + "\n")
    else:
        names = [f"{number}.png" for number in range(12)]
        for name in names:
            picture(folder / name)
        rows = [f"{name},{'sky|sea' if number % 2 else 'sky'}" for number, name in enumerate(names)]
        (folder / "labels.csv").write_text("\n".join(["file,labels", *rows]) + "\n")


# --------------------------------------------------------------------------------------------------- damages


def some_file(folder: Path, generator: random.Random, ending: str = "") -> Path:
    """Return a file of the set, the same by the same draws."""
    return generator.choice(sorted(path for path in folder.rglob(f"*{ending}") if path.is_file()))


def replaced(folder: Path, generator: random.Random, data: Callable[[bytes], bytes]) -> None:
    """Write what `data` makes of a file's content into its place."""
    path = some_file(folder, generator)
    path.write_bytes(data(path.read_bytes()))


def truncated(folder: Path, generator: random.Random) -> None:
    """Cut a file off."""
    replaced(folder, generator, lambda held: held[: generator.randrange(1, len(held))])


def emptied(folder: Path, generator: random.Random) -> None:
    """Leave nothing in a file."""
    replaced(folder, generator, lambda held: b"")


def page(folder: Path, generator: random.Random) -> None:
    """Put a web page in place of a file."""
    replaced(folder, generator, lambda held: b"<!doctype html><html><body>404 not found</body></html>\n")


def noise(folder: Path, generator: random.Random) -> None:
    """Put noise in place of a file."""
    replaced(folder, generator, lambda held: generator.randbytes(len(held)))


def zeros(folder: Path, generator: random.Random) -> None:
    """Put zeros in place of a file, as a disk does that lost power."""
    replaced(folder, generator, lambda held: bytes(len(held)))


def packed(folder: Path, generator: random.Random) -> None:
    """Compress a file and leave its name."""
    replaced(folder, generator, gzip.compress)


def flipped(folder: Path, generator: random.Random) -> None:
    """Change some bytes of a file."""

    def change(held: bytes) -> bytes:
        changed = bytearray(held)
        for _ in range(20):
            changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
        return bytes(changed)

    replaced(folder, generator, change)


def renamed(folder: Path, generator: random.Random) -> None:
    """Give a file another extension, or none."""
    path = some_file(folder, generator)
    path.rename(path.with_suffix(generator.choice([".jpg", ".doc", ".txt", ".csv", ".npz", ""])))


def gone(folder: Path, generator: random.Random) -> None:
    """Remove a file, a folder, or all."""
    path = generator.choice([some_file(folder, generator), some_file(folder, generator).parent, folder])
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def a_folder(folder: Path, generator: random.Random) -> None:
    """Put a folder in place of a file."""
    path = some_file(folder, generator)
    path.unlink()
    path.mkdir()


def dangling(folder: Path, generator: random.Random) -> None:
    """Put a link that leads nowhere in place of a file."""
    path = some_file(folder, generator)
    path.unlink()
    path.symlink_to("nowhere")


def hollow(folder: Path, generator: random.Random) -> None:
    """Take all files out of a folder."""
    for path in list(some_file(folder, generator).parent.iterdir()):
        if path.is_file():
            path.unlink()


def too_high(folder: Path, generator: random.Random) -> None:
    """Put everything one folder deeper."""
    shutil.move(folder, "deeper")
    folder.mkdir()
    shutil.move("deeper", folder / "deeper")


def field(folder: Path, generator: random.Random) -> None:
    """Write something else into a field of a table: a text, nothing, an infinity."""
    path = some_file(folder, generator, ".csv")
    rows = [line.split(",") for line in path.read_text().splitlines()]
    row = generator.randrange(1, len(rows))
    place = generator.randrange(len(rows[row]))
    rows[row][place] = generator.choice(["tall", "nan", "", "inf", "1.2.3", "'", "1e999"])
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")


def ragged(folder: Path, generator: random.Random) -> None:
    """Give a row of a table a field more or less, or an open quote."""
    path = some_file(folder, generator, ".csv")
    lines = path.read_text().splitlines()
    row = generator.randrange(1, len(lines))
    lines[row] = generator.choice([f"{lines[row]},7", lines[row].rpartition(",")[0], f'"{lines[row]}'])
    path.write_text("\n".join(lines) + "\n")


def header(folder: Path, generator: random.Random) -> None:
    """Misspell, repeat or lose the head of a table, or all but it."""
    path = some_file(folder, generator, ".csv")
    first, *rest = path.read_text().splitlines()
    names = first.split(",")
    kinds = [[",".join(f"{name}s" for name in names), *rest], [",".join([names[0]] * len(names)), *rest], [first]]
    path.write_text("\n".join(generator.choice(kinds)) + "\n")


def array(folder: Path, generator: random.Random) -> None:
    """Spoil an array: NaN, another length or shape, no samples, objects (a pickle), labels below 0."""
    names = sorted(folder.glob("*.np[yz]"))
    held = {path.stem: numpy.load(path) for path in names if path.suffix == ".npy"}
    held = held or dict(numpy.load(folder / "set.npz"))
    name = generator.choice(sorted(held))
    one = held[name]
    spoilt = one.astype("float64")
    spoilt.flat[generator.randrange(one.size)] = generator.choice([numpy.nan, numpy.inf])
    scalar = numpy.array(3.0)
    held[name] = generator.choice(
        [spoilt, one[:-3], one[:0], one.astype(object), one.astype("complex64"), scalar, -one]
    )
    if len(names) == 1:
        numpy.savez(names[0], **held)
    else:
        numpy.save(folder / f"{name}.npy", held[name])


def mask(folder: Path, generator: random.Random) -> None:
    """Give a mask another size, three channels, or another kind of values."""
    path = some_file(folder / "masks", generator)
    kind = generator.choice(["size", "colours", "values"])
    if kind == "size":
        picture(path, size=(9, 16), values=2)
    elif kind == "colours":
        picture(path, size=(16, 16))
    else:
        Image.fromarray(numpy.arange(256, dtype=numpy.uint16).reshape(16, 16) * 200).save(path)


def labels(folder: Path, generator: random.Random) -> None:
    """Name pictures that are not there, or give no picture a label."""
    path = folder / "labels.csv"
    first, *rest = path.read_text().splitlines()
    kinds = [[f"x{line}" for line in rest], [f"{line.split(',')[0]}," for line in rest], [*rest, "99.png,sky"]]
    path.write_text("\n".join([first, *generator.choice(kinds)]) + "\n")


ANY: tuple[Damage, ...] = (
    truncated, emptied, page, noise, zeros, packed, flipped, renamed, gone, a_folder, dangling, hollow, too_high
)  # fmt: skip
OF_KIND: dict[str, tuple[Damage, ...]] = {
    "csv": (field, ragged, header), "timeseries": (field, ragged, header), "multilabel": (ragged, header, labels),
    "arrays": (array,), "npz": (array,), "segmentation": (mask,),
}  # fmt: skip


class Told(NamedTuple):
    """What a run on damaged data answered."""

    kind: str
    damage: str
    elapsed_s: float
    status: int
    out: str
    err: str


def damaged(count: int, seed: int, harmless: list[Told]) -> Iterator[Told]:
    """Yield what runs on `count` damaged sets answer; those that end well are put into `harmless` and drawn again.

    The current folder is worked in: it must be empty.
    """
    generator, found = random.Random(seed), 0
    while found < count:
        kind = generator.choice(sorted(WORDS))
        own = OF_KIND.get(kind, ())
        damage = generator.choice(own if own and generator.random() < 0.4 else ANY)
        lay(kind)
        damage(Path("set"), generator)
        told = answer(kind, damage.__name__)
        for name in ("set", "outputs"):
            shutil.rmtree(name, ignore_errors=True)
        if told.status == 0:
            harmless.append(told)
        else:
            found += 1
            yield told


def answer(kind: str, damage: str) -> Told:
    """Train on ./set in this process."""
    from dlwp.commands import entry, train

    out, err = io.StringIO(), io.StringIO()
    words = ["dlwp-train", *WORDS[kind].split(), *FAST]
    with entry.replaced(words), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        began = time.perf_counter()
        status = train.main()
    return Told(kind, damage, time.perf_counter() - began, status, out.getvalue(), err.getvalue())


def fault(told: Told) -> str:
    """Return what is wrong with an answer, "" where it is as promised."""
    text = told.err.strip()
    lines = [line for line in text.split("\n") if not line.startswith("dlwp: warning: ")] or [""]
    if told.status != 3:
        return f"exit {told.status}: {text}"
    if "Traceback" in told.out + told.err or "fault in dlwp" in told.err:
        return f"not told in a line: {text}"
    if not lines[0].startswith("dlwp: error: ") or any(not line.startswith("    ") for line in lines[1:]):
        return f"not one line: {text}"
    if "set" not in lines[0]:
        return f"names no file: {text}"
    return f"a line of {len(lines[0])} signs: {text}" if len(lines[0]) > 320 else ""


def main(words: Sequence[str]) -> int:
    """Damage as many sets as asked for, say how runs on them ended; return 1 if one was not as promised."""
    parser = argparse.ArgumentParser(description="Damage small data sets by a seed, and judge what dlwp answers.")
    parser.add_argument("--folders", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="each damage with its answer, harmless ones too")
    asked = parser.parse_args(words)
    folder, here, harmless = tempfile.mkdtemp(prefix="damage-"), Path.cwd(), list[Told]()
    os.environ |= {f"XDG_{name}_HOME": f"{folder}/{name.lower()}" for name in ("STATE", "CACHE")}
    (Path(folder) / "work").mkdir()
    os.chdir(Path(folder) / "work")
    try:
        for kind in WORDS:
            lay(kind)
            sound = answer(kind, "none")
            assert sound.status == 0, f"{kind}: {sound.err}"
            shutil.rmtree("set")
        told = list(damaged(asked.folders, asked.seed, harmless))
    finally:
        os.chdir(here)
        shutil.rmtree(folder)
    faults = [(one, text) for one in told if (text := fault(one))]
    for one in [*told, *harmless] if asked.show else ():
        print(f"{one.kind}: {one.damage}\n    {one.err.strip() or 'harmless'}")
    for one, text in faults:
        print(f"NOT AS PROMISED {one.kind}: {one.damage}\n    {text}")
    kinds = collections.Counter(one.kind for one in told)
    print(
        f"{len(told)} damaged sets ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))}), "
        f"{len(faults)} not as promised · {len(harmless)} harmless ones drawn again · told within "
        f"{max(one.elapsed_s for one in told):.1f} s · seed {asked.seed}"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
