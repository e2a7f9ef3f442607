"""Checks of what a caller passes: every error names the argument, before anything is launched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from .types import Groups

Precision = Literal["fp32", "bf16", "fp8"]
FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_WHOLE = (int, torch.SymInt)
_NUMBERS = (*_WHOLE, float, torch.SymFloat)
_TABLES = tuple(f"groups.{name}" for name in ("offsets", "block_expert", "row_token", "token_pos", "counts"))


def check_tensor(
    name: str,
    value: object,
    *,
    ndim: int | tuple[int, ...] | None = None,
    dtype: torch.dtype | Sequence[torch.dtype] | None = None,
    contiguous: bool = False,
) -> None:
    """Raise TypeError or ValueError unless ``value`` is a tensor of the rank, dtype and layout asked for."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if ndim is not None and value.ndim not in ((ndim,) if isinstance(ndim, int) else ndim):
        raise ValueError(f"{name}: expected {ndim} dimensions, got shape {tuple(value.shape)}")
    if dtype is not None:
        allowed = (dtype,) if isinstance(dtype, torch.dtype) else tuple(dtype)
        if value.dtype not in allowed:
            names = " or ".join(str(d) for d in allowed)
            raise TypeError(f"{name}: expected dtype {names}, got {value.dtype}")
    if contiguous and not value.is_contiguous():
        raise ValueError(
            f"{name}: expected a contiguous tensor, got strides {value.stride()}; .contiguous() helps"
        )


def check_float(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a floating-point tensor wider than FP8."""
    check_tensor(name, value, dtype=FLOATS)


def check_rows(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless ``value`` is a floating-point tensor [..., K]."""
    check_float(name, value)
    if isinstance(value, Tensor) and value.ndim == 0:
        raise ValueError(f"{name}: expected at least one dimension, got a scalar")


def check_number(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a number of Python's."""
    if not isinstance(value, _NUMBERS):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")


def check_count(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless ``value`` is a positive whole number."""
    if not isinstance(value, _WHOLE):
        raise TypeError(f"{name}: expected a whole number, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}: must be positive, got {value}")


def check_tables(groups: object) -> None:
    """Raise TypeError or ValueError unless ``groups`` are Groups whose tables fit one another."""
    if not isinstance(groups, Groups):
        raise TypeError(f"groups: expected Groups, got {type(groups).__name__}")
    tables = dict(zip(_TABLES, groups.parts, strict=True))
    for name, table in tables.items():
        ndim = 2 if name == "groups.token_pos" else 1
        check_tensor(name, table, ndim=ndim, dtype=torch.int32, contiguous=True)
    check_count("groups.block", groups.block)
    check_shape("groups.offsets", groups.offsets, (groups.n_experts + 1,))
    check_shape("groups.row_token", groups.row_token, (groups.block_expert.shape[0] * groups.block,))
    check_same_device(**tables)


def check_shape(name: str, value: Tensor, expected: Sequence[int]) -> None:
    """Raise ValueError unless ``value`` has exactly the shape ``expected``."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{name}: expected shape {tuple(expected)}, got {tuple(value.shape)}")


def check_same(what: str, first: str, a: int, second: str, b: int) -> None:
    """Raise ValueError unless two sizes that must agree do."""
    if a != b:
        raise ValueError(f"{what}: {first} has {a}, but {second} has {b}")


def check_same_device(**tensors: Tensor) -> None:
    """Raise ValueError unless all ``tensors`` lie on one device."""
    (first, reference), *rest = tensors.items()
    for name, tensor in rest:
        if tensor.device != reference.device:
            raise ValueError(f"{name}: lies on {tensor.device}, but {first} lies on {reference.device}")


def check_precision(precision: str) -> None:
    """Raise ValueError unless ``precision`` is one of fp32, bf16, fp8."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision: expected one of {', '.join(get_args(Precision))}, got {precision!r}")
