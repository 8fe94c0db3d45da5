"""A table becomes inputs and targets by what its columns are; what was found out is said, what is wrong is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from dlwp.data import rowcode
from dlwp.data.delimited import read, texts
from dlwp.data.schema import read_schema
from dlwp.data.tables import table
from dlwp.errors import ConfigError, DataError

ROWS = [
    # height, colour, day, note, kind: a number with a gap, a category with a gap, a date, one value, the target
    ["1.5", "red", "2024-01-01", "x", "cat"], ["2.5", "blue", "2024-01-02", "x", "dog"],
    ["", "red", "2024-01-03", "x", "cat"], ["3.5", "?", "2024-01-06", "x", "dog"],
]  # fmt: skip
HEAD = ["height", "colour", "day", "note", "kind"]


def write(path: str, head: list[str], rows: list[list[str]], delimiter: str = ",", encoding: str = "utf-8") -> str:
    lines = [delimiter.join(row) for row in [head, *rows]]
    Path(path).write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


@pytest.fixture
def pets() -> str:
    return write("pets.csv", HEAD, ROWS * 10)


def test_columns_become_numbers_indicators_and_codes_by_the_rows_of_train(pets: str) -> None:
    found = table(pets, "kind", val_fraction=0)
    facts, inputs = found.facts, found.train.inputs  # type: ignore[attr-defined]
    assert facts.inputs == [
        "height",
        "day.days",
        "day.year_sin",
        "day.year_cos",
        "day.weekday",
        "height.missing",
        "colour",
    ]
    assert facts.cardinalities == [3] and facts.classes == ["cat", "dog"]
    heights = torch.tensor([1.5, 2.5, 3.5]).double()
    expected = ((heights - 2.5) / heights.std(correction=0)).float()
    torch.testing.assert_close(inputs[[0, 1, 3], 0], expected)
    assert inputs[2, 0] == 0 and inputs[:4, 5].tolist() == [0, 0, 1, 0]
    assert inputs[:4, -1].tolist() == [2, 1, 2, 0]  # red, blue, red, missing
    assert found.train.targets[:4].tolist() == [0, 1, 0, 1]  # type: ignore[attr-defined]
    assert inputs[:, 1].mean().abs() < 1e-6 and inputs.dtype == torch.float32


def test_what_was_found_out_is_said(pets: str) -> None:
    said = "\n".join(table(pets, "kind").notes)
    assert "40 rows, 5 columns (utf-8, comma, header)" in said
    assert "inputs: 1 number, 1 date, 1 category (2 values) · missing: height 10, colour 10" in said
    assert "left out: note (always 'x')" in said
    assert "target: kind, classification (text): cat 50.0%, dog 50.0%" in said


def test_statistics_and_categories_are_those_of_train_alone() -> None:
    rows = [[str(number + 0.5), "new" if number >= 80 else "old", str(number % 7 + 0.5)] for number in range(100)]
    found = table(write("t.csv", ["x", "c", "y"], rows), "y", time="x", val_fraction=0.2)
    entry = found.facts.encoding["numbers"][0]  # type: ignore[index]
    assert (entry["mean"], len(found.val)) == (40.0, 20)  # type: ignore[arg-type]
    assert found.facts.encoding["categories"][0]["values"] == ["old"]  # type: ignore[index]
    assert found.val.inputs[:, 1].tolist() == [0] * 20  # type: ignore[union-attr]
    assert any("val: 20 rows have a 'c' that train has not, such as 'new'" in note for note in found.notes)
    targets = found.train.targets * torch.tensor(found.facts.target_std) + torch.tensor(found.facts.target_mean)  # type: ignore[attr-defined]
    torch.testing.assert_close(targets[:3].flatten(), torch.tensor([0.5, 1.5, 2.5]))


@pytest.mark.parametrize(
    ("cells", "task", "shape"),
    [
        (["a", "b", "a"], "classification", ()),
        (["0", "1", "1"], "classification", ()),
        (["0.5", "1", "1"], "regression", (1,)),
        ([str(number) for number in range(30)], "regression", (1,)),
    ],
)
def test_the_task_comes_from_the_target(cells: list[str], task: str, shape: tuple[int, ...]) -> None:
    rows = [[str(at * at), cell] for at, cell in enumerate(cells * 10)]
    found = table(write("t.csv", ["x", "y"], rows), "y")
    assert found.facts.task == task and found.train.targets.shape[1:] == shape  # type: ignore[attr-defined]


def test_several_targets_are_numbers_side_by_side() -> None:
    rows = [[str(at * 0.3), str(at), str(2 * at)] for at in range(20)]
    found = table(write("t.csv", ["x", "a", "b"], rows), ["a", "b"], val_fraction=0)
    assert found.train.targets.shape == (20, 2) and found.facts.target_mean == [9.5, 19.0]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(";", "utf-8"), ("\t", "cp1252"), ("|", "utf-8-sig"), (",", "utf-16")]
)
def test_delimiter_and_encoding_are_found_out(delimiter: str, encoding: str) -> None:
    rows = [["1,5" if delimiter == ";" else "1.5", "für", "a"], ["2", "grün", "b"]] * 5
    found = read(write("t.csv", ["x", "wörter", "y"], rows, delimiter, encoding))
    assert list(found.columns) == ["x", "wörter", "y"] and found.columns["wörter"][1] == "grün"
    assert found.form == {"delimiter": delimiter, "header": True, "encoding": encoding}


def test_a_comma_is_the_decimal_sign_where_numbers_need_it() -> None:
    rows = [[f"{at},5", str(at % 2)] for at in range(20)]
    found = table(write("t.csv", ["x", "y"], rows, ";"), "y", standardize=False, val_fraction=0)
    assert found.train.inputs[:3, 0].tolist() == [0.5, 1.5, 2.5]  # type: ignore[attr-defined]


def test_a_file_without_header_has_numbered_columns() -> None:
    Path("t.csv").write_text("1,2\n3,4\n5,7\n")
    assert list(read("t.csv").columns) == ["column_1", "column_2"] and read("t.csv").num_rows == 3


def test_every_guess_can_be_overridden(pets: str) -> None:
    kinds = {"note": "category", "day": "ignore", "height": "category"}
    found = table(pets, "kind", types=kinds, exclude=["colour"], missing=["2.5"], val_fraction=0)
    assert found.facts.inputs == ["height", "note"]
    assert found.facts.encoding["categories"][0]["values"] == ["", "1.5", "3.5"]  # type: ignore[index]
    assert table(pets, "kind", columns=["colour"]).facts.inputs == ["colour"]
    assert table(pets, "kind", classes=["dog", "cat"]).facts.classes == ["dog", "cat"]
    dropped = table(pets, "kind", drop_missing=True, val_fraction=0)
    assert len(dropped.train) == 20 and "20 rows of pets.csv with a missing value left out" in dropped.notes  # type: ignore[arg-type]


def test_guesses_are_written_and_read_again(pets: str) -> None:
    first = table(pets, "kind")
    assert "pets.schema.yaml has what was guessed" in first.guesses.write()
    place = Path("pets.schema.yaml")
    assert read_schema(str(place))["types"]["note"] == "ignore"
    again = table(pets, schema=str(place))
    assert again.facts.record() == first.facts.record()
    place.write_text(place.read_text().replace('"colour": category', '"colour": ignore'))
    assert "colour" not in (table(pets, schema=str(place)).facts.inputs or [])
    assert "left as it is" in first.guesses.write()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"data.target is not given: which column is to be learned\? pets.csv has height, colour"),
        ({"target": "Kind"}, r"pets.csv has no column 'Kind' \(data.target\). Did you mean 'kind'\?"),
        ({"target": "kind", "split": "grupp"}, r"there are auto, random, .* Did you mean 'group'\?"),
        ({"target": "kind", "split": "group"}, "data.split=group needs data.group=COLUMN"),
        ({"target": "kind", "types": {"colur": "number"}}, r"no column 'colur'. Did you mean 'colour'\?"),
        ({"target": "kind", "types": {"colour": "text"}}, "data.types.colour=text: there are number, category"),
        ({"target": "kind", "types": {"colour": "number"}}, "column 'colour' is 'red' in row 1, a number is needed"),
        ({"target": "note"}, "the target 'note' is always 'x'"),
        ({"target": "kind", "standardize": False}, "column 'height' is missing in row 3. data.drop_missing=true"),
        ({"target": "kind", "val_fraction": 1.5}, "data.val_fraction must be a number from 0 to below 1"),
        ({"target": ["kind", "height"]}, "column 'kind' is 'cat' in row 1, a number is needed"),
        ({"target": "kind", "classes": ["cat"]}, r"'kind' has 'dog', which is no class of data.classes \(cat\)"),
    ],
)
def test_a_mistake_is_one_line(pets: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        table(pets, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "has a header and no row"),
        ("a,b\n1,2\n\n3,4,5\n", "t.csv:4 has 3 fields, the first line has 2"),
        ("a,a\n1,2\n", "has two columns 'a'"),
        ("a,y\n1,\n2,\n", "the target 'y' is missing in all 2 rows"),
        ("a,y\n1,p\n1,q\n", r"no column to learn from \(a: always '1'\)"),
    ],
)
def test_a_damaged_file_is_told_with_its_place(content: str, message: str) -> None:
    Path("t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        table("t.csv", "y" if "y" in content else "b")


def test_a_file_that_is_not_there_is_told_with_the_nearest(pets: str) -> None:
    with pytest.raises(DataError, match=r"no file 'pet.csv' \(data.path\). Did you mean 'pets.csv'\?"):
        table("pet.csv", "kind")


def test_what_is_no_input_is_left_out_and_a_leak_is_warned_of() -> None:
    rows = [[str(100 + at), f"name {at}", str(at % 3), "nml"[at % 3], str(at * at % 11)] for at in range(60)]
    found = table(write("t.csv", ["id", "name", "y", "same", "x"], rows), "y")
    said = "\n".join(found.notes)
    assert "name (text, 60 different in 60 rows)" in said and "id (counts the rows)" in said
    assert found.warnings == [
        "column 'same' says all of the target 'y': what is learned from it is worth nothing. data.exclude=[same]"
    ]


def test_rows_that_two_files_share_are_counted(pets: str) -> None:
    write(
        "test.csv",
        list(reversed(HEAD)),
        [list(reversed(row)) for row in ROWS[:2]] + [["dog", "x", "2025-01-01", "red", "9"]],
    )
    found = table(pets, "kind", test_path="test.csv", val_fraction=0)
    assert found.warnings == ["2 of 3 rows of test are also in train, value for value: results will be too good"]
    torch.testing.assert_close(found.test.inputs[:2], found.train.inputs[:2])  # type: ignore[union-attr, attr-defined]


def test_a_class_that_train_has_not_is_refused(pets: str) -> None:
    write("test.csv", HEAD, [["1", "red", "2024-01-01", "x", "fox"]])
    with pytest.raises(DataError, match=r"test.csv: 'kind' has 'fox', which is no class in pets.csv \(cat, dog\)"):
        table(pets, "kind", test_path="test.csv")


@pytest.mark.parametrize("way", ["random", "stratified", "group", "time"])
def test_a_split_is_a_function_of_the_seed_and_keeps_its_promise(way: str) -> None:
    rows = [[str(at * at), f"g{at % 25}", str(at), "ab"[at % 5 == 0]] for at in range(100)]
    path = write("t.csv", ["x", "who", "when", "y"], rows)
    options: dict[str, Any] = {"group": "who"} if way == "group" else {"time": "when"} if way == "time" else {}
    options |= {
        "split": way,
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "types": {"when": "number"},
        "standardize": False,
    }
    first, again, other = (table(path, "y", seed=seed, **options) for seed in (0, 0, 1))
    parts = {name: part.inputs[:, 1].long() for name, part in first.present().items()}  # type: ignore[attr-defined]
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(100))
    assert [len(part) for part in parts.values()] == [60, 20, 20]
    assert torch.equal(first.val.inputs, again.val.inputs)  # type: ignore[union-attr]
    assert torch.equal(first.val.inputs, other.val.inputs) == (way == "time")  # type: ignore[union-attr]
    if way == "group":
        groups = [set((part % 25).tolist()) for part in parts.values()]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    if way == "time":
        assert parts["train"].max() < parts["val"].min() and parts["val"].max() < parts["test"].min()
    if way == "stratified":
        assert [part.targets.bincount().tolist() for part in (first.val, first.test)] == [[16, 4]] * 2  # type: ignore[union-attr]


def test_numbers_stay_as_they_are_where_a_formula_wants_them() -> None:
    rows = [[str(at + 1), "ab"[at % 2], str(0.1 * at)] for at in range(30)]
    found = table(write("t.csv", ["x", "g", "y"], rows), "y", standardize=False, dtype="float64", val_fraction=0)
    assert found.train.inputs[:3].tolist() == [[1, 1], [2, 2], [3, 1]]  # type: ignore[attr-defined]
    assert found.train.targets.dtype == torch.float64 and found.facts.target_std is None  # type: ignore[attr-defined]


def test_the_code_of_rows_is_plain_json_and_knows_what_is_strange() -> None:
    import json

    columns = {"c": texts(["a", "b", "a"], 3)}
    code = rowcode.fit(columns, {"c": "category"}, numpy.arange(3), {"missing": [""], "decimal": "."}, True)
    code = json.loads(json.dumps(code))
    inputs, unknown = rowcode.encode({"c": texts(["b", "z", "", "z"], 4)}, code, 4)
    assert inputs[:, 0].tolist() == [2, 0, 0, 0] and unknown["c"] == {"z": 2}


def test_the_census_is_read_as_a_person_would(data_root: Callable[[str], Path]) -> None:
    folder = data_root("tabular") / "tabular"
    found = table(str(folder / "adult-train.csv"), "income", test_path=str(folder / "adult-test.csv"))
    code: Any = found.facts.encoding
    assert (len(code["numbers"]), len(code["categories"]), len(found.test)) == (6, 8, 16_281)  # type: ignore[arg-type]
