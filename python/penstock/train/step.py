"""One step up to its update: micro-batches forward and backward, then a single read back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from penstock.config import TrainConfig
from penstock.kernels.gradient_norm import gradient_norm
from penstock.model import LossParts, Transformer, count_targets
from penstock.train.optim import AdamW

if TYPE_CHECKING:
    from penstock.data.loader import TorchBatch

__all__ = ["Gradients", "MicroBatch", "forward_backward", "micro_batch"]


@dataclass(frozen=True)
class Gradients:
    """What the host knows of a step once its gradients stand."""

    loss: float
    mtp_loss: float | None
    balance_loss: float | None
    norm: float
    tokens: int
    expert_load: tuple[float, ...]
    expert_counts: Tensor
    """Real tokens of the global batch to each expert, int64 [MoE layers, experts], on the device."""

    @property
    def finite(self) -> bool:
        """Whether the losses and every gradient are finite."""
        losses = (self.loss, self.mtp_loss or 0.0, self.balance_loss or 0.0)
        return all(math.isfinite(x) for x in (*losses, self.norm))


MicroBatch = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Given tokens, positions, documents and the targets of the global batch: adds gradients, and returns the
sums of losses, as ``_losses`` orders them, and the real tokens of each expert."""


def micro_batch(model: Transformer, config: TrainConfig) -> MicroBatch:
    """Forward and backward of some rows of a batch.

    Sums are divided by the targets of the whole batch, so that how it is cut changes nothing but rounding.
    """

    def run(tokens: Tensor, positions: Tensor, doc_ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        parts = model.loss(
            tokens,
            positions,
            doc_ids,
            mtp_loss_weight=config.mtp_loss_weight,
            balance_loss_weight=config.balance_loss_weight,
            z_loss_weight=config.z_loss_weight,
            head_chunk_tokens=config.head_chunk_tokens,
        )
        (parts.total / targets).backward()  # type: ignore[no-untyped-call]
        return _losses(parts), parts.expert_counts

    return run


def forward_backward(run: MicroBatch, optimizer: AdamW, batch: TorchBatch, rows: int) -> Gradients:
    """Gradients of the mean loss over the global batch, accumulated over micro-batches of ``rows`` rows."""
    seq_len = batch.positions.shape[1]
    targets = count_targets(batch.doc_ids, seq_len).clamp(min=1)
    losses, counts = [], []
    for start in range(0, len(batch.tokens), rows):
        part = slice(start, start + rows)
        loss, count = run(batch.tokens[part], batch.positions[part], batch.doc_ids[part], targets)
        losses.append(loss)
        counts.append(count)
    real_tokens = (batch.doc_ids[:, :seq_len] >= 0).sum()
    return _read_back(
        torch.stack(losses).sum(0) / targets,
        gradient_norm(optimizer.gradients()),
        real_tokens,
        torch.stack(counts).sum(0),
    )


def _losses(parts: LossParts) -> Tensor:
    """FP32 ``[main, balance, each depth of MTP]``, sums."""
    return torch.stack([parts.main, parts.balance, *parts.mtp]).detach()


def _read_back(losses: Tensor, norm: Tensor, tokens: Tensor, counts: Tensor) -> Gradients:
    """The step's only wait for the device.

    It stands between gradients and update, so that the host can refuse an update, and so that the next batch
    and forward pass are enqueued while the device still updates.
    """
    load = (counts.amax(1) / counts.double().mean(1).clamp(min=1e-9)).to(losses.device)
    norm_and_tokens = torch.stack([norm.double(), tokens.double()])
    numbers = torch.cat([losses.double(), norm_and_tokens, load]).tolist()
    depth_end = len(losses)
    main, balance, *mtp = numbers[:depth_end]
    norm_value, token_count, *loads = numbers[depth_end:]
    return Gradients(
        loss=main,
        mtp_loss=sum(mtp) / len(mtp) if mtp else None,
        balance_loss=balance if loads else None,
        norm=norm_value,
        tokens=int(token_count),
        expert_load=tuple(loads),
        expert_counts=counts,
    )
