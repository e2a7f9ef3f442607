"""The trainer on a GPU: every precision, going on, and one wait a step."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_training as tiny
import torch

from penstock.train import loop
from penstock.train.state import load_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

# Multiples of 128 wherever FP8 products run.
WIDE = [
    f"model.{key}"
    for key in (
        "hidden_size=256", "intermediate_size=256", "moe_intermediate_size=128", "kv_lora_rank=128",
        "qk_nope_head_dim=64", "qk_rope_head_dim=64", "v_head_dim=128",
    )
]  # fmt: skip
RECIPE = (
    "train.device=cuda",
    "optimizer.lr=2e-3",
    "optimizer.constant_steps=20",
    "optimizer.decay_steps=20",
    *WIDE,
)


def to_gpu(dataset: tiny.MemoryDataset) -> Iterator[tiny.Batch]:
    for batch in dataset:
        yield tiny.Batch(batch.tokens.cuda(), batch.positions.cuda(), batch.doc_ids.cuda(), batch.step)


@pytest.fixture(autouse=True)
def _on_the_gpu(_memory_data: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "open_loader", lambda dataset, device: to_gpu(dataset))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_it_learns_and_goes_on(tmp_path: Path, precision: str) -> None:
    recipe = (*RECIPE, f"train.precision={precision}")
    tiny.train(tmp_path / "whole", "train.steps=40", *recipe)
    for steps in (15, 40):
        report = tiny.train(tmp_path / "parts", f"train.steps={steps}", *recipe)
    assert (report.precision, report.device, report.first_step) == (precision, "cuda:0", 15)
    whole, parts = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("whole", "parts")
    )
    for a, b in zip(whole, parts, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.05)
    assert whole[-1]["loss"] < whole[0]["loss"] - 1
    if "H100" in torch.cuda.get_device_name() or "H200" in torch.cuda.get_device_name():
        assert all(0 < line["mfu"] < 1 for line in whole)
    assert load_model(tmp_path / "whole", "cuda")[0].precision == precision


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_recorded_step_is_the_same_step(
    tmp_path: Path, precision: str, rows: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Losses of a run that replays CUDA graphs beside those of one that launches every kernel; with several
    micro-batches a step, of which the first overwrites gradients, and with one."""
    losses = {}
    for recorded in ("true", "false"):
        recipe = (*RECIPE, f"train.precision={precision}", f"train.cuda_graph={recorded}", "train.steps=12")
        recipe = (*recipe, f"train.micro_batch_size={rows}")
        with caplog.at_level("INFO", "penstock.train"):
            tiny.train(tmp_path / recorded, *recipe)
        assert "launch by launch" not in caplog.text
        lines = (tmp_path / recorded / "metrics.jsonl").read_text().splitlines()
        losses[recorded] = [json.loads(line)["loss"] for line in lines]
    assert losses["true"] == pytest.approx(losses["false"], rel=2e-3)


def test_what_waits_for_the_host_is_not_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "penstock.train"):
        tiny.train(tmp_path, "train.steps=4", "train.precision=fp32", *RECIPE)
    assert "launch by launch" in caplog.text
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_step_waits_for_the_gpu_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Torch's own count of synchronising calls, between the first step and the last."""
    waits: Counter[str] = Counter()
    real, steps = loop.forward_backward, 6

    def counted(*arguments: object) -> object:
        torch.cuda.set_sync_debug_mode("warn")
        return real(*arguments)  # type: ignore[arg-type]

    def batches(dataset: tiny.MemoryDataset) -> Iterator[tiny.Batch]:
        for batch in to_gpu(dataset):
            # The test's own copies wait; what the loop does from here on is counted.
            yield batch
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop, "forward_backward", counted)
    monkeypatch.setattr(loop, "open_loader", lambda dataset, device: batches(dataset))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            tiny.train(tmp_path, f"train.steps={steps}", f"train.precision={precision}", *RECIPE)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # The save at the end waits too, for every tensor that it writes.
    waits.update(
        f"{w.filename}:{w.lineno}"
        for w in caught
        if "synchronizing" in str(w.message) and "safetensors" not in w.filename
    )
    in_steps = {where: n for where, n in waits.items() if n >= steps - 1}
    assert len(in_steps) == 1, waits
    assert next(iter(in_steps)).split(":")[0].endswith("step.py"), waits
