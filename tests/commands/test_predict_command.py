"""`dlwp-predict` reads words as pictures, keys and settings, and writes what it found in the form asked for."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import sklearn
import torch
from PIL import Image
from safetensors import safe_open

from dlwp.commands import predict

PHOTOS = Path(sklearn.__file__).parent / "datasets" / "images"


@pytest.fixture(autouse=True)
def photos() -> None:
    Path("photos", "inner").mkdir(parents=True)
    shutil.copy(PHOTOS / "flower.jpg", "photos/flower.jpg")
    shutil.copy(PHOTOS / "china.jpg", "photos/inner/china.JPG")


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dlwp-predict", *words])
    return predict.main()


def test_table_has_a_block_for_each_picture(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    assert called(monkeypatch, "photos", "top_k=2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[3]] == ["photos/flower.jpg", "photos/inner/china.JPG"]
    assert lines[1].split("%  ")[1] == "daisy" and lines[4].split("%  ")[1] == "palace"
    assert len(lines) == 6


def test_json_has_the_form_that_stays(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    assert called(monkeypatch, "photos/*.jpg", "format=json", "top_k=1") == 0
    [one] = json.loads(capsys.readouterr().out)
    assert one["file"] == "photos/flower.jpg"
    [best] = one["predictions"]
    assert best.keys() == {"label", "index", "probability"} and (best["label"], best["index"]) == ("daisy", 985)


def test_csv_goes_to_a_file(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    assert called(monkeypatch, "photos/flower.jpg", "format=csv", "output=out.csv", "top_k=3") == 0
    assert capsys.readouterr().out == ""
    rows = list(csv.DictReader(Path("out.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2", "3"] and rows[0]["label"] == "daisy"


def test_standard_input_is_a_picture(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO((PHOTOS / "flower.jpg").read_bytes())))
    assert called(monkeypatch, "-", "top_k=1") == 0
    assert capsys.readouterr().out.splitlines()[0] == "standard input"


def test_a_name_with_an_equals_sign_is_a_picture_where_it_is_there(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    shutil.copy(PHOTOS / "flower.jpg", "a=b.jpg")
    assert called(monkeypatch, "a=b.jpg", "top_k=1") == 0
    assert "daisy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("features", "words", "told"),
    [
        ({"avx512_bf16": True}, [], "machine  bf16 (processor has AVX512-BF16); precision=fp32 for the last digits\n"),
        ({"avx512_bf16": True}, ["precision=fp32"], ""),
        ({}, [], ""),
        ({}, ["precision=bf16"], ""),
    ],
)
def test_a_faster_precision_is_taken_where_the_machine_has_it_and_said_with_its_reason(
    features: dict[str, bool], words: list[str], told: str, monkeypatch, capsys
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert called(monkeypatch, "photos/flower.jpg", "top_k=1", "device=cpu", *words) == 0
    said = capsys.readouterr()
    assert said.err == told and "daisy" in said.out


def test_unreadable_ones_are_named_and_the_status_says_so(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    Path("photos/bad.png").write_bytes(b"x")
    assert called(monkeypatch, "photos", "top_k=1", "format=json") == 3
    told = capsys.readouterr()
    assert len(json.loads(told.out)) == 2
    assert "warning: left out: photos/bad.png" in told.err
    assert "error: 1 of 3 pictures cannot be read and were left out" in told.err


@pytest.mark.parametrize("name", ["vectors.npz", "vectors.safetensors", "projector"])
def test_features_are_written_with_their_files(monkeypatch, capsys, name: str) -> None:  # type: ignore[no-untyped-def]
    assert called(monkeypatch, "photos", f"features={name}") == 0
    assert f"features {name}: 2 of 1,280 numbers" in capsys.readouterr().err
    if name == "vectors.npz":
        found = numpy.load(name)
        assert found["features"].shape == (2, 1280)
        assert found["files"].tolist() == ["photos/flower.jpg", "photos/inner/china.JPG"]
        assert found["labels"].tolist() == ["daisy", "palace"]
    elif name == "vectors.safetensors":
        with safe_open(name, "pt") as file:
            assert file.get_tensor("features").shape == (2, 1280)
            assert json.loads(file.metadata()["labels"]) == ["daisy", "palace"]
    else:
        rows = Path(name, "tensors.tsv").read_text().splitlines()
        assert [len(row.split("\t")) for row in rows] == [1280, 1280]
        assert Path(name, "metadata.tsv").read_text().splitlines()[1] == "photos/flower.jpg\tdaisy"
        with Image.open(Path(name, "sprite.png")) as sprite:
            assert sprite.size == (96, 96)
        assert 'tensor_path: "tensors.tsv"' in Path(name, "projector_config.pbtxt").read_text()


def test_a_sheet_shows_the_pictures(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    assert called(monkeypatch, "photos", "plots=sheet.png") == 0
    with Image.open("sheet.png") as sheet:
        picture = torch.from_numpy(numpy.array(sheet.convert("RGB")))
    assert picture.shape[1] > picture.shape[0] > 200  # two beside each other
    assert len(picture.view(-1, 3).unique(dim=0)) > 1000  # photographs, not an empty page


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "no picture is given"),
        (("flowr.jpg",), "no file 'flowr.jpg'"),
        (("photos/flwer.jpg",), "no file 'photos/flwer.jpg'. Near it: 'photos/flower.jpg'"),
        (("*.png",), "no file matches '*.png'"),
        (("empty",), "no pictures (.jpg, .jpeg, .png, .webp, .bmp) in 'empty'"),
        (("photos", "topk=3"), "unknown key 'topk'. Did you mean 'top_k'?"),
        (("photos", "top_k=0"), "top_k must be a whole number ≥ 1, got '0'"),
        (("photos", "format=xml"), "format must be table, json or csv, got 'xml'"),
        (("photos", "precision=bf61"), "precision must be auto, fp32, bf16 or fp16, got 'bf61'"),
        (("photos", "features=a.txt"), "features=a.txt: give a .npz"),
        (("photos", "checkpoint=nowhere"), "no run 'nowhere'"),
        (("photos", "model=resnet"), "no weights of ResNet are published"),
        (("photos", "model=effnet"), "no model 'effnet'"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capsys, words: tuple[str, ...], line: str) -> None:  # type: ignore[no-untyped-def]
    Path("empty").mkdir()
    assert called(monkeypatch, *words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"dlwp: error: {line}") and told.err.count("\n") == 1
