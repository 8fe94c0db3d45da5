"""A pack keeps its promises: what was packed is what is fed, whatever stopped the packing; damage is named."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

import dlwp
from dlwp.commands import pack as command
from dlwp.data import mapped, packed, packing, pictures
from dlwp.data.mapped import MappedDataset
from dlwp.data.packed import CONTENTS, PICTURES
from dlwp.data.resident import ResidentLoader, fits
from dlwp.data.splits import cut_validation, find_facts
from dlwp.data.streaming import StreamingLoader
from dlwp.errors import ConfigError, DataError, MachineError

NUMBER = 150


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return two classes of small noise, 75 JPEGs each in train, 5 each in test, of several sizes."""
    draw = numpy.random.default_rng(0)
    for split, count in (("train", NUMBER // 2), ("test", 5)):
        for kind in ("cat", "dog"):
            folder = tmp_path / "set" / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = (int(side) for side in draw.integers(12, 40, 2))
                pixels = draw.integers(0, 256, (height, width, 3), dtype=numpy.uint8)
                Image.fromarray(pixels).save(folder / f"{number:03}.jpg")
    return tmp_path / "set"


@pytest.fixture
def made(source: Path, tmp_path: Path) -> Path:
    packing.pack(source, tmp_path / "made", image_size=(8, 8), num_workers=0)
    return tmp_path / "made"


def same(first: Path, second: Path) -> bool:
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in (PICTURES, CONTENTS))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_pack_holds_each_picture_as_it_is_decoded(source: Path, tmp_path: Path, num_workers: int) -> None:
    form = pictures.Form(6, 9, "stretch")
    contents, was_there = packing.pack(
        source, tmp_path / "made", image_size=(6, 9), fit="stretch", num_workers=num_workers
    )
    assert contents.splits == {"train": [75, 75], "test": [5, 5]} and not was_there
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [CONTENTS, PICTURES]
    data = packed.packed(str(tmp_path / "made"))
    for split, part in data.present().items():
        listing = pictures.list_pictures(source / split, ["cat", "dog"])
        assert part[3][1] == 0 and [int(part[index][1]) for index in range(len(part))] == listing.targets
        for index, path in enumerate(listing.paths):
            assert (part[index][0].permute(1, 2, 0).numpy() == pictures.decode(path, index, form)).all()
    assert (numpy.load(tmp_path / "made" / PICTURES)[0] == pictures.decode(listing_first(source), 0, form)).all()


def listing_first(source: Path) -> str:
    return pictures.list_pictures(source / "train", ["cat", "dog"]).paths[0]


def test_facts_are_those_of_train(made: Path) -> None:
    data = packed.packed(str(made / CONTENTS))
    find_facts(data)
    pixels = data.train.inputs.double() / 255  # type: ignore[attr-defined]
    assert data.facts.classes == ["cat", "dog"] and data.facts.input_shape == (3, 8, 8)
    assert data.facts.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert data.facts.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-9)


def test_a_folder_of_classes_alone_is_train_and_a_class_may_be_called_so(source: Path, tmp_path: Path) -> None:
    (source / "test" / "cat").rename(source / "train" / "train")
    for folder, classes in ((source / "train", ["cat", "dog", "train"]), (source / "test", ["dog"])):
        contents, _ = packing.pack(folder, tmp_path / folder.name, image_size=(4, 4), num_workers=0)
        assert list(contents.splits) == ["train"] and contents.classes == classes


