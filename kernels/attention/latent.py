"""Attention as multi-head latent attention lays it out: keys in two parts, one shared by all heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import library, registry
from ..arguments import check_float, check_same_device, check_shape, check_tensor
from .documents import Documents
from .op import attention

_HALVES = (torch.bfloat16, torch.float16)


def latent_attention(
    q: Tensor, q_rope: Tensor, kv: Tensor, k_rope: Tensor, scale: float, documents: Documents | None = None
) -> Tensor:
    """Causal softmax attention of ``[q | q_rope]`` to ``[k | k_rope]``, where ``kv`` is ``[k | v]``.

    Parameters
    ----------
    q : Tensor [B, S, H, D]
        Each head's own part of the queries.
    q_rope : Tensor [B, S, H, R]
        The rotated part.
    kv : Tensor [B, S, H, D + V]
        Each head's own part of the keys, then its values.
    k_rope : Tensor [B, S, R]
        The rotated part of the keys, the same for all heads.
    scale : float
        Multiplies the scores.
    documents : Documents, optional
        A query sees its own document only; without them each row is one.

    Returns
    -------
    Tensor [B, S, H, V] in the dtype of ``q``; differentiable in the four tensors.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, rank, shape or device.
    """
    _check(q, q_rope, kv, k_rope, documents)
    if _has_kernel(q, q_rope, kv):
        out: Tensor = _Attention.apply(q, q_rope, kv, k_rope, scale, documents)  # type: ignore[no-untyped-call]
        return out
    k, v = kv[..., : q.shape[3]], kv[..., q.shape[3] :]
    shared = k_rope[:, :, None].expand(q_rope.shape)
    ids = None if documents is None else documents.ids
    return attention(torch.cat([q, q_rope], -1), torch.cat([k, shared], -1), v, scale, ids)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        q_rope: Tensor,
        kv: Tensor,
        k_rope: Tensor,
        scale: float,
        documents: Documents | None,
    ) -> Tensor:
        starts, ends = (None, None) if documents is None else (documents.starts, documents.ends)
        out, lse = _latent_attention(q, q_rope, kv, k_rope, scale, starts)
        ctx.save_for_backward(q, q_rope, kv, k_rope, out, lse, starts, ends)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, q_rope, kv, k_rope, out, lse, starts, ends = ctx.saved_tensors
        inputs = (q, q_rope, kv, k_rope)
        gradients = _latent_attention_backward(
            grads[0].contiguous(), out, lse, *inputs, ctx.scale, starts, ends
        )
        return *gradients, None, None


def _fake_output(
    q: Tensor, q_rope: Tensor, kv: Tensor, k_rope: Tensor, scale: float, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    b, s, h, d = q.shape
    return q.new_empty(b, s, h, kv.shape[3] - d), q.new_empty(b, h, s, dtype=torch.float32)


@library.op(fake=_fake_output)
def _latent_attention(
    q: Tensor, q_rope: Tensor, kv: Tensor, k_rope: Tensor, scale: float, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    from . import latent_triton  # Triton is imported only where it runs

    q, q_rope, kv, k_rope = map(_rows_in_one_piece, (q, q_rope, kv, k_rope))
    return latent_triton.forward(q, q_rope, kv, k_rope, scale, starts)


Four = tuple[Tensor, Tensor, Tensor, Tensor]


def _fake_gradients(
    grad: Tensor, out: Tensor, lse: Tensor, q: Tensor, q_rope: Tensor, kv: Tensor, k_rope: Tensor,
    scale: float, starts: Tensor | None, ends: Tensor | None,
) -> Four:  # fmt: skip
    dq, dq_rope, dkv, dk_rope = (t.new_empty(t.shape) for t in (q, q_rope, kv, k_rope))
    return dq, dq_rope, dkv, dk_rope


@library.op(fake=_fake_gradients)
def _latent_attention_backward(
    grad: Tensor, out: Tensor, lse: Tensor, q: Tensor, q_rope: Tensor, kv: Tensor, k_rope: Tensor,
    scale: float, starts: Tensor | None, ends: Tensor | None,
) -> Four:  # fmt: skip
    from . import latent_triton

    q, q_rope, kv, k_rope = map(_rows_in_one_piece, (q, q_rope, kv, k_rope))
    bounds = None if starts is None or ends is None else (starts, ends)
    return latent_triton.backward(grad, out, lse, q, q_rope, kv, k_rope, scale, bounds)


def _rows_in_one_piece(t: Tensor) -> Tensor:
    """``t``, copied unless the kernels can walk it: a row is S tokens, a token's features are neighbours."""
    walkable = t.stride(-1) == 1 and t.stride(0) == t.shape[1] * t.stride(1)
    return t if walkable and t.data_ptr() % 16 == 0 and t.stride(1) % 8 == 0 else t.contiguous()


def _has_kernel(q: Tensor, q_rope: Tensor, kv: Tensor) -> bool:
    """Tensor cores take products over 16, 32, 64, ... features; the kernels count elements in 31 bits."""
    sizes = (q.shape[3], q_rope.shape[3], kv.shape[3] - q.shape[3])
    fits = all(size >= 16 and size & (size - 1) == 0 for size in sizes) and q.numel() > 0
    fits &= all(t.shape[1] * max(t.stride(1), t[0, 0].numel()) < 2**31 for t in (q, q_rope, kv))
    return fits and q.dtype in _HALVES and registry.backend("latent_attention", q.device) == "triton"


def _check(q: Tensor, q_rope: Tensor, kv: Tensor, k_rope: Tensor, documents: Documents | None) -> None:
    for name, tensor in (("q", q), ("q_rope", q_rope), ("kv", kv), ("k_rope", k_rope)):
        check_float(name, tensor)
        check_tensor(name, tensor, ndim=3 if name == "k_rope" else 4, dtype=q.dtype)
    check_shape("q_rope", q_rope, (*q.shape[:3], q_rope.shape[3]))
    check_shape("kv", kv, (*q.shape[:3], kv.shape[3]))
    check_shape("k_rope", k_rope, (*q.shape[:2], q_rope.shape[3]))
    if kv.shape[3] <= q.shape[3]:
        raise ValueError(f"kv: {kv.shape[3]} features leave no values beside keys of {q.shape[3]}")
    check_same_device(q=q, q_rope=q_rope, kv=kv, k_rope=k_rope)
    if documents is not None:
        check_shape("documents.ids", documents.ids, q.shape[:2])
        check_same_device(q=q, documents=documents.ids)
