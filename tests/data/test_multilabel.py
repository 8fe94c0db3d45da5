"""A table of labels and a folder of pictures become splits; what is wrong in either is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from dlwp.data.multilabel import multilabel
from dlwp.data.splits import class_weights, find_facts
from dlwp.errors import ConfigError, DataError

ROWS = ["a.png,red|round", "b.png,round", "sub/c.png,", "d.png,blue|red"]


@pytest.fixture(autouse=True)
def pictures() -> None:
    for number, name in enumerate(("a.png", "b.png", "sub/c.png", "d.png")):
        file = Path("set", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numpy.full((12, 16, 3), 40 * number, numpy.uint8)).save(file)


def table(*rows: str, header: str = "file,labels") -> None:
    Path("labels.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def read(**options: Any) -> Any:
    return multilabel(**{"root": "set", "labels": "labels.csv", "image_size": 8, **options})


EXPECTED = [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("file,labels", ROWS, "labels in 'labels', with '|' between them"),
        ("tags,name", ["red round,a", "round,b", ",sub/c", "blue red,d"], "labels in 'tags', with blanks between them"),
        ("file,labels", ["a.png,red", "b.png,round", "sub/c.png,", "d.png,blue;red", "a.png,round"],
         "5 rows are of 4 pictures: the labels of each were joined"),
        ("file,blue,red,round", ["a.png,0,1,1", "b.png,0,0,1", "sub/c.png,0,0,0", "d.png,1,1,0"],
         "labels are 3 columns of 0 and 1"),
    ],
)  # fmt: skip
def test_labels_are_read_of_one_column_or_of_many(header: str, rows: list[str], said: str) -> None:
    table(*rows, header=header)
    found = read()
    find_facts(found)
    assert (found.facts.task, found.facts.classes, found.facts.num_classes) == (
        "multilabel",
        ["blue", "red", "round"],
        3,
    )
    assert found.train.targets.tolist() == EXPECTED and found.train.targets.dtype == torch.float32
    assert [int(one[0, 0, 0]) for one in found.train.inputs] == [0, 40, 80, 120]  # each its own picture
    assert said in " · ".join(found.notes) and "1 pictures have no label" in found.notes


def test_workers_give_the_same_samples() -> None:
    table(*ROWS)
    held, files = read(), read(loader="workers")
    for index in range(4):
        picture, target = files.train[index]
        assert torch.equal(picture, held.train.inputs[index]) and target.tolist() == EXPECTED[index]
    batch = torch.utils.data.default_collate([files.train[0], files.train[3]])
    assert batch[1].tolist() == [EXPECTED[0], EXPECTED[3]]


def test_splits_and_the_order_of_labels_are_the_tables_and_the_keys() -> None:
    table("a.png,red,train", "b.png,red|blue,train", "sub/c.png,blue,val", "d.png,red,test", header="file,labels,split")
    found = read(classes=["red", "blue", "never"])
    assert found.train.targets.tolist() == [[1, 0, 0], [1, 1, 0]]
    assert found.val.targets.tolist() == [[0, 1, 0]] and found.test.targets.tolist() == [[1, 0, 0]]
    assert any("every picture of train has the label red" in warning for warning in found.warnings)


def test_pictures_without_a_row_are_left_out_and_told() -> None:
    table(*ROWS[:3])
    assert read().warnings[0] == "1 pictures of 'set' are not in the table and are left out: set/d.png"


def test_weights_are_how_often_a_label_is_missing_for_each_time_it_is_there() -> None:
    table(*ROWS)
    weights, reason = class_weights(read())
    assert weights == [3.0, 1.0, 1.0] and reason == "train has 1 to 2 samples a label"


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, {"labels": "label.csv"}, "no file 'label.csv' (data.labels). Did you mean 'labels.csv'?"),
        (ROWS, {"root": "sets"}, "no data folder 'sets' (data.root). Near it: 'set'"),
        (ROWS, {"label_column": "label"}, "labels.csv has no column 'label' (data.label_column). Did you mean"),
        (ROWS, {"file_column": "files"}, "labels.csv has no column 'files' (data.file_column). Did you mean 'file'?"),
        (ROWS, {"split_column": "part"}, "labels.csv has no column 'part' (data.split_column)."),
        ([*ROWS, "e.png,red"], {}, "1 of 5 pictures of labels.csv are not in 'set': row 6: e.png. data.root=FOLDER"),
        (["x.png,red"], {}, "no column of labels.csv names pictures of 'set' (such as 'x.png')"),
        (ROWS, {"classes": ["rad", "round", "blue"]}, "labels.csv, row 2: label 'red' is not in data.classes. Did you "
         "mean 'rad'?"),
        (["a.png,", "b.png,"], {}, "no row of labels.csv has a label"),
        (["a.png"], {}, "labels.csv, row 2: it has not 2 values, as the header has"),
        ([], {}, "labels.csv has 2 columns and 0 rows"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_in_one_line(rows: list[str], options: Any, message: str) -> None:
    table(*rows)
    with pytest.raises(DataError) as caught:
        read(**options)
    assert message in caught.value.message and "\n" not in caught.value.message


def test_a_value_beside_0_and_1_is_named() -> None:
    table("a.png,0,1,1", "b.png,0,2,1", header="file,blue,red,round")
    with pytest.raises(DataError, match=r"labels.csv, row 3: column 'red' is '2', the other columns are 0 or 1"):
        read()


def test_names_of_labels_are_a_list() -> None:
    table(*ROWS)
    with pytest.raises(ConfigError, match=r"data.classes must be a list of the names of the labels, got 3"):
        read(classes=3)
