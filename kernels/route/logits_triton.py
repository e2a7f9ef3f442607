"""Router logits in Triton: products as in float32, on tensor cores, of activations read as they are.

A float32 number is the sum of three bfloat16 numbers, and products of those are exact in float32. So with
bfloat16 activations logits and the weight's gradient take three products each. Other dtypes take TF32 three
times.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .. import library

TILE_ELEMENTS = 8192
"""Tokens, or features, times experts: what a program keeps of a product."""
INPUT_TILE = {"BT": 128, "BD": 128, "BE": 32, "num_warps": 8}
"""Of the input's gradient: tokens, features, and experts that are met at a time."""
SPLITS = 16
"""Programs that share the tokens in the weight's gradient; their parts are added in order."""


@triton.jit
def _parts(x):
    """Three bfloat16 numbers whose sum is x, the largest first."""
    high = x.to(tl.bfloat16)
    rest = x - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    return high, middle, (rest - middle.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def _dot_exact(a, b, total):
    """``total + a @ b`` as in float32; one of the two may be bfloat16."""
    # Tensor cores cut off what they add to a sum, so each product starts from zero and is added outside. Half
    # of it, doubled, since the compiler would turn a plain sum into one that starts from ``total``.
    if a.dtype == tl.bfloat16:
        high, middle, low = _parts(b * 0.5)
        total += tl.dot(a, high, tl.dot(a, middle, tl.dot(a, low))) * 2.0
    elif b.dtype == tl.bfloat16:
        high, middle, low = _parts(a * 0.5)
        total += tl.dot(high, b, tl.dot(middle, b, tl.dot(low, b))) * 2.0
    else:
        total = tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="tf32x3")
    return total


@triton.jit
def _router_logits(
    x_ptr, w_ptr, out_ptr, T, D, E, BT: tl.constexpr, BD: tl.constexpr, EP: tl.constexpr
):  # fmt: skip
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    e = tl.arange(0, EP)
    logits = tl.zeros((BT, EP), tl.float32)
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        at = t.to(tl.int64)[:, None] * D + d[None, :]
        x = tl.load(x_ptr + at, mask=(t < T)[:, None] & (d < D)[None, :], other=0.0)
        w = tl.load(w_ptr + e[:, None] * D + d[None, :], mask=(e < E)[:, None] & (d < D)[None, :], other=0.0)
        logits = _dot_exact(x, tl.trans(w), logits)
    at = t.to(tl.int64)[:, None] * E + e[None, :]
    tl.store(out_ptr + at, logits, mask=(t < T)[:, None] & (e < E)[None, :])


@triton.jit
def _router_backward_input(
    g_ptr, w_ptr, dx_ptr, T, D, E, BT: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr
):  # fmt: skip
    # Along the rows, as programs side by side then write whole rows of dx.
    across = tl.cdiv(D, BD)
    d = tl.program_id(0) % across * BD + tl.arange(0, BD)
    t = tl.program_id(0) // across * BT + tl.arange(0, BT)
    dx = tl.zeros((BT, BD), tl.float32)
    for first in range(0, E, BE):
        e = first + tl.arange(0, BE)
        at = t.to(tl.int64)[:, None] * E + e[None, :]
        g = tl.load(g_ptr + at, mask=(t < T)[:, None] & (e < E)[None, :], other=0.0)
        w = tl.load(w_ptr + e[:, None] * D + d[None, :], mask=(e < E)[:, None] & (d < D)[None, :], other=0.0)
        if dx_ptr.dtype.element_ty == tl.bfloat16:  # which keeps 8 bits: two parts of each are enough
            g_high, g_middle, _g_low = _parts(g)
            w_high, w_middle, _w_low = _parts(w)
            dx = tl.dot(g_high, w_high, tl.dot(g_high, w_middle, tl.dot(g_middle, w_high, dx)))
        else:
            dx = tl.dot(g, w, dx, input_precision="tf32x3")
    at = t.to(tl.int64)[:, None] * D + d[None, :]
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=(t < T)[:, None] & (d < D)[None, :])


@triton.jit
def _router_backward_weight(
    g_ptr, x_ptr, part_ptr, T, D, E, BT: tl.constexpr, BD: tl.constexpr, EP: tl.constexpr
):  # fmt: skip
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    e = tl.arange(0, EP)
    dw = tl.zeros((EP, BD), tl.float32)
    for start in range(tl.program_id(1) * BT, T, tl.num_programs(1) * BT):
        t = start + tl.arange(0, BT)
        at = t.to(tl.int64)[:, None] * E + e[None, :]
        g = tl.load(g_ptr + at, mask=(t < T)[:, None] & (e < E)[None, :], other=0.0)
        at = t.to(tl.int64)[:, None] * D + d[None, :]
        x = tl.load(x_ptr + at, mask=(t < T)[:, None] & (d < D)[None, :], other=0.0)
        dw = _dot_exact(tl.trans(g), x, dw)
    part = part_ptr + tl.program_id(1).to(tl.int64) * E * D
    tl.store(part + e[:, None] * D + d[None, :], dw, mask=(e < E)[:, None] & (d < D)[None, :])


@library.op(name="router_logits", fake=lambda x, w: w.new_empty(x.shape[0], w.shape[0]))
def forward(x: Tensor, w: Tensor) -> Tensor:
    """[T, E] of contiguous x [T, D] and w [E, D]."""
    out = w.new_empty(x.shape[0], w.shape[0])
    if x.numel():
        tile = tile_for(w.shape[0])
        grid = (triton.cdiv(x.shape[0], tile["BT"]),)
        _router_logits[grid](x, w.contiguous(), out, *_sizes(x, w), **tile)
    return out


@library.op(name="router_logits_backward_input", fake=lambda g, w, like: like.new_empty(like.shape))
def backward_input(g: Tensor, w: Tensor, like: Tensor) -> Tensor:
    """The gradient of ``like``, in its dtype."""
    dx = like.new_empty(like.shape)
    if like.numel():
        tokens, features = like.shape
        grid = (triton.cdiv(tokens, INPUT_TILE["BT"]) * triton.cdiv(features, INPUT_TILE["BD"]),)
        _router_backward_input[grid](g, w.contiguous(), dx, *_sizes(like, w), **INPUT_TILE)
    return dx


@library.op(name="router_logits_backward_weight", fake=lambda g, x, w: w.new_empty(SPLITS, *w.shape))
def backward_weight(g: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """The gradient of ``w`` in SPLITS parts [SPLITS, E, D], to be added up."""
    parts = w.new_empty(SPLITS, *w.shape) if x.numel() else w.new_zeros(SPLITS, *w.shape)
    if x.numel():
        tile = tile_for(w.shape[0])
        _router_backward_weight[(triton.cdiv(x.shape[1], tile["BD"]), SPLITS)](
            g, x, parts, *_sizes(x, w), **tile
        )
    return parts


def _sizes(x: Tensor, w: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], w.shape[0]


def tile_for(n_experts: int) -> dict[str, int]:
    """Sizes of a tile and warps."""
    padded = max(16, triton.next_power_of_2(n_experts))
    edge = min(64, max(16, TILE_ELEMENTS // padded))
    return {"BT": edge, "BD": edge, "EP": padded, "num_warps": 4 if padded <= 64 else 8}
