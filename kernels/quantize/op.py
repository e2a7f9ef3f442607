"""Casts to E4M3, and the transpose that keeps the bytes' values."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from .. import library, registry
from ..arguments import check_float, check_same, check_same_device, check_shape, check_tensor
from ..types import BLOCK, FP8, RowQ, TokQ, WeightQ, empty_rows, empty_tokens
from . import reference


def quantize_rows(x: Tensor, power_of_two: bool = True) -> RowQ:
    """Quantise a matrix, one scale for each 1x128 tile of a row.

    Parameters
    ----------
    x : float Tensor [M, K]
        Any sizes; the last tile of a row may be short. Scales beyond row M are those of zero rows.
    power_of_two : bool
        Of scales: the smallest power of two that suffices, which ``transpose_shift`` needs; otherwise
        the largest magnitude / 448.

    Raises
    ------
    TypeError, ValueError
        ``x`` is no floating-point matrix.
    """
    _check_matrix("x", x)
    return RowQ(*_quantize_rows(x, power_of_two), power_of_two=power_of_two)


def quantize_tokens(x: Tensor, power_of_two: bool = True) -> RowQ:
    """Quantise the transpose of a matrix, one scale for each feature and 128 tokens: wgrad's operand in
    recipe v3.

    Parameters
    ----------
    x : float Tensor [M, K]
    power_of_two : bool
        As for ``quantize_rows``.

    Returns
    -------
    RowQ of shape [K, M], M rounded up to 128 with zeros.

    Raises
    ------
    TypeError, ValueError
        ``x`` is no floating-point matrix.
    """
    _check_matrix("x", x)
    return RowQ(*_quantize_tokens(x, power_of_two), power_of_two=power_of_two)


def quantize_both(x: Tensor, power_of_two: bool = True) -> tuple[RowQ, RowQ]:
    """What ``quantize_rows`` and ``quantize_tokens`` give, of one read.

    Parameters
    ----------
    x : float Tensor [M, K]
    power_of_two : bool
        As for ``quantize_rows``.

    Returns
    -------
    RowQ [M, K], and RowQ [K, M] with M rounded up to 128.

    Raises
    ------
    TypeError, ValueError
        ``x`` is no floating-point matrix.
    """
    _check_matrix("x", x)
    data, scale, data_t, scale_t = _quantize_both(x, power_of_two)
    rows = RowQ(data, scale, power_of_two=power_of_two)
    return rows, RowQ(data_t, scale_t, power_of_two=power_of_two)


def quantize_weight(w: Tensor, out: WeightQ | None = None, power_of_two: bool = True) -> WeightQ:
    """Quantise weights, one scale for each 128x128 block, and write both layouts.

    Parameters
    ----------
    w : float Tensor [N, K] or [E, N, K]
        Any sizes; blocks at the edges may be short.
    out : WeightQ, optional
        Written in place of a fresh one.
    power_of_two : bool
        As for ``quantize_rows``.

    Raises
    ------
    TypeError, ValueError
        ``w`` is no floating-point tensor of two or three dimensions, or ``out`` is not of its size.
    """
    check_float("w", w)
    check_tensor("w", w, ndim=(2, 3))
    if out is None:
        out = _empty_weight(w)
    check_weight_q("out", out, w.ndim)
    check_shape("out.data", out.data, w.shape)
    check_same_device(w=w, out=out.data)
    _quantize_weight(w, out.parts, power_of_two)
    return out


def transpose_shift(a: RowQ, rows: Tensor | None = None) -> TokQ:
    """Transpose a quantised matrix by shifting exponents: every value is kept, or becomes subnormal in its
    block.

    All rows of a 128x128 block take the block's largest scale, so a byte is multiplied by a power of two and
    rounds only where it falls below the smallest normal E4M3 number. Nothing is dequantised.

    Parameters
    ----------
    a : RowQ [M, K]
        Scales must be powers of two.
    rows : int32 Tensor [M_out], optional
        The row of ``a`` to put at each place, -1 for zeros (``Groups.row_token``). Default: all in order.

    Returns
    -------
    TokQ [K, M_out], M_out rounded up to 128 with zeros.

    Raises
    ------
    TypeError, ValueError
        ``a`` is no RowQ with scales that are powers of two, or ``rows`` no integer vector on its device.
    """
    check_row_q("a", a)
    check_shiftable("a", a)
    if rows is not None:
        check_tensor("rows", rows, ndim=1, dtype=(torch.int32, torch.int64))
        check_same_device(a=a.data, rows=rows)
    return TokQ(*_transpose_shift(a.parts, rows))


def dequantize(q: RowQ | TokQ | WeightQ) -> Tensor:
    """The float32 values that a quantised tensor stands for, in the shape of its ``data``.

    Raises
    ------
    TypeError
        ``q`` is none of the three.
    """
    if not isinstance(q, RowQ | TokQ | WeightQ):
        raise TypeError(f"q: expected RowQ, TokQ or WeightQ, got {type(q).__name__}")
    return reference.dequantize(q)


def check_row_q(name: str, q: object) -> None:
    """Raise TypeError or ValueError unless ``q`` is a well-formed RowQ."""
    if not isinstance(q, RowQ):
        raise TypeError(f"{name}: expected RowQ, got {type(q).__name__}")
    check_tensor(f"{name}.data", q.data, ndim=2, dtype=FP8, contiguous=True)
    check_tensor(f"{name}.scale", q.scale, ndim=2, dtype=torch.float32, contiguous=True)
    rows, columns = q.data.shape
    _check_scale(name, q.scale, (-(-columns // BLOCK), -(-rows // 4) * 4))
    check_same_device(**{f"{name}.data": q.data, f"{name}.scale": q.scale})


def check_shiftable(name: str, q: RowQ) -> None:
    """Raise ValueError unless the scales of ``q`` are powers of two."""
    if not q.power_of_two:
        raise ValueError(f"{name}: scales must be powers of two to be transposed by their exponents")


def check_tok_q(name: str, q: object) -> None:
    """Raise TypeError or ValueError unless ``q`` is a well-formed TokQ."""
    if not isinstance(q, TokQ):
        raise TypeError(f"{name}: expected TokQ, got {type(q).__name__}")
    check_tensor(f"{name}.data", q.data, ndim=2, dtype=FP8, contiguous=True)
    check_tensor(f"{name}.scale", q.scale, ndim=2, dtype=torch.float32, contiguous=True)
    features, tokens = q.data.shape
    check_same(f"{name}.data", "tokens modulo 128", tokens % BLOCK, "TokQ", 0)
    _check_scale(name, q.scale, (-(-features // BLOCK), tokens // BLOCK))
    check_same_device(**{f"{name}.data": q.data, f"{name}.scale": q.scale})


def check_weight_q(name: str, q: object, ndim: int) -> None:
    """Raise TypeError or ValueError unless ``q`` is a well-formed WeightQ of ``ndim`` dimensions."""
    if not isinstance(q, WeightQ):
        raise TypeError(f"{name}: expected WeightQ, got {type(q).__name__}")
    check_tensor(f"{name}.data", q.data, ndim=ndim, dtype=FP8, contiguous=True)
    check_tensor(f"{name}.data_t", q.data_t, ndim=ndim, dtype=FP8, contiguous=True)
    check_tensor(f"{name}.scale", q.scale, ndim=ndim, dtype=torch.float32, contiguous=True)
    *experts, rows, columns = q.data.shape
    if tuple(q.data_t.shape) != (*experts, columns, rows):
        raise ValueError(
            f"{name}.data_t: expected shape {(*experts, columns, rows)}, got {tuple(q.data_t.shape)}"
        )
    _check_scale(name, q.scale, (*experts, -(-rows // BLOCK), -(-columns // BLOCK)))
    check_same_device(**{f"{name}.data": q.data, f"{name}.data_t": q.data_t, f"{name}.scale": q.scale})


def _fake_rows(x: Tensor, _: bool) -> tuple[Tensor, Tensor]:
    return empty_rows(x.shape[0], x.shape[1], x.device)


def _fake_columns(x: Tensor, _: bool) -> tuple[Tensor, Tensor]:
    return empty_rows(x.shape[1], -(-x.shape[0] // BLOCK) * BLOCK, x.device)


@library.op(fake=_fake_rows)
def _quantize_rows(x: Tensor, power_of_two: bool) -> tuple[Tensor, Tensor]:
    q: RowQ = _implementation(x.device).quantize_rows(x, power_of_two)
    return q.data, q.scale


@library.op(fake=_fake_columns)
def _quantize_tokens(x: Tensor, power_of_two: bool) -> tuple[Tensor, Tensor]:
    q: RowQ = _implementation(x.device).quantize_tokens(x, power_of_two)
    return q.data, q.scale


@library.op(fake=lambda *given: (*_fake_rows(*given), *_fake_columns(*given)))
def _quantize_both(x: Tensor, power_of_two: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, columns = _for_both(x, power_of_two).quantize_both(x, power_of_two)
    return rows.data, rows.scale, columns.data, columns.scale


@library.op(fake=library.writes, mutates=("out",))
def _quantize_weight(w: Tensor, out: Sequence[Tensor], power_of_two: bool) -> None:
    if w.numel():
        _implementation(w.device).quantize_weight(w.contiguous(), WeightQ(*out), power_of_two)


@library.op(
    fake=lambda a, rows: empty_tokens((a[0] if rows is None else rows).shape[0], a[0].shape[1], a[0].device)
)
def _transpose_shift(a: Sequence[Tensor], rows: Tensor | None) -> tuple[Tensor, Tensor]:
    q: TokQ = _implementation(a[0].device, "transpose_shift").transpose_shift(RowQ(*a), rows)
    return q.data, q.scale


def _empty_weight(w: Tensor) -> WeightQ:
    *experts, rows, columns = w.shape
    return WeightQ(
        data=torch.empty(w.shape, dtype=FP8, device=w.device),
        data_t=torch.empty((*experts, columns, rows), dtype=FP8, device=w.device),
        scale=torch.empty((*experts, -(-rows // BLOCK), -(-columns // BLOCK)), device=w.device),
    )


def _check_scale(name: str, scale: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(scale.shape) != expected:
        raise ValueError(f"{name}.scale: expected shape {expected}, got {tuple(scale.shape)}")


def _check_matrix(name: str, x: Tensor) -> None:
    check_float(name, x)
    check_tensor(name, x, ndim=2)


def _for_both(x: Tensor, power_of_two: bool) -> ModuleType:
    # Rows for TMA, words of two bfloat16, and scales that such words multiply by exactly.
    fits = x.dtype == torch.bfloat16 and x.shape[1] % 16 == 0 and power_of_two
    return _implementation(x.device, "quantize_both", gluon=fits)


def _implementation(device: torch.device, op: str = "quantize", gluon: bool = True) -> ModuleType:
    # Triton is imported only where it runs.
    match registry.backend(op, device):
        case "gluon" if gluon:
            from . import both_gluon, transpose_gluon

            return both_gluon if op == "quantize_both" else transpose_gluon
        case "gluon" | "triton":
            from . import quantize_triton

            return quantize_triton
    return reference
