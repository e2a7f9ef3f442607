"""AdamW in Triton: each element is read once and written once."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .hyperparameters import Hyperparameters

BLOCK = 1024


@triton.jit(do_not_specialize=("lr", "correction1", "correction2"))
def _update(
    p_ptr,
    g_ptr,
    m_ptr,
    v_ptr,
    clip_ptr,
    count,
    lr,
    correction1,
    correction2,
    beta1,
    beta2,
    eps,
    weight_decay,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    g = tl.load(g_ptr + i, mask=inside, other=0.0).to(tl.float32) * tl.load(clip_ptr)
    m = tl.load(m_ptr + i, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + i, mask=inside, other=0.0).to(tl.float32)
    p = tl.load(p_ptr + i, mask=inside, other=0.0)
    m = m + (g - m) * (1.0 - beta1)
    v = v * beta2 + g * g * (1.0 - beta2)
    denominator = tl.sqrt_rn(v / correction2) + eps
    p = p * (1.0 - lr * weight_decay) - (lr / correction1) * (m / denominator)
    tl.store(m_ptr + i, m.to(m_ptr.dtype.element_ty), mask=inside)
    tl.store(v_ptr + i, v.to(v_ptr.dtype.element_ty), mask=inside)
    tl.store(p_ptr + i, p, mask=inside)


def update(param: Tensor, grad: Tensor, m: Tensor, v: Tensor, clip: Tensor, hyper: Hyperparameters) -> None:
    """See ``reference.update``."""
    if param.numel() == 0:
        return
    _update[(triton.cdiv(param.numel(), BLOCK),)](
        param,
        grad,
        m,
        v,
        clip,
        param.numel(),
        hyper.lr,
        hyper.correction1,
        hyper.correction2,
        hyper.beta1,
        hyper.beta2,
        hyper.eps,
        hyper.weight_decay,
        BLOCK=BLOCK,
        num_warps=4,
    )
