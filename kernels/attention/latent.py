"""Attention as multi-head latent attention lays it out: keys in two parts, one shared by all heads."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .. import library, registry
from ..arguments import check_float, check_number, check_same_device, check_shape, check_tensor
from ..states import S, States, as_given, states_of
from ..types import BLOCK, RowQ, empty_rows
from .documents import Documents
from .op import attention

_HALVES = (torch.bfloat16, torch.float16)


def latent_attention(
    q: Tensor,
    q_rope: Tensor,
    kv: S,
    k_rope: Tensor,
    scale: float,
    documents: Documents | None = None,
    quantize: bool = False,
) -> S:
    """Causal softmax attention of ``[q | q_rope]`` to ``[k | k_rope]``, where ``kv`` is ``[k | v]``.

    Parameters
    ----------
    q : Tensor [B, S, H, D]
        Each head's own part of the queries.
    q_rope : Tensor [B, S, H, R]
        The rotated part.
    kv : Tensor or States [B, S, H, D + V]
        Each head's own part of the keys, then its values.
    k_rope : Tensor [B, S, R]
        The rotated part of the keys, the same for all heads.
    scale : float
        Multiplies the scores.
    documents : Documents, optional
        A query sees its own document only; without them each row is one.
    quantize : bool
        Whether an FP8 product reads the output: states then come with their rows [B * S, H * V], where the
        kernel can make them (D and V are 128).

    Returns
    -------
    The same as ``kv``, [B, S, H, V] in the dtype of ``q``; differentiable in the four tensors.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, rank, shape or device.
    """
    given = states_of(kv)
    _check(q, q_rope, given.values, k_rope, documents)
    check_number("scale", scale)
    if _has_kernel(q, q_rope, given.values):
        return as_given(kv, _fused(q, q_rope, given, k_rope, scale, documents, quantize))
    k, v = given.values[..., : q.shape[3]], given.values[..., q.shape[3] :]
    shared = k_rope[:, :, None].expand(q_rope.shape)
    ids = None if documents is None else documents.ids
    out = attention(torch.cat([q, q_rope], -1), torch.cat([k, shared], -1), v, scale, ids)
    return as_given(kv, States(out))


def _fused(
    q: Tensor, q_rope: Tensor, kv: States, k_rope: Tensor, scale: float, documents: Documents | None,
    quantize: bool,
) -> States:  # fmt: skip
    fits = q.shape[3] == kv.values.shape[3] - q.shape[3] == BLOCK  # a head's part is one tile
    fits &= q.shape[:2].numel() % 4 == 0 and 2 * q.shape[:3].numel() < 2**31
    fits &= registry.backend("quantize", q.device) == "triton"
    place = kv.gradient.parts if fits and kv.gradient is not None else (None, None)
    out, *rows = _Attention.apply(  # type: ignore[no-untyped-call]
        q, q_rope, kv.values, k_rope, *place, scale, documents, quantize and fits
    )
    return States(out, RowQ(*rows) if rows else None)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        q, q_rope, kv, k_rope, place, _, scale, documents, quantize = arguments
        starts, ends = (None, None) if documents is None else (documents.starts, documents.ends)
        out, lse, *rows = _latent_attention(q, q_rope, kv, k_rope, scale, starts, quantize)
        ctx.save_for_backward(q, q_rope, kv, k_rope, out, lse, starts, ends)
        ctx.scale, ctx.quantize = scale, place is not None
        if not quantize:
            return (out,)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*rows)
        return out, *rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, q_rope, kv, k_rope, out, lse, starts, ends = ctx.saved_tensors
        inputs = (q, q_rope, kv, k_rope)
        dq, dq_rope, dkv, dk_rope, scales = _latent_attention_backward(
            grads[0].contiguous(), out, lse, *inputs, ctx.scale, starts, ends, ctx.quantize
        )
        of_kv = (None, dk_rope, dkv, scales) if ctx.quantize else (dkv, dk_rope, None, None)
        return dq, dq_rope, *of_kv, None, None, None


Four = tuple[Tensor, Tensor, Tensor, Tensor]


def _fake_output(
    q: Tensor, q_rope: Tensor, kv: Tensor, k_rope: Tensor, scale: float, starts: Tensor | None, quantize: bool
) -> Four:
    b, s, h, d = q.shape
    v = kv.shape[3] - d
    rows = empty_rows(b * s, h * v, q.device) if quantize else empty_rows(0, 0, q.device)
    return q.new_empty(b, s, h, v), q.new_empty(b, h, s, dtype=torch.float32), *rows


@library.op(fake=_fake_output)
def _latent_attention(
    q: Tensor, q_rope: Tensor, kv: Tensor, k_rope: Tensor, scale: float, starts: Tensor | None, quantize: bool
) -> Four:
    """The output, what backward needs, bytes and scales of the output or nothing."""
    q, q_rope, kv, k_rope = map(_rows_in_one_piece, (q, q_rope, kv, k_rope))
    found: Four = _kernels(q, q_rope, kv, k_rope, scale).forward(
        q, q_rope, kv, k_rope, scale, starts, quantize
    )
    return found


Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _fake_gradients(
    grad: Tensor, out: Tensor, lse: Tensor, q: Tensor, q_rope: Tensor, kv: Tensor, k_rope: Tensor,
    scale: float, starts: Tensor | None, ends: Tensor | None, quantize: bool,
) -> Five:  # fmt: skip
    dq, dq_rope, dkv, dk_rope = (t.new_empty(t.shape) for t in (q, q_rope, kv, k_rope))
    if not quantize:
        return dq, dq_rope, dkv, dk_rope, empty_rows(0, 0, q.device)[1]
    data, scales = empty_rows(q.shape[:2].numel(), kv.shape[2:].numel(), q.device)
    return dq, dq_rope, data, dk_rope, scales


@library.op(fake=_fake_gradients)
def _latent_attention_backward(
    grad: Tensor, out: Tensor, lse: Tensor, q: Tensor, q_rope: Tensor, kv: Tensor, k_rope: Tensor,
    scale: float, starts: Tensor | None, ends: Tensor | None, quantize: bool,
) -> Five:  # fmt: skip
    """Gradients; that of ``kv`` like it, or as bytes [B * S, H * (D + V)] whose scales come last."""
    q, q_rope, kv, k_rope = map(_rows_in_one_piece, (q, q_rope, kv, k_rope))
    bounds = None if starts is None or ends is None else (starts, ends)
    given = (grad, out, lse, q, q_rope, kv, k_rope)
    found: Five = _kernels(q, q_rope, kv, k_rope, scale).backward(*given, scale, bounds, quantize)
    return found


def _kernels(q: Tensor, q_rope: Tensor, kv: Tensor, k_rope: Tensor, scale: float) -> ModuleType:
    """Those for these operands; Triton is imported only where it runs."""
    if registry.backend("latent_attention", q.device) == "gluon":
        from . import latent_gluon

        if latent_gluon.fits(q, q_rope, kv, k_rope, scale):
            return latent_gluon
    from . import latent_triton

    return latent_triton


def _rows_in_one_piece(t: Tensor) -> Tensor:
    """``t``, copied unless the kernels can walk it: a row is S tokens, a token's features are neighbours."""
    walkable = t.stride(-1) == 1 and (t.shape[0] == 1 or t.stride(0) == t.shape[1] * t.stride(1))
    aligned = t.data_ptr() % 16 == 0 and t.stride(1) % 8 == 0
    return t if walkable and aligned else t.clone(memory_format=torch.contiguous_format)


