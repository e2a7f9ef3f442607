"""Ops on rows that move more than they compute: norms, SwiGLU, rotations, AdamW, the norm of gradients."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..adamw import adamw_step
from ..gradient_norm import gradient_norm
from ..mla import rotate_heads
from ..mla.reference import rotate_heads as plain_rotate_heads
from ..norm import add_rms_norm, add_rms_norm_quantize, rms_norm
from ..quantize import dequantize, quantize_weight
from ..states import States, place_of
from ..swiglu import swiglu, swiglu_backward_quantize, swiglu_quantize
from ..types import RowQ, WeightQ
from .case import (
    ATTENTION_GATE,
    ROUNDED_GATE,
    Answer,
    Case,
    Contender,
    compiled,
    copy_of,
    fast,
    moving,
    ours,
    randn,
    using,
)

_EPS = 1e-6
_BACKENDS = ("gluon", "triton")


def norm(rows: int, columns: int) -> Case:
    """RMSNorm, forward."""
    x, w = randn(rows, columns), torch.ones(columns)
    call = partial(rms_norm, x, w, _EPS)
    peer = compiled(partial(fast(_plain_norm), x, w.bfloat16()))
    return moving(
        4.0 * x.numel(), 4.0 * x.numel(), "norm", call, call, ROUNDED_GATE, peer, backends=_BACKENDS
    )


def sum_and_norm(rows: int, columns: int) -> Case:
    """Residual sum and the norm behind it, forward and backward."""
    x, delta = (randn(rows, columns).requires_grad_() for _ in range(2))
    w = torch.ones(columns, requires_grad=True)
    ups = [randn(rows, columns) for _ in range(2)]

    def both() -> Tensor:
        outputs = add_rms_norm(x, delta, w, _EPS)
        return torch.autograd.grad(outputs, (x, delta, w), ups)[0]

    plain = fast(_plain_sum_and_norm)

    def peer() -> object:
        return torch.autograd.grad(plain(x, delta, w), (x, delta, w), ups)

    return moving(16.0 * x.numel(), 12.0 * x.numel(), "norm", both, both, ROUNDED_GATE, compiled(peer))


def norm_cast(rows: int, columns: int, added: bool) -> Case:
    """The norm, of a residual sum if ``added``, as bytes alone, forward."""
    x, w = randn(rows, columns), torch.ones(columns)
    delta = randn(rows, columns) if added else None
    call = partial(add_rms_norm_quantize, x, delta, w, _EPS, keep=False)

    def value() -> Tensor:
        rows_q = call()[1].rows
        assert rows_q is not None
        return dequantize(rows_q)

    # A last bit of the sum of squares may move a value to the neighbouring FP8 number.
    moved = (7.0 if added else 3.0) * x.numel()
    return moving(moved, 7.0 * x.numel(), "norm", call, value, ATTENTION_GATE, backends=_BACKENDS)


def sum_and_norm_cast(rows: int, columns: int) -> Case:
    """The same with its backward pass, which quantises the gradient of ``delta``."""
    x, delta = (randn(rows, columns).requires_grad_() for _ in range(2))
    w = torch.ones(columns, requires_grad=True)
    place = RowQ(*(t.requires_grad_() for t in place_of(delta.detach())))
    ups = [randn(rows, columns) for _ in range(2)]

    def both() -> Tensor:
        total, states = add_rms_norm_quantize(x, States(delta, None, place), w, _EPS, keep=False)
        inputs = (x, w, *place.parts)
        return torch.autograd.grad((total, states.values), inputs, ups, allow_unused=True)[0]

    return moving(16.0 * x.numel(), 15.0 * x.numel(), "norm", both, both, ROUNDED_GATE, backends=_BACKENDS)


def plain_swiglu(rows: int, width: int) -> Case:
    """SwiGLU in bfloat16, forward and backward."""
    h, up = randn(rows, 2 * width).requires_grad_(), randn(rows, width)

    def both() -> Tensor:
        return torch.autograd.grad(swiglu(h), h, up)[0]

    plain = fast(_plain_swiglu)

    def peer() -> object:
        return torch.autograd.grad(plain(h), h, up)

    elements = rows * width
    return moving(16.0 * elements, 20.0 * elements, "swiglu", both, both, ROUNDED_GATE, compiled(peer))


def swiglu_cast(rows: int, width: int) -> Case:
    """SwiGLU that quantises what it computes."""
    h = randn(rows, 2 * width)
    call = partial(swiglu_quantize, h)
    # A last bit of the exponential may move a value to the neighbouring FP8 number.
    value = lambda: dequantize(call())  # noqa: E731
    elements = rows * width
    return moving(5.0 * elements, 8.0 * elements, "swiglu_quantize", call, value, ATTENTION_GATE)


def swiglu_backward_cast(rows: int, width: int) -> Case:
    """Its backward pass: both layouts and the gradient of the weight of a choice."""
    h, ds, p = randn(rows, 2 * width), randn(rows, width), torch.rand(rows)
    call = partial(swiglu_backward_quantize, ds, h, p)
    value = lambda: dequantize(call().dh)  # noqa: E731
    elements = rows * width
    return moving(
        11.0 * elements, 20.0 * elements, "swiglu_quantize", call, value, ATTENTION_GATE, backends=_BACKENDS
    )


def rotation(tokens: int, heads: int, nope: int, rope: int) -> Case:
    """Rotation of queries and of the key that heads share, forward and backward."""
    q, k = randn(1, tokens, heads, nope + rope).requires_grad_(), randn(1, tokens, rope).requires_grad_()
    angle = torch.rand(1, tokens, rope)
    cos, sin = angle.cos(), angle.sin()
    ups = randn(1, tokens, heads, nope), randn(1, tokens, heads, rope), randn(1, tokens, rope)

    def both() -> Tensor:
        return torch.autograd.grad(rotate_heads(q, k, cos, sin), (q, k), ups)[0]

    plain = fast(plain_rotate_heads)

    def peer() -> object:
        return torch.autograd.grad(plain(q, k, cos, sin, True), (q, k), ups)

    # Rotated parts are read and written; backward writes the gradient of a query whole.
    moved = 8.0 * tokens * (heads + 1) * rope + 4.0 * q.numel() + 16.0 * tokens * rope
    return moving(moved, 6.0 * tokens * (heads + 1) * rope, "rope", both, both, ROUNDED_GATE, compiled(peer))


def optimizer(elements: int) -> Case:
    """AdamW on float32 masters with bfloat16 moments, beside torch's fused one with float32 moments."""
    p, grad = torch.randn(elements), torch.randn(elements)
    m, v = (torch.zeros(elements, dtype=torch.bfloat16) for _ in range(2))

    def once() -> Tensor:
        state = [p.clone(), m.clone(), v.clone()]
        adamw_step([state[0]], [grad], [state[1]], [state[2]], 1e-3)
        return state[0]

    moving_state = [p.clone(), m.clone(), v.clone()]
    call = partial(adamw_step, moving_state[:1], [grad], moving_state[1:2], moving_state[2:], 1e-3)
    answer = Answer(using("adamw", "reference", once), 1e-6, using("adamw", "triton", once))
    copy, kernel = copy_of(20.0 * elements), ours("triton", using("adamw", "triton", call), answer)
    return Case("GB/s", 12.0 * elements, 20.0 * elements, [copy, kernel, _fused_adamw(p, grad)])


