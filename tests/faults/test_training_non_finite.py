"""Row 17 of docs/faults.md: what is not finite reaches no weight and no moment; its documents are named."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from penstock.errors import TrainingError
from penstock.model import Transformer
from penstock.train import health, loop

sys.path.append(str(Path(__file__).parents[1] / "unit" / "train"))
import tiny_training as tiny

RECIPE = (
    "train.steps=6",
    "optimizer.constant_steps=2",
    "optimizer.decay_steps=2",
    "train.checkpoint_every=1",
)
BAD = {"nan": math.nan, "inf": math.inf}


@pytest.fixture(autouse=True)
def _memory_data(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.use_memory_dataset(monkeypatch)


class Injection:
    """Spoils one thing at one step of a run: a loss, a whole gradient, or one element of one expert's."""

    def __init__(self, place: str, step: int, value: float) -> None:
        self.place, self.step, self.value = place, step, value
        self.now = -1

    def batches(self, dataset: object) -> Iterator[object]:
        for batch in dataset:  # type: ignore[attr-defined]
            self.now = batch.step
            yield batch

    def model(self, build: Callable[..., Transformer]) -> Callable[..., Transformer]:
        def built(*arguments: object, **named: object) -> Transformer:
            model = build(*arguments, **named)
            targets = {"gradient": model.norm.weight, "expert": model.layers[1].mlp.experts.down}
            if self.place in targets:
                targets[self.place].register_hook(self._spoil_gradient)
            else:
                loss = model.loss
                model.loss = lambda *a, **k: self._spoil_loss(loss(*a, **k))  # type: ignore[method-assign]
            return model

        return built

    def _spoil_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.now != self.step:
            return gradient
        spoiled = gradient.clone()
        spoiled[(-1,) * gradient.ndim] = self.value
        return spoiled

    def _spoil_loss(self, parts: object) -> object:
        if self.now != self.step:
            return parts
        bad = {"main": self.value * parts.main, "total": self.value * parts.total}  # type: ignore[attr-defined]
        return dataclasses.replace(parts, **bad)  # type: ignore[type-var]


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int, float], None]:
    def start(place: str, step: int, value: float) -> None:
        injection = Injection(place, step, value)
        monkeypatch.setattr(loop, "Transformer", injection.model(Transformer))
        monkeypatch.setattr(loop, "open_loader", lambda dataset, device: injection.batches(dataset))

    return start


def tensors(out: Path, step: int) -> dict[str, torch.Tensor]:
    folder = out / "checkpoints" / f"step-{step:08d}"
    return load_file(folder / "model.safetensors") | load_file(folder / "optimizer.safetensors")


@pytest.mark.parametrize("step", [0, 3, 5])
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("place", ["loss", "gradient", "expert"])
def test_a_skipped_step_changes_nothing_and_the_run_goes_on(
    tmp_path: Path,
    inject: Callable[[str, int, float], None],
    caplog: pytest.LogCaptureFixture,
    place: str,
    value: str,
    step: int,
) -> None:
    inject(place, step, BAD[value])
    with caplog.at_level(logging.WARNING):
        report = tiny.train(tmp_path, *RECIPE, "train.non_finite=skip")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [line["skipped"] for line in lines] == [k == step for k in range(6)]
    documents = [100 * step + slot for slot in range(4)]
    assert lines[step]["documents"] == documents
    assert f"step {step}: " in caplog.text
    assert ", ".join(map(str, documents)) in caplog.text
    assert (report.skipped_steps, report.steps) == (1, 6)
    for tensor in tensors(tmp_path, 6).values():
        assert tensor.isfinite().all()
    if step:
        before, after = tensors(tmp_path, step), tensors(tmp_path, step + 1)
        assert all(torch.equal(before[name], after[name]) for name in before)
    state = json.loads((tmp_path / "checkpoints" / "step-00000006" / "state.json").read_text())
    assert (state["step"], state["updates"]) == (6, 5)


@pytest.mark.parametrize("place", ["loss", "gradient", "expert"])
def test_stop_names_the_documents_and_saves_what_was_reached(
    tmp_path: Path, inject: Callable[[str, int, float], None], place: str
) -> None:
    tiny.train(tmp_path / "clean", *RECIPE)
    inject(place, 2, math.nan)
    with pytest.raises(TrainingError, match=r"step 2: .* 200, 201, 202, 203\. .* train\.non_finite='skip'"):
        tiny.train(tmp_path / "stopped", *RECIPE, "train.checkpoint_every=0")
    clean, stopped = tensors(tmp_path / "clean", 2), tensors(tmp_path / "stopped", 2)
    assert all(torch.equal(clean[name], stopped[name]) for name in clean)
    inject(place, -1, math.nan)
    assert tiny.train(tmp_path / "stopped", *RECIPE).first_step == 2
    assert tiny.losses(tmp_path / "stopped") == tiny.losses(tmp_path / "clean")


def test_skipping_without_end_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_SKIPS_IN_A_ROW", 4)
    with pytest.raises(TrainingError, match="as were the 3 steps before it"):
        tiny.train(
            tmp_path, "train.steps=9", "train.non_finite=skip", "train.balance_loss_weight=3e38",
            "optimizer.constant_steps=1",
        )  # fmt: skip