def test_pictures_of_one_size_need_no_image_size_and_others_are_told(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pictures differ: the first is \d+×\d+, .*\.jpg is .* image_size=\d+ makes"):
        packing.pack(source, tmp_path / "made", num_workers=0)
    packing.pack(source, tmp_path / "made", image_size=(5, 5), num_workers=0)  # the folder is not spoiled
    for file in source.rglob("*.jpg"):
        Image.new("RGB", (7, 5), (200, 0, 0)).save(file)
    contents, _ = packing.pack(source, tmp_path / "as_they_are", num_workers=0)
    assert (contents.image_size, contents.fit) == ([5, 7], "as they are")


# ---- stopped and gone on with ---------------------------------------------------------------------------------------


def test_packed_again_is_there_and_another_pack_is_refused(source: Path, made: Path) -> None:
    before = (made / PICTURES).stat().st_mtime_ns
    contents, was_there = packing.pack(source, made, image_size=(8, 8), num_workers=0)
    assert was_there and contents.splits["train"] == [75, 75]
    assert (made / PICTURES).stat().st_mtime_ns == before
    with pytest.raises(DataError, match="holds a pack of another image_size or fit"):
        packing.pack(source, made, image_size=(9, 9), num_workers=0)
    (source / "test" / "cat" / "000.jpg").unlink()
    with pytest.raises(DataError, match="holds a pack of other pictures"):
        packing.pack(source, made, image_size=(8, 8), num_workers=0)


def noted_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that each picture will be written to when it is decoded."""
    read: list[str] = []
    decode = pictures.decode
    monkeypatch.setattr(pictures, "decode", lambda path, *rest: read.append(path) or decode(path, *rest))
    return read


class Killed(BaseException):
    """Nothing of ours names it."""


@pytest.mark.parametrize("last", [1, 2, 5, 9, 12, 13, 14, 15])
def test_cut_at_a_write_it_goes_on_and_is_the_same(
    source: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """No write happens after the `last`, as when killed there: then pack again."""
    monkeypatch.setattr(packing, "_MOST_BATCH", 16)
    monkeypatch.setattr(packing, "_SAVE_S", -1.0)  # after each batch
    count = 0

    def counted(name: str) -> Any:
        true = getattr(packing.files, name)

        def call(*words: Any) -> Any:
            nonlocal count
            count += 1
            if count > last:
                raise Killed
            return true(*words)

        return call

    with monkeypatch.context() as patch:
        for name in ("write_atomic", "rename", "write_over", "open_part"):
            patch.setattr(packing.files, name, counted(name))
        with pytest.raises(Killed):
            packing.pack(source, tmp_path / "cut", image_size=(8, 8), num_workers=0)
    with pytest.raises(DataError, match="is no whole pack"):
        packed.packed(str(tmp_path / "cut"))
    read = noted_reads(monkeypatch)
    packing.pack(source, tmp_path / "cut", image_size=(8, 8), num_workers=0)
    assert len(read) == max(0, NUMBER + 10 - 16 * max(0, last - 2))  # a batch a save, after two files opened
    assert same(tmp_path / "cut", made)
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [CONTENTS, PICTURES]


SLOWLY = """
import sys, time
from dlwp.commands import pack
from dlwp.data import packing, pictures
packing._MOST_BATCH, packing._SAVE_S, decode = 8, 0.0, pictures.decode
pictures.decode = lambda *words: time.sleep(0.1) or decode(*words)
sys.exit(pack.main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_it_goes_on_at_once(
    source: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    cut = tmp_path / "cut"
    words = [str(source), str(cut), "image_size=8", "num_workers=2"]
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, *words], stderr=subprocess.PIPE, text=True)
    for _ in range(6000):
        state = cut / f"{CONTENTS}.part"
        if state.exists() and json.loads(state.read_text())["done"] >= 24:
            break
        time.sleep(0.01)
    process.send_signal(number)
    told = process.communicate()[1]
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert number == signal.SIGKILL or "goes on from here" in told
    done = json.loads(state.read_text())["done"]
    assert 24 <= done < NUMBER
    read = noted_reads(monkeypatch)
    packing.pack(source, cut, image_size=(8, 8), num_workers=0)
    assert len(read) == NUMBER + 10 - done
    assert same(cut, made)


def test_two_at_once_in_one_folder_is_refused(source: Path, tmp_path: Path) -> None:
    program = "import sys, fcntl; file = open(sys.argv[1], 'wb'); fcntl.lockf(file, fcntl.LOCK_EX)"
    program += "; print('held', flush=True); input()"
    (tmp_path / "made").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "made" / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError, match="another dlwp-pack is at work"):
        packing.pack(source, tmp_path / "made", image_size=(8, 8), num_workers=0)
    holder.communicate(b"\n")
    packing.pack(source, tmp_path / "made", image_size=(8, 8), num_workers=0)


