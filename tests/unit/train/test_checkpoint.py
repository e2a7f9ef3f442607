"""Checkpoints: whole or refused, by name of file."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

import pytest
import tiny_training as tiny
import torch
from safetensors.torch import load_file

from penstock.errors import CheckpointError
from penstock.train import checkpoint
from penstock.train.state import load_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 2 and 4."""
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_memory_dataset(patch)
        tiny.train(out, "train.steps=4", "train.checkpoint_every=2")
    return out


@pytest.fixture
def run_folder(trained: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_what_a_checkpoint_holds(trained: Path) -> None:
    folder = trained / "checkpoints" / "step-00000004"
    assert sorted(p.name for p in folder.iterdir()) == [
        "model.safetensors", "optimizer.safetensors", "state.json",
    ]  # fmt: skip
    model, optimizer = load_file(folder / "model.safetensors"), load_file(folder / "optimizer.safetensors")
    assert {t.dtype for t in model.values()} == {torch.float32}
    assert {t.dtype for t in optimizer.values()} == {torch.bfloat16}
    assert any(name.endswith("e_score_correction_bias") for name in model)
    parameters = {name for name in model if not name.endswith("e_score_correction_bias")}
    assert set(optimizer) == {f"{moment}.{name}" for moment in "mv" for name in parameters}
    state = json.loads((folder / "state.json").read_text())
    assert (state["step"], state["updates"], state["data"]["step"]) == (4, 4, 4)
    assert state["schedule"] == {"warmup_steps": 2, "constant_steps": 1, "decay_steps": 1}
    assert state["recipe"]["model"]["hidden_size"] == 32
    assert state["libraries"]["torch"] == torch.__version__.split("+")[0] or state["libraries"]["torch"]
    for name, digest in state["files"].items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_state_and_weights_come_back(trained: Path) -> None:
    folder = trained / "checkpoints" / "step-00000004"
    state = checkpoint.read_state(folder)
    assert state.recipe == tiny.config(trained, "train.steps=4", "train.checkpoint_every=2")
    model, recipe, _ = load_model(trained)
    assert recipe == state.recipe
    assert not model.training
    stored = load_file(folder / "model.safetensors")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, stored[name], rtol=0, atol=0)
    of_step_2 = load_model(trained / "checkpoints" / "step-00000002").model
    assert not torch.equal(of_step_2.norm.weight, model.norm.weight)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["missing", "cut", "empty", "longer"])
def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_it_used(
    run_folder: Path, caplog: pytest.LogCaptureFixture, name: str, harm: str
) -> None:
    path = run_folder / "checkpoints" / "step-00000004" / name
    raw = path.read_bytes()
    path.unlink()
    if harm != "missing":
        path.write_bytes({"cut": raw[:-7], "empty": b"", "longer": raw + b"{}"}[harm])
    with pytest.raises(CheckpointError, match=f"{path}.*delete this folder"):
        load_model(path.parent)
    whole = run_folder.with_name("whole")
    tiny.train(whole, "train.steps=6", "optimizer.constant_steps=1", "optimizer.decay_steps=1")
    with caplog.at_level(logging.WARNING):
        report = tiny.train(
            run_folder, "train.steps=6", "optimizer.constant_steps=1", "optimizer.decay_steps=1"
        )
    assert report.first_step == 2
    assert str(path) in caplog.text
    assert tiny.losses(run_folder) == tiny.losses(whole)
    assert (run_folder / "checkpoints" / "damaged-step-00000004").is_dir()


def test_when_none_is_complete_nothing_starts_anew_by_itself(run_folder: Path) -> None:
    for path in run_folder.glob("checkpoints/step-*/model.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"none of its 2 checkpoints is complete.*resume=False"):
        tiny.train(run_folder, "train.steps=6")
    assert len(list(run_folder.glob("checkpoints/step-*"))) == 2


def test_a_newer_format_is_refused_with_the_known_one(run_folder: Path) -> None:
    path = run_folder / "checkpoints" / "step-00000004" / "state.json"
    record = json.loads(path.read_text())
    del record["sha256"]
    record["version"] = 2
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    record["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="checkpoint format 2, this version of penstock knows 1"):
        load_model(path.parent)


def test_a_folder_without_checkpoints_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoints here"):
        load_model(tmp_path)


def test_tensors_of_another_shape_are_named(trained: Path) -> None:
    path = trained / "checkpoints" / "step-00000004" / "model.safetensors"
    targets = load_file(path)
    name = min(targets)
    with pytest.raises(CheckpointError, match="of another model"):
        checkpoint.load_tensors(path, targets | {name: torch.zeros(3)})
    with pytest.raises(CheckpointError, match="lacks 1 tensors, such as another"):
        checkpoint.load_tensors(path, targets | {"another": torch.zeros(3)})
    del targets[name]
    with pytest.raises(CheckpointError, match=f"has the unknown 1 tensors, such as {name}"):
        checkpoint.load_tensors(path, targets)
