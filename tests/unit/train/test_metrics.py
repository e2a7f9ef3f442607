"""metrics.jsonl: one whole line a step, also after a kill."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from penstock.train.metrics import MetricsFile, StepEvent, read_metrics


def event(step: int, **changes: object) -> StepEvent:
    plain = StepEvent(
        step=step, steps=10, loss=2.5, mtp_loss=None, balance_loss=1.0, grad_norm=0.5, lr=1e-3, tokens=96,
        tokens_per_s=1000.0, mfu=None, data_stall_s=0.0, step_s=0.1, expert_load=(1.5, 1.25),
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def write(path: Path, first_step: int, steps: range) -> None:
    with MetricsFile(path, first_step) as metrics:
        for step in steps:
            metrics.write(event(step, loss=float(step)))


def test_lines_hold_every_field_but_the_total(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 0, range(2))
    names = {f.name for f in dataclasses.fields(StepEvent)} - {"steps", "documents"}
    assert [set(line) for line in read_metrics(path)] == [names, names]
    assert read_metrics(path)[0]["expert_load"] == [1.5, 1.25]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_null_in_strict_json(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, 0) as metrics:
        metrics.write(event(0, loss=bad, skipped=True, documents=(7, 9)))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    line = json.loads(path.read_text(), parse_constant=refuse)
    assert line["loss"] is None
    assert line["documents"] == [7, 9]


@pytest.mark.parametrize("first_step", [0, 1, 3, 5])
def test_resuming_cuts_back_to_the_checkpoint(tmp_path: Path, first_step: int) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 0, range(5))
    write(path, first_step, range(first_step, 8))
    assert [line["step"] for line in read_metrics(path)] == list(range(8))


@pytest.mark.parametrize("tail", [b'{"step":3,"lo', b"\x00\xff\n", b"[3]\n", b'{"loss":1}\n', b'{"step":3}'])
def test_a_cut_or_damaged_tail_goes(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 0, range(3))
    with path.open("ab") as file:
        file.write(tail)
    write(path, 4, range(4, 6))
    assert [line["step"] for line in read_metrics(path)] == [0, 1, 2, 4, 5]
