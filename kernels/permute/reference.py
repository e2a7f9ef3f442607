"""Moving rows to their experts and back, in plain torch: the definition of correct."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..quantize.reference import SMALLEST_SCALE
from ..types import Groups, RowQ


def gather_rows(x: Tensor, groups: Groups) -> Tensor:
    """[T, D] -> [R_max, D]: each row its token's, filling rows zero."""
    return F.pad(x, (0, 0, 0, 1))[groups.row_token.long()]  # -1 is the row of zeros


def gather_quantized(a: RowQ, groups: Groups) -> RowQ:
    """[T, D] -> [R_max, D]: bytes and scales of each row's token, filling rows zero at the smallest scale."""
    token = groups.row_token.long()
    # -1 is the row of zeros, and the scale, behind the last.
    data = F.pad(a.data.view(torch.uint8), (0, 0, 0, 1))[token].view(a.data.dtype)
    scale = F.pad(a.scale, (0, 1), value=SMALLEST_SCALE)[:, token]
    return RowQ(data, F.pad(scale, (0, -scale.shape[1] % 4), value=SMALLEST_SCALE))


def row_weights(weight: Tensor, groups: Groups) -> Tensor:
    """[T, k] -> float32 or wider [R_max]: the weight of the choice that each row serves, zero elsewhere."""
    position = groups.token_pos.long().reshape(-1)
    out = torch.zeros(
        groups.n_rows + 1, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device
    )
    # Tokens that are not routed write to the spare last element; scatter takes no negative index.
    out.scatter_(0, position.where(position >= 0, groups.n_rows), weight.reshape(-1).to(out.dtype))
    return out[:-1]


def gather_sum(y: Tensor, weight: Tensor | None, token_pos: Tensor, extra: Tensor | None = None) -> Tensor:
    """[R_max, D] -> [T, D]: the (weighted) sum of each token's rows, and ``extra``, in float32 or wider."""
    wide = torch.promote_types(y.dtype, torch.float32)
    position = token_pos.long()
    rows = torch.where(position[..., None] >= 0, y[position.clamp_min(0)].to(wide), 0)
    if weight is not None:
        rows = rows * weight[..., None].to(wide)
    total = rows.sum(1)
    return (total if extra is None else total + extra).to(y.dtype)


def spread_rows(grad: Tensor, weight: Tensor, groups: Groups) -> Tensor:
    """[T, D] -> [R_max, D]: each row its token's gradient times the weight of that choice."""
    row_weight = row_weights(weight, groups)
    wide = torch.promote_types(grad.dtype, row_weight.dtype)
    return (gather_rows(grad, groups).to(wide) * row_weight[:, None]).to(grad.dtype)


def row_dots(grad: Tensor, y: Tensor, groups: Groups) -> Tensor:
    """[T, k] float32 or wider: each token's gradient times each of its rows; zero where not routed."""
    wide = torch.promote_types(y.dtype, torch.float32)
    position = groups.token_pos.long()
    rows = torch.where(position[..., None] >= 0, y[position.clamp_min(0)].to(wide), 0)
    return torch.einsum("td,tkd->tk", grad.to(wide), rows)
