"""Text becomes windows: parts in its order, nothing shared, every token of val told once, and each epoch drawn anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dlwp.data.loaders import resident, streaming
from dlwp.data.sequence import ShiftedWindows, TokenWindows, decode, encode, sequence
from dlwp.data.splits import find_facts, take
from dlwp.errors import ConfigError, DataError

TEXT = "".join(f"line {number} of a long poem, and so on.\n" for number in range(40))


@pytest.fixture
def poem() -> str:
    Path("poem.txt").write_text(TEXT, encoding="utf-8")
    return "poem.txt"


def text_of(windows: Any, names: list[str], at: int) -> str:
    return "".join(names[token] for token in windows[at][0].tolist())


def test_a_target_is_the_token_after_and_the_classes_are_the_characters(poem: str) -> None:
    found = sequence(poem, length=16)
    find_facts(found)
    assert found.facts.task == "sequence" and found.facts.input_shape == (16,)
    assert found.facts.classes == sorted(set(TEXT)) and found.facts.num_classes == len(set(TEXT))
    assert found.facts.answers()["max_length"][0] == 16
    inputs, targets = found.train[3]
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[1:], targets[:-1])
    assert text_of(found.train, found.facts.classes, 0) == TEXT[:16]


def test_parts_lie_in_the_order_of_the_text_and_share_no_token(poem: str) -> None:
    found = sequence(poem, length=16, val_fraction=0.2, test_fraction=0.1)
    parts: list[Any] = [found.train, found.val, found.test]
    names = found.facts.classes or []
    assert "".join(names[token] for part in parts for token in part.tokens.tolist()) == TEXT
    assert [len(part.tokens) for part in parts] == [973, 278, 139]
    found.train.set_epoch(5)  # type: ignore[attr-defined]
    last = found.train[len(found.train) - 1][1]  # type: ignore[arg-type]
    assert len(last) == 16 and found.train.starts[-1] + found.train.shift + 16 < len(parts[0].tokens)  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [9, 16, 17, 24, 25, 31])
def test_each_token_but_the_first_is_told_exactly_once_in_val(count: int) -> None:
    tokens = torch.arange(count, dtype=torch.uint8)
    windows = TokenWindows.covering(tokens, 8)
    _, targets = windows.batch(torch.arange(len(windows)))
    assert sorted(targets[targets != -100].tolist()) == list(range(1, count))


def test_an_epoch_is_moved_by_a_number_drawn_from_seed_and_epoch_and_every_place_has_room() -> None:
    windows = ShiftedWindows(torch.arange(100, dtype=torch.int32), 8, seed=3)
    shifts = []
    for epoch in range(60):
        windows.set_epoch(epoch)
        shifts.append(windows.shift)
        inputs, _ = windows.batch(torch.arange(len(windows)))
        assert torch.equal(inputs.flatten(), torch.arange(windows.shift, windows.shift + 8 * len(windows)))
    assert set(shifts) == set(range(8))
    windows.set_epoch(7)
    assert windows.shift == shifts[7]
    other = ShiftedWindows(windows.tokens, 8, seed=4)
    assert [other.shift for epoch in range(20) if other.set_epoch(epoch) is None] != shifts[:20]  # type: ignore[func-returns-value]


def test_memory_and_workers_give_the_same_windows_in_every_epoch(poem: str) -> None:
    data = sequence(poem, length=16, seed=1).train
    held = resident.ResidentLoader(data, 4, seed=1, shuffle=True)  # type: ignore[arg-type]
    read = streaming.StreamingLoader(data, 4, seed=1, shuffle=True)
    firsts = []
    for epoch in (0, 1):
        for one, other in zip(held.epoch(epoch), read.epoch(epoch), strict=True):
            assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))
        firsts.append(next(iter(held.epoch(epoch)))[0])
    assert not torch.equal(*firsts)


def test_windows_are_views_of_tokens_that_are_held_once(poem: str) -> None:
    data: Any = sequence(poem, length=64).train
    assert data.nbytes == len(data.tokens)  # a byte each
    assert data.to(torch.device("cpu")).tokens.data_ptr() == data.tokens.data_ptr()
    few: Any = take(data, 3, seed=0)
    assert len(few) == 3 and few.tokens.data_ptr() == data.tokens.data_ptr()


def test_several_files_and_a_folder_are_read_in_the_order_of_their_names() -> None:
    Path("books").mkdir()
    for name, text in (("b.txt", "bbbb" * 20), ("a.txt", "aaaa" * 20)):
        Path("books", name).write_text(text, encoding="utf-8")
    whole: Any = sequence("books", length=4, val_fraction=0).train
    assert text_of(whole, ["a", "b"], 0) == "aaaa"
    turned: Any = sequence(["books/b.txt", "books/a.txt"], length=4, val_fraction=0).train
    assert text_of(turned, ["a", "b"], 0) == "bbbb"


def test_bytes_take_any_file_and_come_back_as_text() -> None:
    Path("raw.bin").write_bytes(bytes(range(256)) * 4)
    found = sequence("raw.bin", level="bytes", length=8)
    assert found.facts.num_classes == 256
    encoding = {"level": "bytes"}
    assert "".join(decode(encode("größer €", encoding), encoding)) == "größer €"
    assert "".join(decode([0xE2, 0x82, 65], encoding)) == "\ufffdA"


def test_characters_come_back_and_unknown_ones_are_named(poem: str) -> None:
    encoding: Any = sequence(poem, length=8).facts.encoding
    assert "".join(decode(encode("a long line", encoding), encoding)) == "a long line"
    with pytest.raises(DataError, match=r"the prompt has 'Q', 'é', which"):
        encode("a Q and é, Q", encoding)


def test_characters_that_train_lacks_are_told() -> None:
    Path("odd.txt").write_text("abc " * 100 + "xyz" * 10, encoding="utf-8")
    assert sequence("odd.txt", length=8).warnings == [
        "val holds what train does not, so that it cannot be predicted: 'x', 'y', 'z'"
    ]


@pytest.mark.parametrize(
    ("content", "keys", "error", "words"),
    [
        (b"", {}, DataError, r"'t.txt' is empty \(0 bytes\)"),
        (b"short", {}, DataError, r"train has 5 of 5 tokens, a window needs 129. data.length=2"),
        (b"word " * 40, {"val_fraction": 0.05}, DataError, r"val has 10 of 200 .*or a larger data.val_fraction"),
        (b"caf\xe9 " * 99, {}, DataError, r"no UTF-8 text: byte 0xe9 at 3. data.level=bytes takes any file"),
        (b"word " * 99, {"level": "byte"}, ConfigError, r"data.level cannot be 'byte'. Did you mean 'bytes'"),
        (b"word " * 99, {"length": 0}, ConfigError, r"data.length must be a number of tokens, at least 1, got 0"),
        (b"word " * 99, {"test_fraction": 0.95}, DataError, r"= 1.05: nothing is left to train"),
        (b"word " * 99, {"val_fraction": 1.5}, ConfigError, r"data.val_fraction must be a share"),
    ],
)
def test_what_cannot_be_is_one_line(content: bytes, keys: dict[str, Any], error: Any, words: str) -> None:
    Path("t.txt").write_bytes(content)
    with pytest.raises(error, match=words):
        sequence("t.txt", **keys)


def test_a_file_that_is_not_there_is_told_with_the_one_near_it(poem: str) -> None:
    with pytest.raises(DataError, match=r"no file 'poems.txt' \(data.path\). Near it: 'poem.txt'"):
        sequence("poems.txt")
    Path("empty").mkdir()
    with pytest.raises(DataError, match=r"folder 'empty' has no .txt files"):
        sequence("empty")
