"""The benchmark's own code, on tiny shapes and without a GPU."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from penstock.kernels import registry
from penstock.kernels.bench import catalog, goals, measure, peers, pieces, roofline, run, step
from penstock.kernels.bench.case import Answer, Case, Contender
from penstock.kernels.bench.measure import error_of, row, try_peer
from penstock.kernels.bench.run import main
from penstock.kernels.bench.shapes import SHAPES, Shape
from penstock.kernels.bench.timing import Timing

TINY = dataclasses.replace(
    SHAPES["small"], hidden=128, heads=1, experts=8, chosen=2, groups=4, kept_groups=2, width=128,
    dense_width=128, vocabulary=64, latent=128, nope=16, rope=16, value=128,
)  # fmt: skip


@pytest.mark.parametrize("recipe", registry.RECIPES)
def test_every_piece_of_a_step_runs_twice(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.RECIPE_ENVIRONMENT, recipe)
    names = []
    for piece in pieces.pieces(TINY, tokens=256, row_tokens=128):
        piece.call()
        piece.call()
        names.append(piece.name)
    assert len(names) == len(set(names)) == 13


@pytest.mark.parametrize(("name", "billions"), [("small", 2.73), ("lite-10L", 5.76)])
def test_shapes_have_the_parameters_they_are_known_by(name: str, billions: float) -> None:
    assert pieces.parameters(SHAPES[name]) / 1e9 == pytest.approx(billions, abs=0.01)


def test_a_piece_of_products_and_what_stands_between_them_counts_to_two_parts() -> None:
    sums = {pieces.PRODUCTS: 1.0}
    step.add(sums, pieces.Piece(pieces.PRODUCTS, "a", 2.0, list), 10.0, share=0.75)
    step.add(sums, pieces.Piece("head", "b", 1.0, list), 3.0, share=None)
    assert sums == {pieces.PRODUCTS: 16.0, pieces.ELEMENTWISE: 5.0, "head": 3.0}
    assert "predicted 43.0" in step.summary(SHAPES["small"], 16384, sums)


def test_the_goal_is_for_the_micro_batch_without_the_optimizer() -> None:
    shape: Shape = SHAPES["small"]
    assert "goal 135.0 ms: met" in step.summary(shape, 16384, {"head": 130.0, pieces.OPTIMIZER: 30.0})
    assert "goal 67.5 ms: missed" in step.summary(shape, 8192, {"head": 70.0})


SIZES: dict[str, tuple[object, ...]] = {
    "gemm": (128, 256, 128), "dgrad": (128, 256, 128), "wgrad": (128, 256, 128),
    "wgrads": (128, [(256, 128), (64, 128)]),
    "grouped": (2, 256, 128, 256), "grouped_dgrad": (2, 256, 128, 256), "grouped_wgrad": (2, 256, 128, 256),
    "grouped_wgrad_short": (2, 256, 128, 256),
    "quantize_rows": (128, 256), "quantize_tokens": (128, 256), "quantize_both": (128, 256),
    "quantize_weight": (128, 256),
    "transpose_shift": (128, 256), "transpose_gathered": (128, 4, 2, 256),
    "rms_norm": (128, 256), "add_rms_norm": (128, 256),
    "rms_norm_quantize": (128, 256), "sum_rms_norm_quantize": (128, 256), "add_rms_norm_quantize": (128, 256),
    "combine_rms_norm": (128, 4, 2, 256),
    "swiglu": (128, 128), "swiglu_quantize": (128, 128), "swiglu_backward_quantize": (128, 128),
    "rotate_heads": (128, 2, 16, 16), "router_logits": (128, 8, 64), "route": (128, 8, 4, 2, 2),
    "route_tables": (128, 8, 2), "permute_rows": (128, 4, 2, 128), "permute": (128, 4, 2, 128),
    "combine": (128, 4, 2, 128), "attention": (1, 64, 2, 1),
    "attention_documents": (1, 64, 2, 3), "loss": (64, 32, 96), "embedding": (64, 32, 96), "adamw": (256,),
    "adamw_quantize": (2, 128, 256), "gradient_norm": (3, 100),
}  # fmt: skip


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every backend is the reference, and nothing is compiled."""
    override = registry.override
    monkeypatch.setattr(registry, "override", lambda op, _: override(op, "reference"))
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)


def test_every_family_has_sizes_here() -> None:
    assert {family.name for family in catalog.FAMILIES} == set(SIZES)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("family", catalog.FAMILIES, ids=lambda family: family.name)
def test_a_case_of_each_family_is_right_by_its_references(family: catalog.Family) -> None:
    case = family.build(*SIZES[family.name])
    assert case.flops >= 0
    assert case.moved > 0
    assert case.unit in ("TFLOP/s", "GB/s")
    assert not case.contenders[0].ours, "ratios are to a peer"
    names = [contender.name for contender in case.contenders]
    assert len(names) == len(set(names))
    for contender in case.contenders:
        if contender.ours:
            assert contender.answer is not None
            assert error_of(family.name, contender) is not None
            contender.call()
        else:
            failure, _ = try_peer(contender)
            assert failure is None or "fp8" in contender.name, failure


