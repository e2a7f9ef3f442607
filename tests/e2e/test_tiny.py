"""Raw text to a trained model and its report, through the command line, on a shrunken recipe."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock import Tokenizer

STAGES = [
    "corpus", "tokenizer", "pack", "bigram", "evaluate-before", "train", "evaluate-after",
    "generate", "report",
]  # fmt: skip
SHRUNKEN = [
    "corpus.max_bytes=1_000_000", "corpus.heldout_fraction=0.2", "tokenizer.vocab_size=512",
    "pack.seq_len=64",
    "data.global_batch_size=8", "model.vocab_size=512", "model.hidden_size=32", "model.intermediate_size=64",
    "model.moe_intermediate_size=32", "model.num_hidden_layers=2", "model.num_attention_heads=2",
    "model.n_routed_experts=8", "model.num_experts_per_tok=2", "model.kv_lora_rank=16",
    "model.qk_rope_head_dim=8", "model.qk_nope_head_dim=8", "model.v_head_dim=16", "train.steps=100",
    "train.micro_batch_size=8", "train.device=cpu", "evaluate.max_bytes=20_000", "evaluate.sample_tokens=20",
]  # fmt: skip

pytestmark = pytest.mark.slow


def penstock(*arguments: str | Path) -> tuple[Any, list[dict[str, Any]]]:
    """Result and events of a command that must succeed."""
    command = [sys.executable, "-m", "penstock", *map(str, arguments), "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), [json.loads(line) for line in done.stderr.splitlines()]


def run_tiny(out: Path, *more: str) -> tuple[Any, list[dict[str, Any]]]:
    changes = [word for change in (*SHRUNKEN, *more) for word in ("--set", change)]
    return penstock("run", "tiny", "-o", out, *changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    report, _ = run_tiny(out)
    assert [(s["name"], s["skipped"]) for s in report["stages"]] == [(name, False) for name in STAGES]
    return out


def test_training_helps_and_leaves_everything_behind(folder: Path) -> None:
    report, _ = run_tiny(folder)
    before, after = report["bits_per_byte_before"], report["bits_per_byte_after"]
    assert after < 0.9 * before
    assert 0 < report["bits_per_byte_bigram"] < before
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 100
    assert losses[0] == pytest.approx(math.log(512), rel=0.05)
    assert sum(losses[-5:]) < sum(losses[:5])
    page = (folder / "report.html").read_text(encoding="utf-8")
    for expected in (f"{after:.3f}", "bigram model", "python-code", "MoE layer 1", "vocab_size = 512"):
        assert expected in page
    assert 'src="http' not in page


def test_a_second_run_skips_every_stage(folder: Path) -> None:
    report, events = run_tiny(folder)
    assert all(stage["skipped"] for stage in report["stages"])
    assert [e["stage"] for e in events if e.get("skipped")] == STAGES


def test_more_steps_train_again_and_keep_the_data(folder: Path) -> None:
    report, _ = run_tiny(folder, "train.steps=32")
    done = [stage["name"] for stage in report["stages"] if not stage["skipped"]]
    assert done == ["train", "evaluate-after", "generate", "report"]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 32
    assert (folder / "before-restart-1" / "metrics.jsonl").exists()


def test_the_next_commands_find_their_way(folder: Path) -> None:
    text, _ = penstock("generate", folder, "def ", "--max-tokens", "8", "--seed", "3", "--device", "cpu")
    again, _ = penstock("generate", folder, "def ", "--max-tokens", "8", "--seed", "3", "--device", "cpu")
    assert text == again
    score, _ = penstock("evaluate", folder, "--max-bytes", "20000", "--device", "cpu")
    stored = json.loads((folder / "stages" / "evaluate-after.json").read_text())["result"]
    assert score["bits_per_byte"] == pytest.approx(stored["bits_per_byte"], rel=1e-6)
    facts, _ = penstock("inspect", folder, "--verify")
    assert facts["kind"] == "run"
    assert facts["newest"]["step"] == len((folder / "metrics.jsonl").read_text().splitlines())


def test_another_tokenizer_than_that_of_training_is_refused(folder: Path, tmp_path: Path) -> None:
    texts = [f"other text {i}" for i in range(50)]
    Tokenizer.train(iter(texts), vocab_size=280).save(tmp_path / "other")
    command = [
        sys.executable,
        "-m",
        "penstock",
        "generate",
        str(folder),
        "def ",
        "-t",
        str(tmp_path / "other"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "sha256" in done.stderr
    assert "--tokenizer" in done.stderr
    assert not done.stdout


def test_own_text_can_be_the_corpus(tmp_path: Path) -> None:
    corpus = tmp_path / "own"
    corpus.mkdir()
    for number in range(40):
        (corpus / f"{number}.txt").write_text(f"document {number}: " + "the quick brown fox. " * 40)
    changes = ["tokenizer.vocab_size=300", "model.vocab_size=300", "train.steps=2", "corpus.max_bytes=0"]
    report, _ = penstock(
        "run", "tiny", "-o", tmp_path / "run", "--corpus", corpus,
        *[word for change in (*SHRUNKEN, *changes) for word in ("--set", change)],
    )  # fmt: skip
    assert report["stages"][0]["result"]["documents"] == 40
    assert report["bits_per_byte_bigram"] < 1
