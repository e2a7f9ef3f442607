"""What is measured: a case is one piece of work, its contenders are those who do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from .. import registry
from ..route import route_tables
from ..types import Groups

T = TypeVar("T")

_LARGE_BYTES = 512 << 20

BF16_GATE, FP32_GATE, EXACT = 2e-3, 2e-4, 0.0
"""Bounds on the relative error of a product written in bfloat16 and in float32, and of a cast."""
ATTENTION_GATE = 1e-2
"""Against a mask written out: both round their probabilities to bfloat16."""
ROUNDED_GATE = 5e-3
"""Between two ways that sum in float32 in different orders and round to bfloat16 or FP8."""


@dataclass(frozen=True)
class Answer:
    """How a contender's accuracy is checked before its speed counts."""

    expected: Callable[[], Tensor]
    """By a reference, of the same operands."""
    gate: float
    given: Callable[[], Tensor] | None = None
    """What is compared, where it is not what the timed call returns."""


@dataclass(frozen=True)
class Contender:
    """One way of doing a case's work: ours must give a right answer, a peer may fail."""

    name: str
    call: Callable[[], object]
    answer: Answer | None = None
    ours: bool = False
    compiled: bool = False
    """By ``torch.compile``, which takes seconds: not part of a quick run."""


@dataclass(frozen=True)
class Case:
    """One piece of work; others are compared with the first peer that runs."""

    unit: str
    """TFLOP/s or GB/s."""
    flops: float
    """Floating-point operations of one call; where bytes count, about how many."""
    moved: float
    """Bytes that one call must move."""
    contenders: list[Contender]

    @property
    def work(self) -> float:
        return self.flops if self.unit == "TFLOP/s" else self.moved


def using(op: str, backend: str, call: Callable[[], T]) -> Callable[[], T]:
    """``call`` with ``op`` forced to ``backend``."""

    def forced() -> T:
        with registry.override(op, backend):
            return call()

    return forced


def ours(name: str, call: Callable[[], object], answer: Answer) -> Contender:
    """A kernel of this repository."""
    return Contender(name, call, answer, ours=True)


def compiled(call: Callable[[], object]) -> Contender:
    """A peer whose ``call`` goes through ``torch.compile``."""
    return Contender("torch.compile", call, compiled=True)


def fast(call: Callable[..., T]) -> Callable[..., T]:
    """``call`` compiled, at its first call."""
    made: Callable[..., T] = torch.compile(call, dynamic=False)
    return made


def copy_of(moved: float) -> Contender:
    """A copy that moves as many bytes, reading half of them and writing half."""
    source = torch.zeros(max(int(moved / 8), 1), dtype=torch.int32)
    target = torch.empty_like(source)
    if source.nbytes < _LARGE_BYTES:
        return Contender("copy", lambda: target.copy_(source))
    # From this size on the driver's copy reaches two thirds of the speed for some sizes, on an H200; a kernel
    # that adds a number reaches all of it for all.
    return Contender("copy", lambda: torch.add(source, 1, out=target))


def moving(
    moved: float,
    flops: float,
    op: str,
    call: Callable[[], object],
    value: Callable[[], Tensor],
    gate: float,
    *peers: Contender,
    backends: Sequence[str] = ("triton",),
) -> Case:
    """A case of bytes: a copy, ``call`` by our ``backends``, and ``peers``; ``value`` is what ``call`` is
    compared by.
    """
    expected = using(op, "reference", value)
    kernels = [
        ours(backend, using(op, backend, call), Answer(expected, gate, using(op, backend, value)))
        for backend in backends
    ]
    return Case("GB/s", flops, moved, [copy_of(moved), *kernels, *peers])


def randn(*shape: int) -> Tensor:
    """Of bfloat16, on the default device."""
    return torch.randn(shape, dtype=torch.bfloat16)


def uneven_groups(rows: int, experts: int, k: int = 1) -> Groups:
    """``rows`` routed rows; loads as a trained router's, within about 30 % of one another."""
    weight = 1 + 0.6 * (torch.rand(experts) - 0.5)
    if k == 1:
        return route_tables(torch.multinomial(weight, rows, replacement=True).int()[:, None], experts)
    return route_tables(torch.multinomial(weight.expand(rows // k, experts), k).int(), experts)