def optimizer_cast(experts: int, n: int, k: int) -> Case:
    """AdamW that writes what FP8 products read of a stack of weights, by rows and transposed."""
    p, grad = (torch.randn(experts, n, k) for _ in range(2))
    m, v, copy = torch.zeros_like(p).bfloat16(), torch.zeros_like(p).bfloat16(), quantize_weight(p)
    state = [p.clone()], [grad], [m.clone()], [v.clone()]
    call = partial(adamw_step, *state, 1e-3, copies=[copy])

    def once() -> Tensor:
        for part in copy.parts:
            part.zero_()
        adamw_step([p.clone()], [grad], [m.clone()], [v.clone()], 1e-3, copies=[copy])
        found = []
        for data, data_t, scale in zip(*copy.parts, strict=True):
            turned = dequantize(WeightQ(data_t, data, scale.t()))
            found += [dequantize(WeightQ(data, data_t, scale)), turned.t()]
        return torch.cat(found)

    moved, work = 22.0 * p.numel(), 14.0 * p.numel()
    # A last bit of a parameter may move it to the neighbouring FP8 number.
    return moving(moved, work, "adamw", call, once, ATTENTION_GATE, backends=_BACKENDS)


def norm_of_gradients(tensors: int, elements: int) -> Case:
    """The norm that gradients are clipped by, of ``tensors`` in float32: what is read is all that moves."""
    whole = torch.randn(tensors * elements)
    grads = list(whole.view(tensors, elements).unbind())
    call = partial(gradient_norm, grads)
    peers = [
        Contender("get_total_norm", partial(torch.nn.utils.get_total_norm, grads)),
        Contender("sum of one tensor", whole.sum),
    ]
    return moving(4.0 * whole.numel(), 2.0 * whole.numel(), "gradient_norm", call, call, 1e-6, *peers)


def _fused_adamw(p: Tensor, grad: Tensor) -> Contender:
    weight = torch.nn.Parameter(p.clone())
    weight.grad = grad
    # Made at the first call, which is where a failure of a peer is caught.
    made: list[torch.optim.Optimizer] = []

    def call() -> None:
        if not made:
            made.append(torch.optim.AdamW([weight], lr=1e-3, fused=True, capturable=True))
        made[0].step()

    return Contender("fused torch AdamW", call)


def _plain_norm(x: Tensor, w: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], w, _EPS)


def _plain_sum_and_norm(x: Tensor, delta: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    total = x + delta
    return total, F.rms_norm(total, total.shape[-1:], w.to(x.dtype), _EPS)


def _plain_swiglu(h: Tensor) -> Tensor:
    gate, up = h.chunk(2, -1)
    return F.silu(gate) * up
