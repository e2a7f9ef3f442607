"""From raw text to a trained MoE + MTP model: a Rust tokenizer and packer, and FP8 training in Triton.

>>> import penstock
>>> tok = penstock.Tokenizer.train(["corpus.jsonl.zst"], vocab_size=128_000)
>>> penstock.pack(["corpus.jsonl.zst"], tokenizer=tok, seq_len=4096, out="packed/")
>>> for batch in penstock.StreamingDataset("packed/", global_batch_size=8): ...

Names are loaded on first use: importing penstock imports neither torch nor pyarrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from penstock.errors import (
    Cancelled,
    CheckpointError,
    ConfigError,
    CorruptionError,
    DataError,
    DecodeError,
    HardwareError,
    InputError,
    InternalError,
    PenstockError,
    TokenizerError,
    TrainingError,
)

if TYPE_CHECKING:
    from penstock import evaluate, generate, interop, kernels, model, pipelines, train
    from penstock._core import unicode_version
    from penstock.data import Batch, PackReport, StreamingDataset, pack
    from penstock.decoding import StreamDecoder
    from penstock.tokenizer import TokenBatch, Tokenizer

__version__ = "0.1.0"

_OBJECTS = {
    "Batch": "penstock.data",
    "PackReport": "penstock.data",
    "StreamDecoder": "penstock.decoding",
    "StreamingDataset": "penstock.data",
    "TokenBatch": "penstock.tokenizer",
    "Tokenizer": "penstock.tokenizer",
    "pack": "penstock.data",
    "unicode_version": "penstock._core",
}
_MODULES = {"evaluate", "generate", "interop", "kernels", "model", "pipelines", "train"}

__all__ = [
    "Batch",
    "Cancelled",
    "CheckpointError",
    "ConfigError",
    "CorruptionError",
    "DataError",
    "DecodeError",
    "HardwareError",
    "InputError",
    "InternalError",
    "PackReport",
    "PenstockError",
    "StreamDecoder",
    "StreamingDataset",
    "TokenBatch",
    "Tokenizer",
    "TokenizerError",
    "TrainingError",
    "evaluate",
    "generate",
    "interop",
    "kernels",
    "model",
    "pack",
    "pipelines",
    "train",
    "unicode_version",
]


def __getattr__(name: str) -> Any:
    if name in _OBJECTS:
        return getattr(importlib.import_module(_OBJECTS[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"penstock.{name}")
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
