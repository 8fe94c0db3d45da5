"""What the page promises: one file that loads nothing, no HTML from a run, and curves as they were recorded."""

from __future__ import annotations

import re
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dlwp.comparing import curves, page, verdict
from dlwp.comparing.groups import Groups, Setting, Trial

NOW = datetime(2026, 11, 26, 17, 5)


def trial(run: str, seed: int, value: float, records: list[dict[str, Any]], **row: Any) -> Trial:
    told = {"settings": {"data": "digits"}, "epoch": 2, "step": 20, "best_step": 20, "elapsed_s": 3.2, **row}
    return Trial(run, seed, value, told, records, {})


def line(step: int, value: Any, split: str = "val") -> dict[str, Any]:
    return {"step": step, "epoch": step // 10, "split": split, "accuracy": value, "loss": 0.5, "time": 1.0}


def two(name: str = "lr=0.1", **options: Any) -> Groups:
    settings = [
        Setting(label, {"optimizer.lr": label}, [
            trial(f"runs/{label}-{seed}", seed, base + seed / 100, [line(10, base), line(20, base + seed / 100)])
            for seed in range(3)
        ])
        for label, base in ((name, 0.7), ("lr=0.2", 0.8))
    ]  # fmt: skip
    told: dict[str, Any] = {"left_out": {}, "notes": [], "beside": {}, **options}
    return Groups("test/accuracy", True, settings, ["optimizer.lr"], num_samples=359, **told)


def html(groups: Groups, folder: Path = Path()) -> str:
    pairs = verdict.pairs_of(groups)
    return page.html(groups, pairs, verdict.scale_of(groups, pairs), folder, NOW)


class Reader(HTMLParser):
    """Collects tags, their attributes and the text, and holds that each tag is closed in its order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    text = html(two())
    read = Reader(text)
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert not re.search(r"https?:|//|url\(|@import|\bsrc=|\bon\w+=", text.replace("</", ""))
    policy = next(said["content"] for tag, said in read.tags if said.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert any(said.get("name") == "viewport" for _, said in read.tags) and "prefers-color-scheme:dark" in text


def test_the_verdict_comes_first_then_difference_curves_keys_and_runs() -> None:
    words = Reader(html(two())).words
    order = ["lr=0.2 is better than lr=0.1 by 10.0", "Difference", "Curves", "Keys that differ", "Results", "Runs"]
    places = [words.rindex(text) if text == "Runs" else words.index(text) for text in order]
    assert places == sorted(places)
    assert "3 seeds each, paired" in words and "Made by dlwp-compare of dlwp" in words and "2026-11-26 17:05" in words


def test_what_comes_from_a_run_is_no_html() -> None:
    evil = "<script>alert('x')</script>\"&"
    found = two(f"lr={evil}", left_out={evil: evil}, notes=[evil], beside={evil: [evil, "b"]})
    found.settings[0].trials[0] = trial(evil, 0, 0.7, [line(10, 0.5), line(20, 0.6)], settings={"data": evil})
    text = html(found)
    assert "<script" not in text and evil in Reader(text).words
    for _, said in Reader(text).tags:
        assert "alert('x')" not in (said.get("href") or "")


def test_links_lead_to_the_runs_from_where_the_page_lies() -> None:
    links = [said["href"] for tag, said in Reader(html(two(), Path("pages/of/today"))).tags if tag == "a"]
    assert links[0] == "../../../runs/lr%3D0.1-0/"


def test_a_curve_is_the_mean_of_the_seeds_and_its_band_goes_from_the_lowest_to_the_highest() -> None:
    records = [[line(10, 0.5), line(20, value), line(20, 0.1, "test")] for value in (0.6, 0.7, 0.9)]
    setting = Setting("a", {}, [trial("r", seed, 0.0, one) for seed, one in enumerate(records)])
    x_name, (found,) = curves.curves_of(
        Groups("test/accuracy", True, [setting], [], {}, {}, [], None), [setting], "val/accuracy"
    )
    assert (x_name, found.xs) == ("epoch", [1.0, 2.0])
    assert found.mean == pytest.approx([0.5, 2.2 / 3]) and found.low == [0.5, 0.6] and found.high == [0.5, 0.9]


def test_a_curve_stops_where_less_than_half_of_the_seeds_go_on_and_has_few_points() -> None:
    short = [trial("r", seed, 0.0, [line(step, 0.5) for step in range(1, 11)]) for seed in range(2)]
    long = trial("r", 2, 0.0, [line(step, 0.5) for step in range(1, 2001)])
    for members, last in (([*short, long], 10), ([long], 2000)):
        setting = Setting("a", {}, members)
        told = Groups("test/accuracy", True, [setting], [], {}, {}, [], None)
        _, (found,) = curves.curves_of(told, [setting], "val/accuracy")
        assert found.xs[-1] == last / 10 and len(found.xs) <= curves.MOST_POINTS


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-3.0, 11.0, [0, 5, 10]), (0.5, 0.5, [0.46, 0.48, 0.5, 0.52, 0.54])],
)
def test_an_axis_has_round_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert curves.Axis.of(low, high).ticks == pytest.approx(ticks)


def test_what_spans_decades_is_drawn_by_its_logarithm() -> None:
    axis = curves.Axis.logarithmic(0.02, 300.0)
    assert axis.ticks == pytest.approx([0.1, 1, 10, 100]) and axis.share(0.02) == 0 and axis.share(300) == 1
    curve = curves.Curve("a", 0, [1, 2, 3], [100, 1, 0.1], [100, 1, 0.1], [100, 1, 0.1])
    drawn = curves.drawing([curve], "epoch", str)
    ys = [float(pair.split(",")[1]) for pair in re.search(r'polyline[^>]*points="([^"]*)"', drawn)[1].split()]  # type: ignore[index]
    assert (ys[1] - ys[0]) / (ys[2] - ys[1]) == pytest.approx(2, rel=0.01)


def test_more_settings_than_colours_are_all_in_the_tables() -> None:
    settings = [
        Setting(f"lr={n}", {"optimizer.lr": str(n)}, [trial(f"r{n}", 0, 0.5, [line(10, 0.1), line(20, 0.2)])])
        for n in range(11)
    ]
    text = html(Groups("test/accuracy", True, settings, ["optimizer.lr"], {}, {}, [], None))
    assert (
        "The first 8 of 11 settings." in text
        and "lr=10" in text
        and "c8" not in re.findall(r'class="line (\w+)"', text)
    )