def test_goals_name_families_and_contenders_that_exist(plain: None) -> None:
    families = {family.name: family for family in catalog.FAMILIES}
    for goal in goals.GOALS:
        for name in goal.families:
            found = {c.name for c in families[name].build(*SIZES[name]).contenders}
            assert goal.ours in found
            # Input gradients have no row-wise peer.
            assert goal.peer in found or (name, goal.peer) == ("grouped_dgrad", peers.GROUPED_ROWS)


def test_names_of_cases_are_distinct_and_listed() -> None:
    names = [entry.name for entry in catalog.entries()]
    assert len(names) == len(set(names))
    assert all(f"    {name}\n" in catalog.listing() + "\n" for name in names)
    assert {entry.name for entry in catalog.entries(quick=True)} < set(names)
    assert [entry.family for entry in catalog.entries(only="rms_norm 16384x1280")] == [
        "rms_norm",
        "add_rms_norm",
    ]


def figures(case: str, peer_ms: float | None, own_ms: float) -> list[goals.Row]:
    rows: list[goals.Row] = [{"contender": "gluon", "burst_ms": own_ms, "sustained_ms": own_ms}]
    if peer_ms is not None:
        rows.append({"contender": peers.BLOCK, "burst_ms": peer_ms, "sustained_ms": 2 * peer_ms})
    return [{"family": "gemm", "case": case, "memory_gib": 0.0, **row} for row in rows]


def test_a_goal_is_a_geometric_mean_over_cases_in_both_regimes() -> None:
    lines = goals.verdicts(figures("a", 4.0, 1.0) + figures("b", 1.0, 1.0))
    first = lines[0]
    assert (first["burst_ratio"], first["sustained_ratio"], first["verdict"]) == (2.0, 4.0, "met")
    assert lines[1]["verdict"] == "n/a", "no Triton row"
    assert "dense fprop, dgrad" in goals.text(lines)
    slower = goals.verdicts(figures("a", 0.9, 1.0))
    assert slower[0]["verdict"] == "missed", "sustained alone reaches it"


def test_a_goal_says_which_cases_lack_a_peer() -> None:
    lines = goals.verdicts(figures("a", 4.0, 1.0) + figures("b", None, 1.0))
    assert str(lines[0]["verdict"]).startswith("met (1 of 2 cases")


def test_ratios_skip_a_peer_that_cannot_run() -> None:
    case = Case("GB/s", 1.0, 1e6, [])
    entry = catalog.Entry("f", "f 1", lambda: case)
    ours = Timing(1.0, 1.0, 0, 0)
    assert row(entry, case, "triton", ours, None, None, 0.0)["burst_ratio"] == "-"
    assert row(entry, case, "triton", ours, Timing(2.0, 3.0, 0, 0), None, 0.0)["sustained_ratio"] == 3.0


def test_a_peer_that_fails_or_is_wrong_is_named_but_ours_is_fatal() -> None:
    def fails() -> None:
        raise AssertionError("no such kernel\nand more")

    wrong = Answer(lambda: torch.ones(2), 0.0, lambda: torch.zeros(2))
    assert try_peer(Contender("fine", list)) == (None, None)
    assert try_peer(Contender("absent", fails))[0] == "no such kernel"
    assert "error 1 >" in str(try_peer(Contender("wrong", list, wrong))[0])
    with pytest.raises(ArithmeticError, match="f 1, triton: error 1 > 0"):
        error_of("f 1", Contender("triton", list, wrong, ours=True))


@pytest.mark.usefixtures("plain")
def test_a_run_prints_goals_and_writes_all_to_one_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    families = [
        dataclasses.replace(family, quick=[SIZES[family.name]], rest=[]) for family in catalog.FAMILIES
    ]
    monkeypatch.setattr(catalog, "FAMILIES", families)
    monkeypatch.setattr(measure, "DEVICE", "cpu")
    monkeypatch.setattr(measure, "_memory_gib", lambda _: 0.5)
    monkeypatch.setattr(measure, "_free", lambda: None)
    timings = lambda calls, _: [Timing(1.0, 2.0, 1500, 600) for _ in calls]  # noqa: E731
    monkeypatch.setattr(measure, "time_in_turns", timings)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(measure, "can_be_recorded", lambda _: None)
    path = tmp_path / "figures.csv"
    assert main(["--quick", "--csv", str(path)]) == 0
    with path.open() as file:
        written = list(csv.DictReader(file))
    assert {row["family"] for row in written} == {*SIZES, "goal"}
    verdicts = {row["case"]: row["verdict"] for row in written if row["family"] == "goal"}
    assert verdicts["quantise rows"] == "met"
    assert verdicts["grouped wgrad, shift"] == "missed"
    assert "moonshot" in capsys.readouterr().out


