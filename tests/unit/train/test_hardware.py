"""Which precision a recipe means on which GPU, and that settings are put back."""

from __future__ import annotations

import pytest
import torch

from penstock.errors import HardwareError
from penstock.train.hardware import (
    deterministic_algorithms,
    peak_flops_per_s,
    resolve_device,
    resolve_precision,
)

GPU = torch.device("cuda", 0)


def pretend(monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


@pytest.mark.parametrize(
    ("capability", "wanted", "found"),
    [
        ((9, 0), "auto", "fp8"),
        ((10, 0), "auto", "fp8"),
        ((8, 0), "auto", "bf16"),
        ((8, 9), "auto", "bf16"),
        ((9, 0), "bf16", "bf16"),
        ((7, 5), "fp32", "fp32"),
    ],
)
def test_precision_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], wanted: str, found: str
) -> None:
    pretend(monkeypatch, "some GPU", capability)
    assert resolve_precision(wanted, GPU) == found  # type: ignore[arg-type]


@pytest.mark.parametrize(("capability", "wanted"), [((8, 0), "fp8"), ((7, 5), "bf16"), ((7, 0), "auto")])
def test_a_gpu_that_cannot(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], wanted: str) -> None:
    pretend(monkeypatch, "An Old GPU", capability)
    with pytest.raises(HardwareError, match=r"An Old GPU has .* set train.precision to"):
        resolve_precision(wanted, GPU)  # type: ignore[arg-type]


def test_precision_on_a_cpu() -> None:
    cpu = resolve_device("cpu")
    assert resolve_precision("auto", cpu) == "fp32"
    assert resolve_precision("bf16", cpu) == "bf16"
    assert peak_flops_per_s(cpu) is None


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H200", 989e12), ("NVIDIA L4", None)]
)
def test_mfu_only_where_the_peak_is_known(
    monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None
) -> None:
    pretend(monkeypatch, name, (9, 0))
    assert peak_flops_per_s(GPU) == peak


def test_deterministic_settings_are_put_back() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before
