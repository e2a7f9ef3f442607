"""Dense block-scaled FP8 products: forward, gradient by the input, gradient by the weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import library, registry
from ..arguments import check_same, check_same_device, check_shape, check_tensor
from ..quantize.op import check_row_q, check_tok_q, check_weight_q
from ..types import RowQ, TokQ, WeightQ
from . import gemm_torch, reference
from .product import backward, forward, launch, movable

Gradient = tuple[RowQ | TokQ, RowQ | TokQ, Tensor]
"""Operands of a weight's gradient, and where it goes."""

OUTPUTS = (torch.bfloat16, torch.float32)


def gemm(
    a: RowQ,
    w: WeightQ,
    transposed: bool = False,
    out: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """``a @ w.T`` (fprop), or ``a @ w`` if ``transposed`` (dgrad); sums promoted to float32 every 128 of K.

    Parameters
    ----------
    a : RowQ [M, K]
        For dgrad [M, N].
    w : WeightQ [N, K]
    transposed : bool
    out : contiguous bfloat16 or float32 Tensor [M, N], optional
        Written if given; for dgrad [M, K].
    out_dtype : torch.dtype
        Of a fresh result.

    Returns
    -------
    Tensor [M, N], for dgrad [M, K].

    Raises
    ------
    TypeError, ValueError
        An operand is malformed, or they do not fit each other.

    Notes
    -----
    Any M. The tensor-core kernels load rows by TMA, so sizes whose rows are no multiple of 16 bytes go to the
    reference.
    """
    check_row_q("a", a)
    check_weight_q("w", w, ndim=2)
    n, k = w.data.shape if not transposed else w.data_t.shape
    check_same("inner dimension", "a", a.data.shape[1], "w", k)
    check_same_device(a=a.data, w=w.data)
    if out is None:
        if out_dtype not in OUTPUTS:
            raise TypeError(f"out_dtype: expected bfloat16 or float32, got {out_dtype}")
        return _gemm(a.parts, w.parts, transposed, out_dtype)
    check_tensor("out", out, ndim=2, dtype=OUTPUTS, contiguous=True)
    check_shape("out", out, (a.data.shape[0], n))
    check_same_device(a=a.data, out=out)
    _gemm_out(a.parts, w.parts, transposed, out)
    return out


def wgrad(
    g: RowQ | TokQ,
    x: RowQ | TokQ,
    out: Tensor | None = None,
    accumulate: bool = False,
) -> Tensor:
    """``g @ x.T`` over tokens in float32: the gradient of a weight.

    Parameters
    ----------
    g : RowQ or TokQ [N, M]
        The gradient, transposed: by ``quantize_tokens`` (recipe v3) or ``transpose_shift`` (recipe shift).
    x : the same type [K, M]
    out : contiguous float32 Tensor [N, K], optional
    accumulate : bool
        Add to ``out`` instead of overwriting it. Each tile has one owner, so the result repeats bit for bit.

    Returns
    -------
    float32 Tensor [N, K]

    Raises
    ------
    TypeError, ValueError
        An operand is malformed, they do not fit each other, there is nothing to accumulate on, or an override
        names the library (``torch``) for operands of recipe shift.
    """
    check_operands(g, x)
    if accumulate and out is None:
        raise ValueError("out: accumulate=True needs a tensor to add to")
    if out is None:
        shape = (g.data.shape[0], x.data.shape[0])
        out = torch.empty(shape, dtype=torch.float32, device=g.data.device)
    wgrads([(g, x, out)], accumulate)
    return out


def wgrads(gradients: Sequence[Gradient], accumulate: bool = False) -> None:
    """``wgrad`` of several weights at once: together they fill a GPU that each alone would not.

    Parameters
    ----------
    gradients : sequence of (g, x, out)
        As for ``wgrad``, all of one recipe and device; every ``out`` a memory of its own.
    accumulate : bool
        Add to every ``out`` instead of overwriting it.

    Raises
    ------
    TypeError, ValueError
        As for ``wgrad``.
    """
    if not gradients:
        return
    first = gradients[0][0]
    for i, (g, x, out) in enumerate(gradients):
        check_operands(g, x)
        check_tensor("out", out, ndim=2, dtype=torch.float32, contiguous=True)
        check_shape("out", out, (g.data.shape[0], x.data.shape[0]))
        check_same_device(**{"gradients[0]": first.data, f"gradients[{i}]": g.data, "out": out})
        if type(g) is not type(first):
            raise TypeError(f"gradients[{i}]: expected {type(first).__name__}, got {type(g).__name__}")
    gs, xs, outs = zip(*gradients, strict=True)
    _wgrads(
        [p for g in gs for p in g.parts],
        [p for x in xs for p in x.parts],
        outs,
        type(first) is TokQ,
        accumulate,
    )


def check_operands(g: RowQ | TokQ, x: RowQ | TokQ) -> None:
    """Raise unless ``g`` and ``x`` are well-formed operands of one recipe over the same tokens."""
    if isinstance(g, TokQ):
        check_tok_q("g", g)
        check_tok_q("x", x)
    else:
        check_row_q("g", g)
        check_row_q("x", x)
    check_same("tokens", "g", g.data.shape[1], "x", x.data.shape[1])
    check_same("tokens", "g modulo 128", g.data.shape[1] % 128, "quantize_tokens and transpose_shift", 0)
    check_same_device(g=g.data, x=x.data)


def _fake_product(a: Sequence[Tensor], w: Sequence[Tensor], transposed: bool, dtype: torch.dtype) -> Tensor:
    return a[0].new_empty(a[0].shape[0], (w[1] if transposed else w[0]).shape[0], dtype=dtype)


@library.op(fake=_fake_product)
def _gemm(a: Sequence[Tensor], w: Sequence[Tensor], transposed: bool, dtype: torch.dtype) -> Tensor:
    out = _fake_product(a, w, transposed, dtype)
    _multiply(RowQ(*a), WeightQ(*w), transposed, out)
    return out


@library.op(fake=library.writes, mutates=("out",))
def _gemm_out(a: Sequence[Tensor], w: Sequence[Tensor], transposed: bool, out: Tensor) -> None:
    _multiply(RowQ(*a), WeightQ(*w), transposed, out)


def _multiply(a: RowQ, w: WeightQ, transposed: bool, out: Tensor) -> None:
    if out.numel() == 0:
        return
    backend = registry.backend("gemm", out.device)
    if backend == "torch" and gemm_torch.supports(a, w, transposed, out):
        gemm_torch.scaled_gemm(a, w, transposed, out)
    elif not launch(backend, forward(a, w, transposed, out)):
        reference.gemm(a, w, transposed, out)


@library.op(fake=library.writes, mutates=("outs",))
def _wgrads(
    g: Sequence[Tensor], x: Sequence[Tensor], outs: Sequence[Tensor], blocks: bool, accumulate: bool
) -> None:
    """Data and scale of each operand follow one another."""
    backend = registry.backend("wgrad", outs[0].device)
    if backend == "torch" and blocks:
        raise ValueError(
            "wgrad: backend torch needs operands of recipe v3, these are of shift, and cuBLAS has no product "
            f"of 128x128 by 128x128 blocks; set {registry.RECIPE_ENVIRONMENT}=v3 or leave out the override"
        )
    places = [out.data_ptr() for out in outs if out.numel()]
    if len(set(places)) < len(places):
        raise ValueError("gradients: expected memory of its own for each out")
    form = TokQ if blocks else RowQ
    gradients: list[Gradient] = [
        (form(*g[2 * i : 2 * i + 2]), form(*x[2 * i : 2 * i + 2]), out) for i, out in enumerate(outs)
    ]
    products = [backward(*gradient, accumulate) for gradient in gradients]
    launched = launch(backend, *(p for p in products if movable(p)))
    for product, gradient in zip(products, gradients, strict=True):
        if backend == "torch" and gemm_torch.supports_wgrad(product):
            gemm_torch.scaled_wgrad(product)
        elif not (launched and movable(product)):
            reference.wgrad(*gradient, accumulate)
