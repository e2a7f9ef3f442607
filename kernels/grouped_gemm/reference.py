"""Products of each expert's rows with its own weight, in plain torch: one product an expert.

The bounds of the groups are read by the host, so on a GPU these wait; they are the definition, not the fast
path.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from ..quantize.reference import dequantize
from ..types import Groups, RowQ, TokQ, WeightQ


def spans(groups: Groups) -> Iterator[tuple[int, slice]]:
    """Each expert and its rows, filling rows included, empty experts included."""
    bounds = groups.offsets.tolist()
    for expert, (start, end) in enumerate(pairwise(bounds)):
        yield expert, slice(start, end)


def grouped_mm(a: Tensor, w: Tensor, groups: Groups) -> Tensor:
    """``a[rows of e] @ w[e]`` for w [E, K, N]; zeros in rows that belong to nobody."""
    out = a.new_zeros(a.shape[0], w.shape[2])
    for expert, rows in spans(groups):
        if rows.stop > rows.start:
            out[rows] = a[rows] @ w[expert]
    return out


def grouped_outer(g: Tensor, x: Tensor, groups: Groups, out: Tensor, accumulate: bool) -> None:
    """``out[e] = g[rows of e].T @ x[rows of e]``, or ``+=``; zero for an empty expert when overwriting."""
    for expert, rows in spans(groups):
        product = g[rows].t().to(out.dtype) @ x[rows].to(out.dtype)
        if accumulate:
            out[expert] += product
        else:
            out[expert] = product


def grouped_gemm(a: RowQ, w: WeightQ, groups: Groups, transposed: bool, out: Tensor) -> None:
    """See ``op.grouped_gemm``."""
    weight = dequantize(w)
    out.copy_(grouped_mm(dequantize(a), weight if transposed else weight.transpose(1, 2), groups))


def grouped_wgrad(g: RowQ | TokQ, x: RowQ | TokQ, groups: Groups, out: Tensor, accumulate: bool) -> None:
    """See ``op.grouped_wgrad``."""
    grouped_outer(dequantize(g).t(), dequantize(x).t(), groups, out, accumulate)
