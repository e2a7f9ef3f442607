"""The loop: what it computes against plain torch, what it writes, and going on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest
import tiny_training as tiny
import torch
from torch.nn import functional as F

from penstock.errors import (
    CheckpointError,
    ConfigError,
    CorruptionError,
    DataError,
    HardwareError,
    InternalError,
)
from penstock.model import Transformer
from penstock.train import StepEvent, loop, run
from penstock.train.state import load_model


def document_losses(model: Transformer, batch: object, ahead: int = 1) -> torch.Tensor:
    """Next-token losses of a batch, a document at a time, from logits alone."""
    losses = []
    for tokens, doc_ids in zip(batch.tokens, batch.doc_ids, strict=True):  # type: ignore[attr-defined]
        for document in doc_ids.unique().tolist():
            ids = tokens[doc_ids == document]
            inside = int((doc_ids[: batch.positions.shape[1]] == document).sum())  # type: ignore[attr-defined]
            if document >= 0 and len(ids) > 1:
                logits = model(ids[None])[0]
                targets = ids[1:][:inside]
                losses.append(F.cross_entropy(logits[: len(targets)], targets, reduction="none"))
    return torch.cat(losses)


def test_the_first_loss_is_that_of_each_document_alone(tmp_path: Path) -> None:
    tiny.train(tmp_path, "train.steps=1")
    torch.manual_seed(0)
    model = Transformer(tiny.config(tmp_path).model)
    with torch.no_grad():
        expected = document_losses(model, tiny.MemoryDataset().batch(0)).mean()
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_first_update_is_that_of_plain_torch(tmp_path: Path) -> None:
    """One step without MTP and balance loss: autograd through logits, torch's clipping and AdamW."""
    plain = ("train.steps=1", "model.num_nextn_predict_layers=0", "train.balance_loss_weight=0.0")
    tiny.train(tmp_path, *plain, "optimizer.moments_dtype=float32")
    recipe = tiny.config(tmp_path, *plain)
    torch.manual_seed(0)
    model = Transformer(recipe.model)
    document_losses(model, tiny.MemoryDataset().batch(0)).mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip_norm)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=recipe.optimizer.lr / 2, betas=(0.9, 0.95), eps=1e-8).step()
    trained = load_model(tmp_path).model
    for (name, mine), other in zip(trained.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("micro_batch_size", [1, 3, 4, 100])
def test_how_a_batch_is_cut_changes_nothing_but_rounding(tmp_path: Path, micro_batch_size: int) -> None:
    tiny.train(tmp_path / "a", "train.steps=3")
    tiny.train(tmp_path / "b", "train.steps=3", f"train.micro_batch_size={micro_batch_size}")
    for a, b in zip(*(map(json.loads, (tmp_path / x / "metrics.jsonl").open()) for x in "ab"), strict=True):
        for name in ("loss", "mtp_loss", "balance_loss", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
        assert a["expert_load"] == b["expert_load"]
        assert a["tokens"] == b["tokens"]


def test_it_learns(tmp_path: Path) -> None:
    report = tiny.train(tmp_path, "train.steps=60")
    first = json.loads((tmp_path / "metrics.jsonl").open().readline())["loss"]
    assert report.loss is not None
    assert report.loss < first - 1.5


def test_the_report_and_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    tiny.use_memory_dataset(monkeypatch, plot=True)
    report = tiny.train(tmp_path)
    lines = [json.loads(line) for line in report.metrics.open()]
    assert [line["step"] for line in lines] == list(range(8))
    assert (report.steps, report.first_step, report.skipped_steps) == (8, 0, 0)
    assert report.tokens == sum(line["tokens"] for line in lines)
    real = sum(int((tiny.MemoryDataset().batch(s).doc_ids[:, : tiny.SEQ_LEN] >= 0).sum()) for s in range(8))
    assert report.tokens == real
    assert report.loss == lines[-1]["loss"]
    assert report.plot is not None
    assert report.plot.read_bytes().startswith(b"\x89PNG")
    assert report.checkpoint == tmp_path / "checkpoints" / "step-00000008"
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000008\n"
    assert all(line["mfu"] is None for line in lines)
    assert all(len(line["expert_load"]) == 2 for line in lines)
    assert not list(tmp_path.glob("**/.aside-*"))


def test_the_router_bias_follows_the_loads_of_real_tokens(tmp_path: Path) -> None:
    recipe = tiny.config(tmp_path, "train.steps=1", "train.router_bias_speed=0.01")
    torch.manual_seed(0)
    model, batch = Transformer(recipe.model), tiny.MemoryDataset().batch(0)
    with torch.no_grad():
        counts = model.loss(batch.tokens, batch.positions, batch.doc_ids).expert_counts.double()
    run(recipe)
    trained = load_model(tmp_path).model
    biases = torch.stack([gate.e_score_correction_bias for gate in trained.routers()])
    expected = 0.01 * torch.sign(counts.mean(1, keepdim=True) - counts)
    torch.testing.assert_close(biases, expected.float())


def test_two_runs_are_equal_to_the_last_bit(tmp_path: Path) -> None:
    tiny.train(tmp_path / "a")
    tiny.train(tmp_path / "b")
    assert tiny.losses(tmp_path / "a") == tiny.losses(tmp_path / "b")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_more_steps_go_on_from_the_checkpoint_to_the_last_bit(tmp_path: Path, precision: str) -> None:
    fixed = (f"train.precision={precision}", "optimizer.constant_steps=4", "optimizer.decay_steps=4")
    tiny.train(tmp_path / "whole", "train.steps=9", *fixed)
    for steps in (1, 4, 5, 9):
        report = tiny.train(tmp_path / "parts", f"train.steps={steps}", *fixed)
    assert report.first_step == 5
    assert tiny.losses(tmp_path / "parts") == tiny.losses(tmp_path / "whole")
    whole, parts = (
        (tmp_path / x / "checkpoints/step-00000009/model.safetensors").read_bytes()
        for x in ("whole", "parts")
    )
    assert whole == parts


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    tiny.train(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    report = tiny.train(tmp_path)
    assert (report.first_step, report.loss, report.tokens) == (8, None, 0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_checkpoints_every_so_often_and_the_oldest_go(tmp_path: Path) -> None:
    tiny.train(tmp_path, "train.steps=7", "train.checkpoint_every=2", "train.keep_checkpoints=2")
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["latest", "step-00000006", "step-00000007"]


def test_restart_moves_an_earlier_run_aside(tmp_path: Path) -> None:
    tiny.train(tmp_path)
    report = run(tiny.config(tmp_path, "train.steps=2"), resume=False)
    assert report.first_step == 0
    assert (tmp_path / "before-restart-1" / "checkpoints" / "step-00000008" / "state.json").exists()
    assert [p.name for p in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000002"]
    assert len(tiny.losses(tmp_path)) == 2


def test_a_changed_recipe_is_told_and_another_model_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.train(tmp_path, "train.steps=2")
    with caplog.at_level(logging.WARNING):
        tiny.train(tmp_path, "train.steps=3", "optimizer.lr=0.02", "train.log_every=2")
    assert "optimizer.lr: 0.01 -> 0.02" in caplog.text
    assert "log_every" not in caplog.text
    with pytest.raises(CheckpointError, match=r"another model: model\.hidden_size: 32 -> 64"):
        tiny.train(tmp_path, "train.steps=4", "model.hidden_size=64")
    with pytest.raises(DataError, match="seed"):
        tiny.train(tmp_path, "train.steps=4", "data.seed=1")


def test_progress_hears_every_nth_step_and_the_last(tmp_path: Path) -> None:
    heard: list[StepEvent] = []
    run(tiny.config(tmp_path, "train.log_every=3"), heard.append)
    assert [event.step for event in heard] == [0, 3, 6, 7]
    assert {event.steps for event in heard} == {8}
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8
    with pytest.raises(dataclasses.FrozenInstanceError):
        heard[0].step = 1  # type: ignore[misc]


def test_tensorboard_on_request(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tiny.train(tmp_path, "train.tensorboard=true")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [e.value for e in events.Scalars("loss/main")] == pytest.approx([x["loss"] for x in lines])


def test_a_dense_model_without_mtp_trains(tmp_path: Path) -> None:
    tiny.train(tmp_path, "model.first_k_dense_replace=2", "model.num_nextn_predict_layers=0")
    line = json.loads((tmp_path / "metrics.jsonl").open().readline())
    assert (line["mtp_loss"], line["balance_loss"], line["expert_load"]) == (None, None, [])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"seq_len": 65}, ConfigError, "max_position_embeddings=64 is less than the 65 tokens"),
        ({"lookahead": 1}, DataError, "lookahead of 1, but model.num_nextn_predict_layers=1 needs 2"),
        ({"vocab_size": 65}, DataError, "vocabulary of 65 tokens, but model.vocab_size=64"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, int],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(loop, "open_dataset", lambda recipe: tiny.MemoryDataset(**changes))
    with pytest.raises(error, match=message):
        tiny.train(tmp_path)


def test_a_dataset_out_of_step_is_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = tiny.MemoryDataset()
    dataset.step = 3
    monkeypatch.setattr(loop, "open_dataset", lambda recipe: dataset)
    with pytest.raises(InternalError, match="batch 3 where 0"):
        tiny.train(tmp_path)


@pytest.mark.parametrize(
    "override", ["train.steps=0", "train.micro_batch_size=0", "data.global_batch_size=0", "train.log_every=0"]
)
def test_numbers_that_make_no_run_are_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=override):
        tiny.train(tmp_path, override)


def test_hardware_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match=r"set train\.precision to"):
        tiny.train(tmp_path, "train.precision=fp8")
    if not torch.cuda.is_available():
        with pytest.raises(HardwareError, match=r"set train\.device to"):
            tiny.train(tmp_path, "train.device=cuda")


def test_a_second_trainer_is_kept_out(tmp_path: Path) -> None:
    def second(event: StepEvent) -> None:
        with pytest.raises(CheckpointError, match="another process is training"):
            tiny.train(tmp_path)

    run(tiny.config(tmp_path, "train.steps=1"), second)


def test_damaged_data_loses_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged shard stops the run, what was reached is saved, and a repaired one goes on from there."""
    tiny.train(tmp_path / "clean")
    read = tiny.MemoryDataset.batch

    def damaged(dataset: tiny.MemoryDataset, step: int) -> tiny.Batch:
        if step == 3:
            raise CorruptionError("packed/shards/00000-00000.arrow, batch 1: corrupt")
        return read(dataset, step)

    with monkeypatch.context() as patch:
        patch.setattr(tiny.MemoryDataset, "batch", damaged)
        with pytest.raises(CorruptionError, match="batch 1"):
            tiny.train(tmp_path / "stopped")
    assert tiny.train(tmp_path / "stopped").first_step == 3
    assert tiny.losses(tmp_path / "stopped") == tiny.losses(tmp_path / "clean")
