"""Moving rows to their experts and back, in plain torch: the definition of correct."""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import Groups


def gather_rows(x: Tensor, groups: Groups) -> Tensor:
    """[T, D] -> [R_max, D]: each row its token's, filling rows zero."""
    token = groups.row_token.long()
    return torch.where(token[:, None] >= 0, x[token.clamp_min(0)], 0)


def gather_sum(y: Tensor, weight: Tensor | None, groups: Groups) -> Tensor:
    """[R_max, D] -> [T, D]: the (weighted) sum of each token's rows, added in float32 or wider."""
    wide = torch.promote_types(y.dtype, torch.float32)
    position = groups.token_pos.long()
    rows = torch.where(position[..., None] >= 0, y[position.clamp_min(0)].to(wide), 0)
    if weight is not None:
        rows = rows * weight[..., None].to(wide)
    return rows.sum(1).to(y.dtype)


def spread_rows(grad: Tensor, weight: Tensor, groups: Groups) -> Tensor:
    """[T, D] -> [R_max, D]: each row its token's gradient times the weight of that choice."""
    position = groups.token_pos.long().reshape(-1)
    wide = torch.promote_types(grad.dtype, torch.float32)
    row_weight = torch.zeros(groups.n_rows + 1, dtype=wide, device=grad.device)
    row_weight[position] = weight.reshape(-1).to(wide)  # position -1 is the spare last element
    return (gather_rows(grad, groups).to(wide) * row_weight[:-1, None]).to(grad.dtype)


def row_dots(grad: Tensor, y: Tensor, groups: Groups) -> Tensor:
    """[T, k] float32 or wider: each token's gradient times each of its rows; zero where not routed."""
    wide = torch.promote_types(y.dtype, torch.float32)
    position = groups.token_pos.long()
    rows = torch.where(position[..., None] >= 0, y[position.clamp_min(0)].to(wide), 0)
    return torch.einsum("td,tkd->tk", grad.to(wide), rows)
