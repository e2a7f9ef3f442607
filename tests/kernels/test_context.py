"""Threads that have no CUDA context."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from penstock.kernels import context, library
from penstock.kernels.numeric import same_bits
from penstock.kernels.quantize import quantize_both


class Driver:
    """As much of the driver as is asked, for one device."""

    def __init__(self, current: int | None, refuses: str = "") -> None:
        self.current, self.refuses, self.asked = current, refuses, list[str]()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.asked.append(name)
            if name == "cuCtxSetCurrent":
                self.current = arguments[0].value
            elif name == "cuDeviceGet":
                arguments[0]._obj.value = 10 + arguments[1]
            elif name == "cuDevicePrimaryCtxRetain":
                arguments[0]._obj.value = 10 * arguments[1].value
            else:
                arguments[0]._obj.value = self.current
            return 201 if name == self.refuses else 0

        return call


def bind_twice(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with ThreadPoolExecutor(1) as thread:
        for _ in range(2):
            thread.submit(context.bind).result()


@pytest.mark.parametrize("current", [None, 5])
def test_a_thread_is_given_a_context_once_and_only_if_it_has_none(
    current: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(current)
    bind_twice(driver, monkeypatch)
    given = ["cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"] if current is None else []
    assert driver.asked == ["cuCtxGetCurrent", *given]
    assert driver.current == (current or 110), "of device 1, which the driver calls 11"


def test_a_driver_that_refuses_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="cuCtxSetCurrent: the CUDA driver returned 201"):
        bind_twice(Driver(None, refuses="cuCtxSetCurrent"), monkeypatch)


def test_without_cuda_no_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("asked"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with ThreadPoolExecutor(1) as thread:
        thread.submit(context.bind).result()


def test_every_op_binds_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[int] = []
    monkeypatch.setattr(context, "bind", lambda: bound.append(1))
    quantize_both(torch.ones(128, 128))
    assert bound
    assert "quantize_both" in library.names()


@pytest.mark.gpu
@pytest.mark.usefixtures("needs_the_backend")
def test_an_op_runs_on_a_thread_that_has_used_no_cuda() -> None:
    """Its kernel is loaded and its memory at hand, so nothing but the op itself could give it a context."""
    x = torch.randn(256, 384, device="cuda").bfloat16()
    expected, spare = quantize_both(x), quantize_both(x)
    del spare
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(quantize_both, x).result()
    for a, b in zip(found, expected, strict=True):
        assert same_bits(a.data, b.data)
        assert same_bits(a.scale, b.scale)