@pytest.mark.parametrize("failure", [ArithmeticError("wrong"), RuntimeError("out of memory")])
def test_what_was_measured_before_a_failure_is_written(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured = iter([figures("a", 2.0, 1.0)])

    def stub(*_: object) -> list[goals.Row]:
        try:
            return next(measured)
        except StopIteration:
            raise failure from None

    monkeypatch.setattr(run, "measure", stub)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    path = tmp_path / "figures.csv"
    if isinstance(failure, ArithmeticError):
        assert main(["--csv", str(path)]) == 1
    else:
        with pytest.raises(RuntimeError, match="out of memory"):
            main(["--csv", str(path)])
    assert "dense fprop, dgrad" in path.read_text()


def figure_of(family: str, contender: str, burst: float, unit: str, intensity: float) -> goals.Row:
    ratio = "1.0" if contender in ("copy", peers.BLOCK) else "0.9"
    names = {"family": family, "case": family, "contender": contender}
    return {**names, "burst": burst, "unit": unit, "intensity": intensity, "burst_ratio": ratio}


FIGURES = [
    figure_of("gemm", peers.BLOCK, 1200, "TFLOP/s", 3000.0),
    figure_of("gemm", "gluon", 1300, "TFLOP/s", 3000.0),
    figure_of("gemm", "triton", 800, "TFLOP/s", 3000.0),
    figure_of("quantize_rows", "copy", 3000, "GB/s", 1.0),
    figure_of("quantize_rows", "triton", 2900, "GB/s", 1.0),
]


def test_the_roofline_has_our_kernels_and_their_peers_and_no_fallback() -> None:
    roof = roofline.roofs(FIGURES)
    assert roof == (3.0, 1300)
    assert roof.at(1.0) == 3.0
    assert roof.at(1e4) == 1300
    found = [(p.tflops, p.ours) for p in roofline.points(FIGURES)]
    assert found == [(1200, False), (1300, True), (3.0, False), (2.9, True)]


def test_a_fallback_stays_where_nothing_stands_before_it() -> None:
    rows = [figure_of("attention", name, 500, "TFLOP/s", 1700.0) for name in ("gluon", "triton")]
    rows += [figure_of("route", "triton", 900, "GB/s", 1.0)]
    kinds = [point.kind for point in roofline.points(rows)]
    assert kinds == ["attention", "routing, moves, optimizer"]


def test_every_family_has_its_kind_in_the_roofline() -> None:
    kinds = [family for families in roofline._KINDS.values() for family in families]
    assert sorted(kinds) == sorted(family.name for family in catalog.FAMILIES)


def test_an_earlier_run_is_drawn_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    table, plot = tmp_path / "figures.csv", tmp_path / "roofline.png"
    # Neither the lines of goals nor moves, which compute nothing, have a place under a roof.
    others = [{"family": "goal", "case": "dense", "contender": "copy"}]
    others.append(figure_of("permute", "triton", 3400, "GB/s", 0.0))
    run._write(table, [*FIGURES, *others])
    assert main(["--from", str(table), "--png", str(plot)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    run._write(table, FIGURES[:2])
    assert main(["--from", str(table), "--png", str(plot)]) == 2
    assert "a copy and of a product" in capsys.readouterr().err
    assert main(["--from", str(table)]) == 2
    assert "--png" in capsys.readouterr().err


def test_list_needs_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--only", "wgrad"]) == 0
    assert "grouped_wgrad 64x98304x1280x640" in capsys.readouterr().out


def test_it_runs_from_a_bare_copy_of_the_kernels(tmp_path: Path) -> None:
    """No package beside it, and nothing of what ``site`` reads, so that penstock is not found installed."""
    kernels = Path(run.__file__).resolve().parents[1]
    shutil.copytree(kernels, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(Path(torch.__file__).parents[1])}
    command = [sys.executable, "-S", tmp_path / "kernels" / "bench", "--list", "--only", "adamw"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "adamw" in done.stdout


@pytest.mark.parametrize(
    ("option", "value"), [("--csv", "no/such.csv"), ("--png", "no/such.png"), ("--seconds", "0")]
)
def test_what_would_fail_after_the_run_fails_before_it(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([option, value])
    assert f"{option}: " in capsys.readouterr().err


def test_what_selects_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--list"]):
        with pytest.raises(SystemExit, match="2"):
            main(["--only", "gem8", *more])
        assert "--only" in capsys.readouterr().err
    for tokens in ("100", "0", "-4096"):
        with pytest.raises(SystemExit, match="2"):
            main(["step", "--shape", "small", "--tokens", tokens])
        assert "--tokens: expected a multiple of 4096" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("arguments", [["--quick"], ["step", "--shape", "small"]])
def test_without_a_gpu_it_says_so(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err
