"""The benchmark's own code, on tiny shapes and without a GPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from penstock.kernels import registry
from penstock.kernels.bench import rows, step
from penstock.kernels.bench.cases import Contender
from penstock.kernels.bench.run import _works, main
from penstock.kernels.bench.shapes import SHAPES, Shape

TINY = dataclasses.replace(
    SHAPES["small"], hidden=128, heads=1, experts=8, chosen=2, groups=4, kept_groups=2, width=128,
    dense_width=128, vocabulary=64, latent=128, nope=16, rope=16, value=128,
)  # fmt: skip


@pytest.mark.parametrize("recipe", registry.RECIPES)
def test_every_piece_of_a_step_runs_twice(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.RECIPE_ENVIRONMENT, recipe)
    names = []
    for piece in step.pieces(TINY, tokens=256, row_tokens=128):
        piece.call()
        piece.call()
        names.append(piece.name)
    assert len(names) == len(set(names)) == 9


@pytest.mark.parametrize(("name", "billions"), [("small", 2.73), ("lite-10L", 5.76)])
def test_shapes_have_the_parameters_they_are_known_by(name: str, billions: float) -> None:
    assert step.parameters(SHAPES[name]) / 1e9 == pytest.approx(billions, abs=0.01)


def test_the_goal_is_for_the_micro_batch_without_the_optimizer() -> None:
    shape: Shape = SHAPES["small"]
    assert "goal 135.0 ms: met" in step.summary(shape, 16384, {"head": 130.0, step.OPTIMIZER: 30.0})
    assert "goal 67.5 ms: missed" in step.summary(shape, 8192, {"head": 70.0})


def test_cases_of_rows_have_an_answer_beside_a_copy() -> None:
    cases = [*rows.norms(128, 128), *rows.swiglus(128, 128), *rows.moves(128, 4, 2, 128), rows.optimizer(256)]
    assert len({case.name for case in cases}) == len(cases) == 8
    for case in cases:
        peer, ours = case.contenders
        peer.call()
        assert peer.answer is None
        assert ours.answer is not None
        assert ours.answer.expected().isfinite().all()


def test_a_peer_that_cannot_run_is_named_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise RuntimeError("no such kernel\nand more")

    assert _works(Contender("fine", list))
    assert not _works(Contender("absent", fails))
    assert capsys.readouterr().out.split() == ["absent", "n/a", "(no", "such", "kernel)"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("arguments", [["--quick"], ["step", "--shape", "small"]])
def test_without_a_gpu_it_says_so(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err