@pytest.mark.parametrize("change", ["none", "size", "part", "state"])
def test_what_was_begun_otherwise_or_lost_is_begun_anew(
    source: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    cut = tmp_path / "cut"
    last = max((source / "test" / "dog").iterdir())
    content = last.read_bytes()
    last.write_bytes(b"x" * len(content))
    times = last.stat().st_mtime_ns
    with pytest.raises(DataError):
        packing.pack(source, cut, image_size=(9, 9) if change == "size" else (8, 8), num_workers=0)
    last.write_bytes(content)
    os.utime(last, ns=(times, times))
    if change == "part":
        os.truncate(cut / f"{PICTURES}.part", 1000)
    elif change == "state":
        (cut / f"{CONTENTS}.part").write_text("{")
    read = noted_reads(monkeypatch)
    packing.pack(source, cut, image_size=(8, 8), num_workers=0)
    assert len(read) == (NUMBER + 10 - 128 if change == "none" else NUMBER + 10)
    assert numpy.array_equal(numpy.load(cut / PICTURES), numpy.load(made / PICTURES))


def test_a_full_disk_is_told_with_what_is_needed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(MachineError, match=r"disk of '.*' has 1e-08 GB, 3\.08e-05 GB are needed"):
        packing.pack(source, tmp_path / "made", image_size=(8, 8), num_workers=0)


# ---- what cannot be read --------------------------------------------------------------------------------------------


def test_a_broken_picture_ends_it_or_is_left_out(source: Path, tmp_path: Path) -> None:
    for name in ("train/cat/010.jpg", "train/dog/000.jpg", "test/dog/004.jpg"):
        (source / name).write_text("<html>")
    for num_workers in (0, 2):
        words = r"cat/010\.jpg \(sample 10\) is not a picture\. Remove or replace it, or on_error=skip"
        with pytest.raises(DataError, match=words):
            packing.pack(source, tmp_path / "made", image_size=(8, 8), num_workers=num_workers)
    contents, _ = packing.pack(source, tmp_path / "made", image_size=(8, 8), on_error="skip", num_workers=2)
    assert contents.splits == {"train": [74, 74], "test": [5, 4]}
    assert [one["number"] for one in contents.left_out] == [10, 75, 159]
    data = packed.packed(str(tmp_path / "made"))
    assert any("3 pictures could not be read" in note for note in data.notes)
    kept = [path for path in pictures.list_pictures(source / "train", ["cat", "dog"]).paths if path[-11:] not in (
        "cat/010.jpg", "dog/000.jpg")]  # fmt: skip
    assert len(kept) == len(data.train) == 148  # type: ignore[arg-type]
    for index in (9, 10, 73, 74, 147):
        pixels = pictures.decode(kept[index], index, pictures.Form(8, 8))
        assert (data.train[index][0].permute(1, 2, 0).numpy() == pixels).all()
        assert data.train[index][1] == ("dog" in kept[index])


def test_too_many_broken_pictures_end_it(source: Path, tmp_path: Path) -> None:
    for file in sorted((source / "train").rglob("*.jpg"))[:80]:
        file.write_text("<html>")
    with pytest.raises(DataError, match="80 of 160 pictures cannot be read, too many for on_error=skip"):
        packing.pack(source, tmp_path / "made", image_size=(8, 8), on_error="skip", num_workers=0)


# ---- damage ---------------------------------------------------------------------------------------------------------


def damaged(made: Path, kind: str) -> None:
    file, contents = made / PICTURES, made / CONTENTS
    found = json.loads(contents.read_text())
    if kind == "cut":
        os.truncate(file, file.stat().st_size - 1)
    elif kind == "long":
        file.write_bytes(file.read_bytes() + b"x")
    elif kind == "gone":
        file.unlink()
    elif kind == "header":
        file.write_bytes(b"x" + file.read_bytes()[1:])
    elif kind == "bit":
        data = bytearray(file.read_bytes())
        data[5000] ^= 1
        file.write_bytes(data)
    elif kind == "version":
        contents.write_text(json.dumps(found | {"version": 2}))
    elif kind == "key":
        contents.write_text(json.dumps(found | {"classes": ["cat"]}))
    else:
        contents.write_text(contents.read_text()[:100])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("cut", "is cut off: it has 30,847 bytes, not 30,848"), ("long", "is too long"), ("gone", "is not there"),
        ("header", "its header is wrong"), ("bit", "its sha256 is not that in pack.json"),
        ("version", "is of version 2, this dlwp reads version 1"), ("key", "a key is missing or wrong"),
        ("json", r"pack\.json is damaged"),
    ],
)  # fmt: skip
def test_damage_is_told_in_a_line(made: Path, kind: str, words: str) -> None:
    damaged(made, kind)
    with pytest.raises(DataError, match=words + r".*\. Remove '.*made', and pack again$") as caught:
        packed.packed(str(made))
    assert "\n" not in caught.value.message


