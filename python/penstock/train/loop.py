"""The training loop: batches in; weights, checkpoints and metrics out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from penstock.config import Config
from penstock.errors import Cancelled, DataError, InternalError, TrainingError
from penstock.kernels.gemm import accumulate_in_place
from penstock.model import Transformer, flops_per_token
from penstock.train.data import check_fit, keep_tokenizer, open_dataset, open_loader
from penstock.train.folder import RunFolder, locked, move_aside
from penstock.train.hardware import (
    deterministic_algorithms,
    peak_flops_per_s,
    resolve_device,
    resolve_precision,
)
from penstock.train.health import NonFiniteGuard, documents_of
from penstock.train.metrics import MetricsFile, Progress, StepEvent, TrainReport
from penstock.train.optim import AdamW, clip_coefficient
from penstock.train.plot import plot_loss
from penstock.train.recorded import RecordedMicroBatch
from penstock.train.schedule import learning_rate, phases
from penstock.train.signals import StopSignals
from penstock.train.state import Training, restore, save
from penstock.train.step import Gradients, MicroBatch, forward_backward, micro_batch
from penstock.train.tracking import TensorBoard

if TYPE_CHECKING:
    from penstock.data.loader import TorchBatch

__all__ = ["run"]

log = logging.getLogger("penstock.train")


def run(config: Config, progress: Progress | None = None, resume: bool = True) -> TrainReport:
    """Train; ``penstock.train.run`` says how."""
    folder = RunFolder(Path(config.train.out))
    with StopSignals() as stop, deterministic_algorithms(config.train.deterministic), locked(folder):
        if not resume:
            move_aside(folder)
        training = _prepare(config)
        saved = restore(training, folder.checkpoints)
        keep_tokenizer(training.dataset, config, folder.tokenizer)
        return _Loop(training, folder, saved, stop, progress).run()


def _prepare(config: Config) -> Training:
    """Dataset, fresh weights and optimizer on their device."""
    device = resolve_device(config.train.device)
    precision = resolve_precision(config.train.precision, device)
    dataset = open_dataset(config)
    check_fit(dataset, config)
    torch.manual_seed(config.train.seed)
    with torch.device(device):
        model = Transformer(config.model, precision=precision)
    if device.type == "cuda":
        # The products of the backward pass add into .grad themselves: no temporary to write, read and add.
        accumulate_in_place(p for p in model.parameters() if p.ndim >= 2)
    optimizer = AdamW(model.named_parameters(), config.optimizer)
    return Training(config, device, precision, dataset, model.train(), optimizer)


def _micro_batch(training: Training) -> MicroBatch:
    """On a GPU recorded once and replayed, if the recipe does not forbid it."""
    config = training.config.train
    run = micro_batch(training.model, config)
    if training.device.type == "cuda" and config.cuda_graph:
        return RecordedMicroBatch(run, training.model.parameters())
    return run


class _Loop:
    """A run from where it stands to its last step."""

    def __init__(
        self,
        training: Training,
        folder: RunFolder,
        saved: Path | None,
        stop: StopSignals,
        progress: Progress | None,
    ) -> None:
        config = training.config
        self._training, self._folder, self._stop = training, folder, stop
        self._steps = config.train.steps
        self._first_step = training.step
        self._phases = phases(config.optimizer, self._steps)
        self._guard = NonFiniteGuard(config.train.non_finite)
        self._sinks = [progress] if progress else []
        self._saved, self._saved_how = saved, ""
        self._saved_step = training.step if saved else -1
        self._peak_flops_per_s = peak_flops_per_s(training.device)
        self._flops_per_token = flops_per_token(config.model, training.dataset.seq_len)
        self._tokens = 0
        self._loss: float | None = None
        self._micro_batch = _micro_batch(training)
        self._clock = time.perf_counter()

    def run(self) -> TrainReport:
        """Step after step; whatever ends it, what was reached is saved first."""
        training, started = self._training, time.perf_counter()
        with ExitStack() as stack:
            self._metrics = stack.enter_context(MetricsFile(self._folder.metrics, training.step))
            if training.config.train.tensorboard:
                board = stack.enter_context(TensorBoard(self._folder.tensorboard, training.step))
                self._sinks.append(board.write)
            try:
                self._go_on()
            except (TrainingError, DataError):
                self._save()
                raise
            self._save()
        plot = plot_loss(self._folder.metrics, self._folder.plot)
        if training.step < self._steps:
            raise Cancelled(
                f"stopped after step {training.step} of {self._steps}, saved in {self._saved}"
                f"{self._saved_how}; run the same command again to go on"
            )
        return self._report(time.perf_counter() - started, plot)

    def _go_on(self) -> None:
        training = self._training
        every = training.config.train.checkpoint_every
        if training.step >= self._steps:
            return
        batches = open_loader(training.dataset, training.device)
        self._clock = time.perf_counter()
        while training.step < self._steps and not self._stop.requested:
            self._one_step(batches)
            if every and training.step % every == 0:
                self._save()

    def _one_step(self, batches: Iterator[TorchBatch]) -> None:
        training, config = self._training, self._training.config
        waiting = time.perf_counter()
        batch = next(batches)
        stall_s = time.perf_counter() - waiting
        if batch.step != training.step:
            raise InternalError(f"the dataset gave batch {batch.step} where {training.step} was due")
        rows = config.train.micro_batch_size
        gradients = forward_backward(self._micro_batch, training.optimizer, batch, rows)
        lr = learning_rate(training.step, config.optimizer, self._phases)
        documents = self._update(gradients, lr)
        training.step += 1
        self._tell(self._event(gradients, lr, stall_s, documents))

    def _update(self, gradients: Gradients, lr: float) -> tuple[int, ...]:
        """Move weights and router biases, or skip; then the documents of the batch are given."""
        training, config = self._training, self._training.config
        documents: tuple[int, ...] = ()
        if gradients.finite:
            training.optimizer.step(lr, clip_coefficient(gradients.norm, config.optimizer.clip_norm))
            training.model.update_router_bias(gradients.expert_counts, config.train.router_bias_speed)
            self._loss = gradients.loss
            self._tokens += gradients.tokens
        else:
            documents = documents_of(training.dataset, training.step)
            self._guard.skip(training.step, gradients.loss, gradients.norm, documents)
        training.optimizer.zero_grad(in_place=training.device.type == "cuda")
        return documents

    def _event(
        self, gradients: Gradients, lr: float, stall_s: float, documents: tuple[int, ...]
    ) -> StepEvent:
        step_s = self._lap()
        return StepEvent(
            step=self._training.step - 1,
            steps=self._steps,
            loss=gradients.loss,
            mtp_loss=gradients.mtp_loss,
            balance_loss=gradients.balance_loss,
            grad_norm=gradients.norm,
            lr=lr,
            tokens=gradients.tokens,
            tokens_per_s=gradients.tokens / step_s,
            mfu=self._mfu(gradients.tokens / step_s),
            data_stall_s=stall_s,
            step_s=step_s,
            expert_load=gradients.expert_load,
            skipped=not gradients.finite,
            documents=documents,
        )

    def _lap(self) -> float:
        """Seconds since the last step was known: what a step costs, whatever overlaps."""
        now = time.perf_counter()
        step_s, self._clock = now - self._clock, now
        return step_s

    def _mfu(self, tokens_per_s: float) -> float | None:
        if self._peak_flops_per_s is None:
            return None
        return tokens_per_s * self._flops_per_token / self._peak_flops_per_s

    def _tell(self, event: StepEvent) -> None:
        self._metrics.write(event)
        if event.step % self._training.config.train.log_every == 0 or event.step == self._steps - 1:
            for sink in self._sinks:
                sink(event)

    def _save(self) -> None:
        """A checkpoint of the step reached, unless there is one."""
        if self._saved_step == self._training.step:
            return
        self._metrics.sync()
        if self._stop.requested:
            log.warning("stopping: saving step %d; a second signal stops at once", self._training.step)
        started = time.perf_counter()
        self._saved, self._saved_step = save(self._training, self._folder.checkpoints), self._training.step
        # What a save costs belongs to no step.
        self._clock = time.perf_counter()
        size = sum(path.stat().st_size for path in self._saved.iterdir())
        self._saved_how = f" ({size / 1e6:,.1f} MB in {self._clock - started:.1f} s)"
        log.info("saved %s%s", self._saved, self._saved_how)

    def _report(self, seconds: float, plot: Path | None) -> TrainReport:
        training = self._training
        assert self._saved is not None
        return TrainReport(
            out=self._folder.path,
            steps=training.step,
            first_step=self._first_step,
            skipped_steps=self._guard.skipped_steps,
            loss=self._loss,
            tokens=self._tokens,
            seconds=seconds,
            tokens_per_s=self._tokens / seconds,
            parameters=sum(p.numel() for p in training.model.parameters()),
            precision=training.precision,
            device=str(training.device),
            checkpoint=self._saved,
            metrics=self._folder.metrics,
            plot=plot,
        )