def _has_kernel(q: Tensor, q_rope: Tensor, kv: Tensor) -> bool:
    """Tensor cores take products over 16, 32, 64, ... features; the kernels count elements in 31 bits."""
    sizes = (q.shape[3], q_rope.shape[3], kv.shape[3] - q.shape[3])
    if q.numel() == 0 or not all(size >= 16 and size & (size - 1) == 0 for size in sizes):
        return False
    fits = all(t.shape[1] * max(t.stride(1), t[0, 0].numel()) < 2**31 for t in (q, q_rope, kv))
    fits &= q.dtype in _HALVES and registry.backend("latent_attention", q.device) != "reference"
    return fits and _has_room(q.shape[3] + q_rope.shape[3] + kv.shape[3] - q.shape[3], q.device)


def _has_room(features: int, device: torch.device) -> bool:
    """Whether shared memory takes a kernel's tiles; consumer cards have less than half of a Hopper's."""
    found = registry.capability(device) if device.type == "cuda" else None
    if found is None:
        return True
    from . import latent_triton  # Triton is imported only where it runs

    needed = latent_triton.shared_memory_bytes(features, hopper=found >= (9, 0))
    return needed <= registry.most_shared_memory_bytes(found)


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
        _check_documents(documents, q)


def _check_documents(documents: Documents, q: Tensor) -> None:
    if not isinstance(documents, Documents):
        raise TypeError(f"documents: expected Documents, got {type(documents).__name__}")
    check_tensor("documents.ids", documents.ids, dtype=(torch.int32, torch.int64))
    bounds = {"documents.starts": documents.starts, "documents.ends": documents.ends}
    for name, bound in bounds.items():
        check_tensor(name, bound, dtype=torch.int32, contiguous=True)
    for name, table in (("documents.ids", documents.ids), *bounds.items()):
        check_shape(name, table, q.shape[:2])
        check_same_device(**{"q": q, name: table})