def test_the_checksum_is_computed_where_asked_for_or_where_there_is_doubt(made: Path) -> None:
    times = (made / PICTURES).stat().st_mtime_ns
    damaged(made, "bit")
    os.utime(made / PICTURES, ns=(times, times))  # as old as it was: no doubt
    packed.packed(str(made))
    with pytest.raises(DataError, match="sha256"):
        packed.packed(str(made), verify=True)


def test_what_is_no_pack_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder '.*nothing' \(data\.path\)\. dlwp-pack SOURCE"):
        packed.packed(str(tmp_path / "nothing"))


# ---- reading --------------------------------------------------------------------------------------------------------


def test_every_loader_gives_the_batches_of_pictures_held_in_memory(made: Path) -> None:
    data = cut_validation(packed.packed(str(made)), 0.2, seed=0)
    assert isinstance(data.train, MappedDataset) and isinstance(data.val, MappedDataset)
    held = data.train.to(torch.device("meta"))
    assert held.inputs.shape == (120, 3, 8, 8)
    held = dlwp.data.datasets.ArrayDataset(data.train.inputs, data.train.targets)
    options: dict[str, Any] = {"seed": 3, "shuffle": True, "channels_last": True}
    expected = list(ResidentLoader(held, 16, **options).epoch(2, 1))
    loaders = [ResidentLoader(data.train, 16, **options)]
    loaders += [StreamingLoader(data.train, 16, num_workers=number, **options) for number in (0, 2)]
    for loader in loaders:
        found = list(loader.epoch(2, 1))
        assert len(found) == len(expected)
        for (inputs, targets), (others, classes) in zip(found, expected):
            assert torch.equal(inputs, others) and torch.equal(targets, classes)


def test_to_a_card_it_is_read_whole(made: Path) -> None:
    data = packed.packed(str(made)).train
    assert isinstance(data, MappedDataset) and data.to(torch.device("cpu")) is data
    assert data.to(torch.device("meta")).inputs.shape == (150, 3, 8, 8)


def test_a_spawned_worker_opens_it_anew(made: Path) -> None:
    data = packed.packed(str(made)).train
    again = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) < 10_000
    assert torch.equal(again.inputs, data.inputs)  # type: ignore[attr-defined]


