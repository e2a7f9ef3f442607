"""TensorBoard, where the recipe asks for it; metrics.jsonl stays the record."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from penstock.errors import ConfigError
from penstock.train.metrics import StepEvent

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes a step's scalars to a folder that ``tensorboard --logdir`` reads.

    Raises
    ------
    ConfigError
        tensorboard is not installed.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "train.tensorboard = true, but tensorboard is not installed: pip install 'penstock[train]', "
                "or leave it false: metrics.jsonl has the same numbers"
            ) from error
        # Hides what a killed run wrote beyond its checkpoint.
        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, event: StepEvent) -> None:
        """Add one step."""
        scalars = {
            "loss/main": event.loss,
            "loss/mtp": event.mtp_loss,
            "loss/balance": event.balance_loss,
            "optimizer/grad_norm": event.grad_norm,
            "optimizer/lr": event.lr,
            "speed/tokens_per_s": event.tokens_per_s,
            "speed/mfu": event.mfu,
            "speed/data_stall_s": event.data_stall_s,
            "balance/busiest_layer": max(event.expert_load, default=None),
        }
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, event.step)

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
