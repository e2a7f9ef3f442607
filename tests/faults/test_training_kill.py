"""Rows 2 and 3 of docs/faults.md: a killed run goes on with the same batches and the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import penstock
from penstock.errors import Cancelled
from penstock.train import StepEvent, loop
from penstock.train.checkpoint import newest_complete

sys.path.append(str(Path(__file__).parents[1] / "unit" / "train"))
import tiny_training as tiny

TINY = Path(__file__).parents[1] / "unit" / "train" / "tiny_training.py"
RECIPE = ("train.steps=12", "train.checkpoint_every=3")


@pytest.fixture(autouse=True)
def _memory_data(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.use_memory_dataset(monkeypatch)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The losses of a run that nothing disturbed, to the last bit."""
    out = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_memory_dataset(patch)
        tiny.train(out, *RECIPE)
    return list(tiny.losses(out))


def start(*arguments: object) -> subprocess.Popen[str]:
    """``tiny_training.py`` in a process of its own."""
    package = str(Path(penstock.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(TINY), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_process_killed_again_and_again_loses_no_bit(tmp_path: Path, uninterrupted: list[str]) -> None:
    for kill_after_step in (1, 5, 11):
        process = start(tmp_path, kill_after_step, int(signal.SIGKILL), *RECIPE)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
    report = tiny.train(tmp_path, *RECIPE)
    assert report.first_step == 9
    assert tiny.losses(tmp_path) == uninterrupted


class Killed(BaseException):
    """Ends a run where it stands, as a kill would: no handler of the trainer knows it."""


@pytest.mark.parametrize("step", range(12))
def test_a_kill_after_any_step_loses_no_bit(tmp_path: Path, uninterrupted: list[str], step: int) -> None:
    def progress(event: StepEvent) -> None:
        if event.step == step:
            raise Killed

    with pytest.raises(Killed):
        loop.run(tiny.config(tmp_path, *RECIPE), progress)
    assert tiny.train(tmp_path, *RECIPE).first_step == step // 3 * 3
    assert tiny.losses(tmp_path) == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_the_step_and_saves(
    tmp_path: Path, uninterrupted: list[str], number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(
        Cancelled, match=r"stopped after step 5 of 12, saved in .*step-00000005 \(.* MB in .* s\).* to go on"
    ):
        tiny.train(tmp_path, *RECIPE, kill_after_step=4, number=number)
    assert signal.getsignal(number) == before
    assert tiny.train(tmp_path, *RECIPE).first_step == 5
    assert tiny.losses(tmp_path) == uninterrupted


def test_the_second_signal_stops_at_once(tmp_path: Path) -> None:
    def progress(event: StepEvent) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        loop.run(tiny.config(tmp_path, *RECIPE), progress)
    assert newest_complete(tmp_path / "checkpoints") is None


def test_a_kill_at_every_file_operation_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """In a child a point: the save of step 1 over that of step 0, until one gets through."""
    process = start(tmp_path, "kill-points", 0)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    found = json.loads((tmp_path / "kill-points.json").read_text())
    assert len(found["newest"]) >= 20
    # Before the rename the old one is the newest, after it the new one; at no point is there none.
    assert sorted(found["newest"]) == found["newest"]
    assert set(found["newest"]) == {0, 1}
    assert found["finished"] is True