def test_it_is_resident_only_where_it_fits(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed.packed(str(made)).train
    assert fits(data, torch.device("cpu")) == (True, "29 KiB, memory-mapped")
    monkeypatch.setattr("dlwp.data.resident._free_memory", lambda device: 1000)
    assert fits(data, torch.device("cpu")) == (False, "29 KiB is more than half of the memory, memory-mapped")


def resident_mib() -> float:
    """Return what of files is in this process's memory."""
    status = Path("/proc/self/status").read_text().split("RssFile:")[1].split()
    return int(status[0]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_what_is_mapped_stays_small_however_much_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    for number in range(40):
        (tmp_path / "set" / "one").mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "one" / f"{number}.png").write_bytes((tmp_path / "one.png").read_bytes())
    packing.pack(tmp_path / "set", tmp_path / "made", image_size=(700, 700), num_workers=0)  # 56 MiB
    grown = {}
    for limit in (2**23, 2**40):
        monkeypatch.setattr(mapped, "_MAPPED_BYTES", limit)
        data = packed.packed(str(tmp_path / "made")).train
        assert isinstance(data, MappedDataset)
        before = resident_mib()
        for indices in torch.arange(40).split(4):
            data.batch(indices)
        grown[limit] = resident_mib() - before
    assert grown[2**23] < 16 < 50 < grown[2**40]


def test_a_run_resumes_from_a_pack_and_moved_it_is_the_same(made: Path, tmp_path: Path) -> None:
    words = ["data=packed", f"data.path={made}", "model=linear", "data.batch_size=16", "trainer.progress=false"]
    words += ["logger.plots=false", "logger.tensorboard=false", "data.augment=[flip]", "scheduler=constant"]
    whole = dlwp.train(*words, "trainer.epochs=3", "run_dir=whole")
    dlwp.train(*words, "trainer.epochs=3", "trainer.max_steps=12", "run_dir=cut")
    made.rename(tmp_path / "moved")
    moved = f"data.path={tmp_path / 'moved'}"
    again = dlwp.train("resume=cut", moved, "trainer.max_steps=null", "data.loader=workers", "data.num_workers=1")
    weights = [next((run.folder / "checkpoints").glob("step-*/model.safetensors")) for run in (whole, again)]
    assert whole.summary["step"] == again.summary["step"]
    assert weights[0].read_bytes() == weights[1].read_bytes()


# ---- the command ----------------------------------------------------------------------------------------------------


def run(*words: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["dlwp-pack", *map(str, words)])
    return command.main()


def test_the_command_says_what_it_made_and_how_to_go_on(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "train" / "cat" / "000.jpg").write_text("no")
    assert run(source, "made", "image_size=4x6", "on_error=skip", "num_workers=0", monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "packed   train 149 · test 10 · 2 classes · 4x6 (crop)\n" in said
    assert "left out" in said and "cat/000.jpg (sample 0) is not a picture" in said
    assert said.endswith("next     dlwp-train data=packed data.path=made\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a"], "two folders are needed, got 1. dlwp-pack SOURCE DEST image_size=64"),
        (["a", "b", "imagesize=4"], "unknown key 'imagesize'. Did you mean 'image_size'?"),
        (["a", "b", "image_size=0"], "image_size must be a number, HEIGHTxWIDTH or auto, got '0'"),
        (["a", "b", "fit=stretch"], "fit=stretch has no effect without image_size. image_size=64"),
        (["a", "b", "fit=pad"], "fit must be crop, stretch, got 'pad'"),
        (["a", "b", "num_workers=-1"], "num_workers must be a whole number >= 0 or auto, got '-1'"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"dlwp: error: {told}") and said.count("\n") == 1


def test_a_source_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("nowhere", "made", monkeypatch=monkeypatch) == 3
    assert "no folder 'nowhere'. dlwp-pack SOURCE DEST" in capsys.readouterr().err


def test_help_and_mistakes_import_nothing_slow() -> None:
    program = "import sys; from dlwp.commands import pack; pack._read(['a', 'b']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert not {"torch", "numpy", "PIL"} & {name.partition(".")[0] for name in done.stdout.split()}
