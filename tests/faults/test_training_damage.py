"""Rows 5 and 12 of docs/faults.md: no flipped bit or cut is ever loaded, and a hostile file never runs."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch

from penstock.errors import CheckpointError
from penstock.train import checkpoint

sys.path.append(str(Path(__file__).parents[1] / "unit" / "train"))
import tiny_training as tiny

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_memory_dataset(patch)
        report = tiny.train(out, "train.steps=2")
    return Path(report.checkpoint)


def is_refused(folder: Path, meaning: object) -> bool:
    """Whether loading raises; what loads must be what was written."""
    try:
        state = checkpoint.read_state(folder)
        checkpoint.verify_files(folder)
    except CheckpointError as error:
        return str(folder) in str(error)
    assert state == meaning
    return False


def load_everything(folder: Path) -> None:
    checkpoint.read_state(folder)
    checkpoint.verify_files(folder)
    for name in FILES[:2]:
        checkpoint.load_tensors(folder / name, {})


@pytest.mark.parametrize("name", FILES)
def test_no_flipped_bit_is_loaded(folder: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    meaning, path = checkpoint.read_state(folder), copy / name
    raw, chance = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(170):
        bit = chance.randrange(8 * len(raw))
        spoiled = bytearray(raw)
        spoiled[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoiled)
        refused += is_refused(copy, meaning)
    # Only in JSON can a flip change no value, between two kinds of blank.
    assert refused == 170 if name != "state.json" else refused > 150


@pytest.mark.parametrize("name", FILES)
def test_no_cut_file_is_loaded(folder: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    meaning, path = checkpoint.read_state(folder), copy / name
    raw, chance = path.read_bytes().rstrip(), random.Random(1)
    for length in [0, 1, 8, len(raw) - 1, *(chance.randrange(len(raw)) for _ in range(65))]:
        path.write_bytes(raw[:length])
        assert is_refused(copy, meaning)


def test_swapped_files_are_not_loaded(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    model, optimizer = (copy / name for name in FILES[:2])
    model.rename(copy / "aside")
    optimizer.rename(model)
    (copy / "aside").rename(optimizer)
    assert is_refused(copy, None)


class Attack:
    """Unpickling this makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.proof,))  # type: ignore[return-value]


@pytest.mark.parametrize("name", FILES)
def test_a_pickled_attack_with_a_right_hash_does_not_run(folder: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    proof = tmp_path / "it-ran"
    attack = tmp_path / "attack.pt"
    torch.save({"model": Attack(proof)}, attack)
    shutil.copy(attack, copy / name)
    if name != "state.json":
        sign(copy)
    with pytest.raises(CheckpointError):
        load_everything(copy)
    assert not proof.exists()
    # The attack is one: torch's own loader runs it when told to trust the file.
    torch.load(attack, weights_only=False)
    assert proof.exists()


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "{}", '{"sha256": 1}', "[1]", '"x"', "\ud800"])
def test_hostile_json_is_refused(folder: Path, tmp_path: Path, text: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "state.json").write_bytes(text.encode(errors="surrogatepass"))
    assert is_refused(copy, None)


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {"nonsense": 1}},
        {"recipe": None},
        {"schedule": {"warmup_steps": 1}},
        {"files": {}},
        {"files": {"../../etc/passwd": "0", "model.safetensors": None}},
    ],
)
def test_a_signed_state_that_makes_no_sense_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    sign(copy, change)
    assert is_refused(copy, None)


def sign(folder: Path, change: dict[str, object] | None = None) -> None:
    """Make the hashes in state.json right again, as an attacker would."""
    record = json.loads((folder / "state.json").read_text())
    del record["sha256"]
    record["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES[:2]}
    record |= change or {}
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    record["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "state.json").write_text(json.dumps(record))
