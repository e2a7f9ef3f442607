"""The trainer on rows that the packer wrote: the real dataset in place of the one in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_training as tiny

import penstock
from penstock.config import Config
from penstock.errors import ConfigError, DataError, TrainingError
from penstock.evaluate.bigram import bigram_bits_per_byte
from penstock.evaluate.bits_per_byte import bits_per_byte, encode_documents
from penstock.generate.sample import SampleOptions, sample
from penstock.train import run
from penstock.train.state import load_model

pytest.importorskip("penstock._core")


@pytest.fixture(autouse=True)
def _real_data(_memory_data: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, stdlib_texts: list[str]) -> Path:
    """A tokenizer and packed rows of some of the standard library's sources."""
    folder = tmp_path_factory.mktemp("packed")
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in stdlib_texts[:40]))
    tok = penstock.Tokenizer.train([corpus], vocab_size=384)
    tok.save(folder / "tokenizer")
    penstock.pack([corpus], tokenizer=tok, seq_len=48, out=folder / "rows")
    return folder


def config(packed: Path, out: Path, *overrides: str) -> Config:
    sections = {
        "model": tiny.MODEL | {"vocab_size": 384},
        "data": {"path": str(packed / "rows"), "global_batch_size": 8},
        "optimizer": {"lr": 1e-2, "warmup_steps": 4, "constant_steps": 20, "decay_steps": 16},
        "train": {"out": str(out), "steps": 40, "device": "cpu"},
    }
    return Config.from_mapping(sections, overrides)


def test_resume_continues_the_same_batches_to_the_last_bit(packed: Path, tmp_path: Path) -> None:
    report = run(config(packed, tmp_path / "whole"))
    for steps in (1, 17, 18, 40):
        run(config(packed, tmp_path / "parts", f"train.steps={steps}"))
    assert tiny.losses(tmp_path / "parts") == tiny.losses(tmp_path / "whole")
    assert report.tokens <= 40 * 8 * 48
    lines = [json.loads(line) for line in report.metrics.open()]
    assert lines[-1]["loss"] < lines[0]["loss"] - 1


def test_what_was_trained_scores_better_than_what_was_not_and_speaks(
    packed: Path, tmp_path: Path, stdlib_texts: list[str]
) -> None:
    tok = penstock.Tokenizer.from_file(packed / "tokenizer")
    heldout, scores = stdlib_texts[40:44], []
    for steps in (1, 40):
        run(config(packed, tmp_path, f"train.steps={steps}"))
        model = load_model(tmp_path).model
        scores.append(bits_per_byte(model, tok, heldout, seq_len=48, batch_size=32, max_bytes=20_000))
    assert scores[1].value < scores[0].value - 1
    assert scores[0].bytes <= 20_000
    training = (tok.encode_to_numpy(text) for text in stdlib_texts[:40])
    bar = bigram_bits_per_byte(training, encode_documents(tok, heldout, 20_000), tok.vocab_size, tok.eot_id)
    assert (bar.bytes, bar.tokens) == (scores[1].bytes, scores[1].tokens)
    assert bar.value < scores[0].value
    options = SampleOptions(max_new_tokens=12, seed=1)
    assert sample(model, tok, "<|endoftext|>def ", options) == sample(
        model, tok, "<|endoftext|>def ", options
    )


def test_a_bad_step_names_the_documents_it_was_made_of(packed: Path, tmp_path: Path) -> None:
    dataset = penstock.StreamingDataset(packed / "rows", global_batch_size=8)
    ids = ", ".join(str(d["doc_id"]) for d in dataset.documents_of_step(0))
    with pytest.raises(TrainingError, match=rf"step 0: loss .*Documents of the batch: {ids}\."):
        run(config(packed, tmp_path, "train.balance_loss_weight=3e38"))


def test_a_dataset_that_does_not_fit_is_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vocabulary of 384 tokens, but model\.vocab_size=100"):
        run(config(packed, tmp_path, "model.vocab_size=100"))
    with pytest.raises(DataError, match="lookahead of 2"):
        run(config(packed, tmp_path, "model.num_nextn_predict_layers=2"))
    with pytest.raises(ConfigError, match=r"data\.path is empty"):
        run(config(packed, tmp_path, "data.path="))
