"""Causal attention that does not look across documents."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import registry
from ..arguments import check_float, check_number, check_same_device, check_shape, check_tensor
from . import reference

FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""Left to itself PyTorch may pass over cuDNN, which alone is fast where queries and values differ in size."""


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, doc_ids: Tensor | None = None) -> Tensor:
    """Softmax attention; a query sees itself and what stands before it in its own document.

    Parameters
    ----------
    q, k : Tensor [B, S, H, D_qk]
    v : Tensor [B, S, H, D_v]
        D_v may differ from D_qk.
    scale : float
        Multiplies the scores.
    doc_ids : integer Tensor [B, S], optional
        Positions with different numbers do not see each other; without it the rows are one document each.

    Returns
    -------
    Tensor [B, S, H, D_v] in the dtype of ``q``; differentiable in ``q``, ``k`` and ``v``.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, rank, shape or device.
    """
    _check(q, k, v, doc_ids)
    check_number("scale", scale)
    if registry.backend("attention", q.device, q.dtype) == "reference":
        return reference.attention(q, k, v, scale, doc_ids)
    # Without documents SDPA may use a kernel that knows the causal mask; a written mask costs S x S bytes.
    mask = None if doc_ids is None else reference.allowed(doc_ids, q.shape[1], q.device)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    with sdpa_kernel(FASTEST_FIRST, set_priority=True) if q.is_cuda else nullcontext():
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
    return out.transpose(1, 2)


def _check(q: Tensor, k: Tensor, v: Tensor, doc_ids: Tensor | None) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_float(name, tensor)
        check_tensor(name, tensor, ndim=4, dtype=q.dtype)
    check_shape("k", k, q.shape)
    check_shape("v", v, (*q.shape[:3], v.shape[3]))
    check_same_device(q=q, k=k, v=v)
    if doc_ids is not None:
        check_tensor("doc_ids", doc_ids, ndim=2)
        check_shape("doc_ids", doc_ids, q.shape[:2])
        check_tensor("doc_ids", doc_ids, dtype=(torch.int32, torch.int64))
        check_same_device(q=q, doc_ids=doc_ids)
