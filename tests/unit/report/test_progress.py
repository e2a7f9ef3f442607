"""Progress in a pipe, for programs and on a terminal."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass

import pytest

from penstock.jobs import Progress
from penstock.report.progress import (
    BarView,
    JsonView,
    LineView,
    Update,
    job_callback,
    open_view,
    step_callback,
)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Step:
    step: int = 4
    steps: int = 10
    loss: float = 2.5
    mtp_loss: float | None = 3.25
    tokens_per_s: float = 12_000.0
    mfu: float | None = 0.42
    data_stall_s: float = 0.002
    expert_load: tuple[float, ...] = (1.5, 1.25)


def test_the_view_follows_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(open_view(False, io.StringIO()), LineView)
    assert isinstance(open_view(False, Terminal()), BarView)
    assert isinstance(open_view(True, Terminal()), JsonView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_view(False, Terminal()), LineView)


def test_lines_come_seldom_and_the_last_state_always() -> None:
    stream, clock = io.StringIO(), Clock()
    with LineView(stream, clock) as view:
        for done in range(1, 101):
            clock.now += 0.1
            view.update(Update("pack: encode", done * 1e6, 1e8, "B", done * 0.1))
    lines = stream.getvalue().splitlines()
    assert 3 <= len(lines) <= 4
    assert lines[-1].startswith("pack: encode ")
    assert lines[-1].endswith(" 100 MB of 100 MB, 10 MB/s, 10.0 s")
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_new_stage_shows_how_the_old_one_ended() -> None:
    stream, clock = io.StringIO(), Clock()
    with LineView(stream, clock) as view:
        view.update(Update("count", 1, 2, "B", 0.1))
        view.update(Update("count", 2, 2, "B", 0.2))
        view.update(Update("merge", 1, 2, "merges", 0.1))
        view.note("tokenizer: done")
    names = [line.split()[0] for line in stream.getvalue().splitlines()]
    assert names == ["count", "count", "merge", "tokenizer:"]


def test_json_lines_are_objects_with_every_figure() -> None:
    stream, clock = io.StringIO(), Clock()
    with JsonView(stream, clock) as view:
        job_callback(view, "pack")(Progress("encode", 10, 40, 0.5))
        job_callback(view, "pack")(Progress("encode", 40, 40, 1.5))
        step_callback(view, "train")(Step())
        view.note("train: done in 3 s", stage="train", seconds=3)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [e["event"] for e in events] == ["progress", "progress", "progress", "note"]
    assert (events[1]["stage"], events[1]["done"], events[1]["total"]) == ("pack: encode", 40, 40)
    assert events[2]["done"] == 5
    assert events[2]["loss"] == 2.5
    assert events[2]["mtp"] == 3.25
    assert events[2]["mfu %"] == 42
    assert events[2]["fullest expert x"] == 1.5
    assert events[3] == {"event": "note", "text": "train: done in 3 s", "stage": "train", "seconds": 3}


def test_a_bar_on_a_terminal_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    with open_view(False, stream) as view:
        step_callback(view, "train")(Step())
        view.note("[not markup]")
    text = stream.getvalue()
    assert "loss 2.5" in text
    assert "5 of 10 steps" in text
    assert "[not markup]" in text
    codes = set(re.findall(r"\x1b\[([\d;]*)m", text))
    assert not {c for c in codes if re.search(r"(^|;)(3\d|4\d|9\d)(;|$)", c)}
