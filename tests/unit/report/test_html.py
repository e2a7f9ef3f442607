"""The report page: everything is in it, and nothing is fetched."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from penstock.config import Config
from penstock.report.html import HeldOut, RunPage, Sample, SourceSize, StageSpeed, render_page, write_page
from penstock.report.plots import smoothed

VOID = {"meta", "br", "img", "link", "input", "hr"}
OPTIONAL_END = {"th", "td", "tr"}


class Page(HTMLParser):
    """Collects what a browser would fetch, and checks that elements nest."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[tuple[str, str | None]] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            (k, v) for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "poster", "action")
        ]
        if tag not in VOID | OPTIONAL_END:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID | OPTIONAL_END:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in OPTIONAL_END:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(**changes: Any) -> RunPage:
    metrics = [
        {"step": i, "loss": 9 - i / 20, "mtp_loss": 9.5 - i / 20, "tokens": 100, "expert_load": [1.5, 2.5]}
        for i in range(100)
    ]
    metrics[7]["loss"] = None
    values: dict[str, Any] = {
        "title": "penstock: tiny <run>",
        "subtitle": "a machine",
        "facts": {"parameters": "6.02M"},
        "metrics": metrics,
        "held_out": HeldOut(3.125, 1.625, 1.75, 267_000, 14),
        "stages": [
            StageSpeed("pack", 2.0, 2_500_000, "tokens", "9,657 rows"),
            StageSpeed("corpus", 1.0, 0, "B"),
        ],
        "sources": [SourceSize("python-code", 521, 9_000_000, 2_250_000), SourceSize("empty", 1, 0, 0)],
        "sample": Sample("def ", "f():\n    return '<script>alert(1)</script>' & 1"),
        "recipe": Config().to_mapping(),
        "record": {"versions": {"python": "3.11.7"}},
    }
    return RunPage(**{**values, **changes})


def parsed(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def test_nothing_is_fetched_and_no_script_runs() -> None:
    text = render_page(page_of())
    page = parsed(text)
    assert all(value is not None and value.startswith("#") for _, value in page.fetched)
    assert not {"script", "iframe", "link", "img", "object", "embed"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", text)


def test_everything_is_shown() -> None:
    text = render_page(page_of())
    words = " ".join(parsed(text).text)
    for expected in (
        "penstock: tiny <run>", "6.02M", "bigram model 1.750", "1.625", "3.125", "267 KB", "MoE layer 2",
        "next token", "multi-token prediction", "1.25M tokens/s", "9,657 rows", "python-code", "4.000",
        "n_routed_experts = 64", "3.11.7", "return '<script>alert(1)</script>' & 1",
    ):  # fmt: skip
        assert expected in words, expected
    assert "nan" not in words
    assert words.count("<svg") == 0
    assert text.count("<svg") == 4


def test_plots_follow_light_and_dark() -> None:
    text = render_page(page_of())
    assert "prefers-color-scheme: dark" in text
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    for svg in svgs:
        assert "var(--accent)" in svg
        assert not set(re.findall(r"(?:fill|stroke): (#\w+)", svg)), "a colour that does not follow the theme"


def test_ids_of_the_plots_do_not_clash() -> None:
    ids = re.findall(r'\bid="([^"]+)"', render_page(page_of()))
    assert len(ids) == len(set(ids))


def test_parts_that_are_not_there_leave_no_empty_section() -> None:
    bare = page_of(
        metrics=[], held_out=None, stages=[], sources=[], sample=None, record={}, recipe={}, facts={}
    )
    assert "<section" not in render_page(bare)
    no_experts = [{"step": 0, "loss": 1.0, "mtp_loss": None, "tokens": 5, "expert_load": []}]
    assert "MoE layer" not in render_page(page_of(metrics=no_experts))


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    write_page(page_of(), tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_page(page_of())


def test_the_running_mean_has_no_bias_at_the_start() -> None:
    assert smoothed([4.0] * 50) == pytest.approx([4.0] * 50)
    assert smoothed([1.0, 3.0], span=1) == [1.0, 3.0]
    falling = smoothed([10.0 - i for i in range(10)], span=4)
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] > 1.0
