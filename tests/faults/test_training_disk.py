"""Row 4 of docs/faults.md, for checkpoints: a disk that refuses costs the save, nothing else."""

from __future__ import annotations

import collections
import errno
import itertools
import os
import resource
import shutil
import sys
from pathlib import Path

import pytest

from penstock.errors import CheckpointError
from penstock.train import durable
from penstock.train.checkpoint import newest_complete

sys.path.append(str(Path(__file__).parents[1] / "unit" / "train"))
import tiny_training as tiny

RECIPE = ("train.steps=6", "train.checkpoint_every=3")


@pytest.fixture(autouse=True)
def _memory_data(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.use_memory_dataset(monkeypatch)


def fails_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, turn: int, number: int) -> None:
    """Let the ``turn``-th call of a function fail with an errno."""
    real, calls = getattr(owner, name), itertools.count()

    def failing(*arguments: object, **named: object) -> object:
        if next(calls) == turn:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize(
    ("call", "turns", "number"),
    [
        ("fsync", 8, errno.ENOSPC),
        ("fsync", 1, errno.EIO),
        ("write_text", 2, errno.ENOSPC),
        ("rename", 1, errno.EACCES),
        ("replace", 1, errno.EIO),
    ],
)
def test_a_failing_call_is_told_and_a_rerun_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, turns: int, number: int
) -> None:
    tiny.train(tmp_path / "whole", *RECIPE)
    owner = durable.os if call == "fsync" else Path
    for turn in range(turns):
        out = tmp_path / f"turn-{turn}"
        tiny.train(out, "train.steps=3", "optimizer.constant_steps=2", "optimizer.decay_steps=2")
        with monkeypatch.context() as patch:
            # The first call forces the metrics file to the disk.
            fails_at(patch, owner, call, turn, number)
            with pytest.raises(CheckpointError, match=rf"{out}.*{os.strerror(number)}.*run again"):
                tiny.train(out, *RECIPE)
        found = newest_complete(out / "checkpoints")
        assert found is not None
        assert not list(out.glob("checkpoints/.aside-*"))
        tiny.train(out, *RECIPE)
        assert tiny.losses(out) == tiny.losses(tmp_path / "whole")


def test_a_full_disk_is_seen_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = collections.namedtuple("usage", "total used free")(10**6, 10**6 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"not enough space.*needs [\d,]+ bytes, 1,000 are free"):
        tiny.train(tmp_path, *RECIPE)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"set train\.out elsewhere"):
        tiny.train(tmp_path / "file" / "run")


def test_metrics_that_cannot_be_written_are_told_and_a_rerun_completes(tmp_path: Path) -> None:
    """No file may grow beyond 700 bytes: the second line of metrics is cut."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl: cannot be written: .* run again"):
            tiny.train(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "metrics.jsonl").stat().st_size == 700
    tiny.train(tmp_path)
    assert len(tiny.losses(tmp_path)) == 8
