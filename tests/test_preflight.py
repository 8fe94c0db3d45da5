"""What `check=true` promises: each planted fault is found, with its samples, nothing else; a clean set gives none."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from dlwp import api

MODEL = ("model=linear", "device=cpu", "trainer.epochs=1", "data.batch_size=8", "check=true")
OWN = """
import torch
from torch.utils.data import Dataset

class Mine(Dataset):
    classes = ["a", "b"]
    def __init__(self, fails=None, odd=None, nan=None):
        self.fails, self.odd, self.nan = fails, odd, nan
    def __len__(self):
        return 40
    def __getitem__(self, index):
        if index == self.fails:
            raise KeyError("no such thing")
        generator = torch.Generator().manual_seed(index)
        row = torch.randn(4 if index != self.odd else 5, generator=generator)
        return row / (index != self.nan), index % 2
"""


def picture(seed: int, size: int = 48) -> numpy.ndarray:
    """A smooth picture of random colours."""
    small = numpy.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=numpy.uint8)
    return numpy.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC))


def folder(root: Path, lacks: str = "") -> Path:
    """Pictures of three classes, all different, in three splits; `val` lacks one class where it is named."""
    seed = 0
    for split, count in (("train", 8), ("val", 3), ("test", 3)):
        for name in ("cat", "dog", "owl"):
            for number in range(0 if (split, name) == ("val", lacks) else count):
                seed += 1
                place = root / split / name / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture(seed)).save(place)
    return root


def rows(seed: int, count: int, last: str = "1.5") -> list[str]:
    numbers = numpy.random.default_rng(seed).normal(size=(count, 2))
    return [f"{a:.6f},{b:.6f},{last},,{'yes' if a > 0 else 'no'}" for a, b in numbers.tolist()]


def array_file(path: Path, **planted: Any) -> Path:
    generator = numpy.random.default_rng(3)
    found = {
        "x_train": generator.normal(size=(60, 4)).astype("float32"), "y_train": numpy.arange(60) % 3,
        "x_test": generator.normal(size=(30, 4)).astype("float32"), "y_test": numpy.arange(30) % 3,
    }  # fmt: skip
    for name, (at, value) in planted.items():
        found[name][at] = value
    numpy.savez(path, **found)
    return path


@pytest.fixture
def checked(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what gives the findings and the exit status of a check."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)

    def run(*words: str) -> tuple[list[str], int]:
        capsys.readouterr()
        workers = () if any("num_workers" in word for word in words) else ("data.num_workers=0",)
        status = api.train(*MODEL, *workers, *words).exit_code
        out = capsys.readouterr().out
        return [line for line in out.splitlines() if re.match("error |warning ", line)], status

    return run


def test_twelve_planted_faults_are_found_and_nothing_else(checked: Any, tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", lacks="owl")
    (root / "train" / "cat" / "1.png").write_bytes(b"no picture")  # 1: unreadable; 2: val has no owl
    (root / "test" / "dog" / "2.png").write_bytes((root / "train" / "dog" / "3.png").read_bytes())  # 3: a duplicate
    Image.fromarray(picture(1)).save(root / "val" / "dog" / "1.jpg", quality=70)  # 4: nearly one
    (root / "val" / "dog" / "1.png").unlink()
    found, status = checked("data=imagefolder", f"data.root={root}", "data.image_size=48")
    assert status == 3
    assert [line.split(": ")[0].split()[-1] for line in found] == ["unreadable", "classes", "duplicates", "alike"]
    assert "train: 1 sample of 24 cannot be read" in found[0]
    assert "val has no sample of 1 of 3 classes: owl" in found[1]
    assert re.search(r"test: 1 sample of 9 is also in train, bit for bit: 5 \(.*test/dog/2.png\) = 11 ", found[2])
    assert re.search(r"val: 1 sample of 6 looks like one of train .*val/dog/1.jpg\) = 0 ", found[3])

    table = rows(1, 60)
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,d,label", *table]))  # 5: c is constant; 6: d is empty
    (tmp_path / "v.csv").write_text("\n".join(["a,b,c,d,label", *rows(2, 12), table[7]]))  # 7: a row of both
    found, status = checked("data=csv", "data.path=t.csv", "data.val_path=v.csv", "data.target=label")
    assert status == 0
    assert found == [
        found[0],
        "warning  columns: 1 column of the inputs the same in every sample of train: c (always '1.5')",
        "warning  columns: 1 column without any value: d",
    ]
    assert found[0].startswith("warning  duplicates: val: 1 sample of 13 is also in train, bit for bit: 12 = 7")

    array_file(tmp_path / "a.npz", y_train=(5, 7), x_test=((4, 2), numpy.nan))  # 8: a label; 9: not finite
    found, status = checked("data=arrays", "data.path=a.npz", "data.classes=3", "data.val_fraction=0")
    assert status == 3
    assert found[0] == "error    labels: train: 1 sample with labels outside of 0 to 2: 7 at 5"
    not_finite = r"error    not finite: a.npz: 1 of 30 samples of 'x_test' hold NaN .* first sample 4\..*"
    assert re.fullmatch(not_finite, found[1])
    assert len(found) == 2

    (tmp_path / "own.py").write_text(OWN)
    words = ("data=dataset", "data._target_=own.Mine", "data.val_fraction=0")
    found, status = checked(*words, "+data.fails=17", "+data.odd=9")  # 10: the user's code; 11: another shape
    assert status == 3
    assert len(found) == 2
    assert re.match(r"error    fails: train: your code fails at \S*own.py:13 for 1 sample: KeyError: .*; 17$", found[0])
    assert found[1] == "error    shapes: train: 1 input of 5 where most are 4: 9"
    found, status = checked(*words, "model.out_features=1")  # 12: too few outputs
    assert status == 3
    assert found == ["error    fit: data has 2 classes, model has 1 outputs. model.num_classes=2"]


@pytest.mark.parametrize("kind", ["pictures", "table", "arrays", "own"])
def test_a_clean_set_gives_no_finding(kind: str, checked: Any, tmp_path: Path) -> None:
    words: tuple[str, ...] = ()
    if kind == "pictures":
        words = ("data=imagefolder", f"data.root={folder(tmp_path / 'pictures')}", "data.image_size=48")
    elif kind == "table":
        lines = [line.replace(",1.5,,", ",") for line in rows(1, 60)]
        (tmp_path / "t.csv").write_text("\n".join(["a,b,label", *lines]))
        words = ("data=csv", "data.path=t.csv", "data.target=label")
    elif kind == "arrays":
        words = ("data=arrays", f"data.path={array_file(tmp_path / 'a.npz')}", "data.val_fraction=0")
    else:
        (tmp_path / "own.py").write_text(OWN)
        words = ("data=dataset", "data._target_=own.Mine", "data.val_fraction=0")
    assert checked(*words) == ([], 0)


def test_an_input_that_is_not_finite_is_told_once_with_its_sample(checked: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    found, status = checked("data=dataset", "data._target_=own.Mine", "data.val_fraction=0", "+data.nan=21")
    assert status == 3
    assert found == ["error    not finite: train: 1 input of 40 with NaN or infinities: 21"]


def test_workers_see_what_one_process_sees(checked: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    words = ("data=dataset", "data._target_=own.Mine", "data.val_fraction=0", "+data.fails=17", "+data.odd=9")
    assert checked(*words, "data.num_workers=1") == checked(*words)


def test_a_disk_without_room_for_the_checkpoints_is_an_error(
    checked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from dlwp import forecast

    usage: Any = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda path: usage)
    (tmp_path / "own.py").write_text(OWN)
    found, status = checked("data=dataset", "data._target_=own.Mine", "data.val_fraction=0")
    assert status == 3
    assert [line[:15] for line in found] == ["error    disk: "]
