"""A run of seconds for the trainer's tests: a tiny model and a dataset in memory.

Run as a script it trains in a process of its own, which the tests kill.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from penstock.config import Config
from penstock.errors import DataError
from penstock.train import StepEvent, TrainReport, loop
from penstock.train.checkpoint import MODEL_FILE, load_tensors, newest_complete
from penstock.train.state import Training, model_tensors, save

# Sums are cut by thread, so bits are the same only for the same number of threads.
torch.set_num_threads(1)

VOCAB_SIZE, SEQ_LEN, EOT = 64, 24, 0

MODEL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.05,
    "num_nextn_predict_layers": 1,
}


@dataclass(frozen=True)
class Batch:
    """As ``penstock.data.loader.TorchBatch``."""

    tokens: Tensor
    positions: Tensor
    doc_ids: Tensor
    step: int


class MemoryDataset:
    """Rows that are a pure function of (seed, index): documents that count upwards by a fixed stride."""

    def __init__(
        self,
        global_batch_size: int = 4,
        seed: int = 0,
        seq_len: int = SEQ_LEN,
        lookahead: int = 2,
        vocab_size: int = VOCAB_SIZE,
    ) -> None:
        self.global_batch_size, self.seed, self.step = global_batch_size, seed, 0
        self.seq_len, self.lookahead, self.vocab_size = seq_len, lookahead, vocab_size
        self.eot_id, self.tokenizer_sha256 = EOT, "0" * 64

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batch = self.batch(self.step)
            self.step += 1
            yield batch

    def batch(self, step: int) -> Batch:
        first = step * self.global_batch_size
        rows = [self.row(first + slot) for slot in range(self.global_batch_size)]
        tokens, positions, doc_ids = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        return Batch(tokens, positions[:, : self.seq_len], doc_ids, step)

    def row(self, index: int) -> tuple[Any, Any, Any]:
        chance = np.random.default_rng([self.seed, index])
        width = self.seq_len + self.lookahead
        tokens, positions = np.full(width, EOT, np.int64), np.zeros(width, np.int64)
        doc_ids = np.full(width, -1, np.int64)
        start, document = 0, 0
        while start < width - 3:
            length = min(int(chance.integers(3, 14)), width - start)
            first, stride = chance.integers(1, VOCAB_SIZE), chance.integers(1, 4)
            body = 1 + (first + stride * np.arange(length - 1)) % (VOCAB_SIZE - 1)
            tokens[start : start + length] = [*body, EOT]
            positions[start : start + length] = np.arange(length)
            doc_ids[start : start + length] = document
            start, document = start + length, document + 1
        return tokens, positions, doc_ids

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": 1,
            "step": self.step,
            "seed": self.seed,
            "global_batch_size": self.global_batch_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if (state["seed"], state["global_batch_size"]) != (self.seed, self.global_batch_size):
            raise DataError("the state is of another seed or global batch size")
        self.step = int(state["step"])

    def documents_of_step(self, step: int) -> list[dict[str, Any]]:
        return [{"doc_id": 100 * step + slot} for slot in range(self.global_batch_size)]


def config(out: Path, *overrides: str) -> Config:
    """A recipe of 8 steps on the CPU; ``overrides`` are as on the command line."""
    sections = {
        "model": MODEL,
        "data": {"path": "in-memory", "global_batch_size": 4},
        "optimizer": {"lr": 1e-2, "min_lr": 1e-3, "warmup_steps": 2},
        "train": {"out": str(out), "steps": 8, "micro_batch_size": 2, "device": "cpu", "keep_checkpoints": 9},
    }
    return Config.from_mapping(sections, overrides)


def open_memory(recipe: Config) -> MemoryDataset:
    """In place of ``open_dataset``."""
    return MemoryDataset(recipe.data.global_batch_size, recipe.data.seed)


def use_memory_dataset(patch: Any, plot: bool = False) -> None:
    """Let ``run`` open a ``MemoryDataset``; ``patch`` is pytest's monkeypatch or ``setattr`` itself."""
    setattribute = getattr(patch, "setattr", patch)
    if not plot:
        setattribute(loop, "plot_loss", lambda metrics, target: None)
    setattribute(loop, "open_dataset", open_memory)
    setattribute(loop, "open_loader", lambda dataset, device: iter(dataset))


def losses(out: Path) -> list[str]:
    """Every step's numbers that training decides, to the last bit."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    names = ("loss", "mtp_loss", "balance_loss", "grad_norm", "lr")
    return [" ".join(float(line[name]).hex() for name in names) for line in lines]


def train(out: Path, *overrides: str, kill_after_step: int = -1, number: int = signal.SIGKILL) -> TrainReport:
    """Train in this process, which sends itself a signal once the step was told."""

    def progress(event: StepEvent) -> None:
        if event.step == kill_after_step:
            os.kill(os.getpid(), number)

    return loop.run(config(out, *overrides), progress)


def find_kill_points(out: Path) -> None:
    """Kill a save at each of its file operations; write which checkpoint each kill left as the newest."""
    training = loop._prepare(config(out))
    root = out / "checkpoints"
    save(training, root)
    newest: list[int] = []
    finished = False
    while not finished:
        # Child n saves step 1 in a copy of its own and dies before its n-th operation.
        copy = Path(shutil.copytree(root, out / f"kill-{len(newest)}"))
        child = os.fork()
        if child == 0:
            die_before_operation(len(newest), copy)
            training.step = 1
            with torch.no_grad():
                training.model.norm.weight.add_(1.0)
            save(training, copy)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        finished = os.WIFEXITED(status)
        newest.append(whole_checkpoint(training, copy))
    (out / "kill-points.json").write_text(json.dumps({"newest": newest, "finished": finished}))


def die_before_operation(number: int, root: Path) -> None:
    """SIGKILL this process before its ``number``-th operation on files below ``root``."""
    seen = itertools.count()

    def count() -> None:
        if next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.split(".")[0] in ("open", "os", "shutil") and any(str(root) in str(a) for a in arguments):
            count()

    fsync = os.fsync
    # No audit event tells of this one.
    os.fsync = lambda descriptor: (count(), fsync(descriptor))[1]  # type: ignore[assignment]
    sys.addaudithook(hook)


def whole_checkpoint(training: Training, root: Path) -> int:
    """The step of the newest complete checkpoint, once it has been loaded and found to be as written."""
    found = newest_complete(root)
    assert found is not None
    folder, state = found
    targets = model_tensors(training.model)
    expected = training.model.norm.weight.detach() + state.step
    fresh = {name: torch.empty_like(t) for name, t in targets.items()}
    load_tensors(folder / MODEL_FILE, fresh)
    assert torch.equal(fresh["norm.weight"], expected)
    return state.step


if __name__ == "__main__":
    use_memory_dataset(setattr)
    out, what, number, *overrides = sys.argv[1:]
    if what == "kill-points":
        find_kill_points(Path(out))
    else:
        train(Path(out), *overrides, kill_after_step=int(what), number=int(number))
