"""The Rust extension: what crosses the boundary. `penstock.tokenizer` and `penstock.data` are its face."""

from typing import Final, Protocol, final, type_check_only

import numpy as np
from numpy.typing import NDArray

from penstock.jobs import Job

__all__ = [
    "Dataset",
    "Stream",
    "Tokenizer",
    "WordCounts",
    "_panic_for_tests",
    "encode_files",
    "pack",
    "to_list",
    "to_lists",
    "train_on_counts",
    "train_on_files",
    "unicode_version",
]

unicode_version: Final[str]

@final
class Tokenizer:
    @staticmethod
    def from_file(path: str, pattern: str | None, cache: str | None) -> Tokenizer: ...
    @staticmethod
    def from_json(text: str) -> Tokenizer: ...
    def save(self, path: str) -> None: ...
    def prefix(self, vocab_size: int) -> Tokenizer: ...
    def to_json(self) -> str: ...
    @staticmethod
    def from_sentencepiece(model: bytes) -> Tokenizer: ...
    def to_bytes(self) -> bytes | None:
        """None for what came from a SentencePiece model."""
    @staticmethod
    def from_bytes(content: bytes) -> Tokenizer: ...
    def sentencepiece_model(self) -> bytes | None: ...
    def encode(self, text: str, allowed: list[str] | None) -> NDArray[np.uint32]:
        """``allowed`` None allows every special token."""
    def encode_to_list(self, text: str, allowed: list[str] | None) -> list[int]: ...
    def encode_batch(
        self, texts: list[str], allowed: list[str] | None, threads: int | None
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]: ...
    def encode_varied(
        self,
        texts: list[str],
        allowed: list[str] | None,
        boundary_split: float,
        dropout: float,
        seed: int,
        threads: int | None,
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]: ...
    def encode_with_offsets(
        self, text: str, allowed: list[str] | None, characters: bool
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Ids, and start and end of each, end to end."""
    def cut_of_start(self, start: str, allowed: list[str] | None) -> int | None:
        """Up to how many characters the ids of a longer text that begins with ``start`` are known."""
    def count_tokens(self, text: str) -> int: ...
    def decode_bytes(self, ids: list[int] | NDArray[np.uint32]) -> bytes: ...
    def decode(self, ids: list[int] | NDArray[np.uint32], errors: str) -> str: ...
    def token_to_id(self, token: bytes) -> int | None: ...
    def id_to_bytes(self, token_id: int) -> bytes | None: ...
    def special_tokens(self) -> list[tuple[str, int]]: ...
    def merges(self) -> list[tuple[bytes, bytes]]: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def eot_id(self) -> int | None: ...
    @property
    def pattern(self) -> str: ...
    @property
    def sha256(self) -> str: ...

def to_list(ids: NDArray[np.uint32]) -> list[int]:
    """``ids.tolist()``, with numbers that are shared."""

def to_lists(ids: NDArray[np.uint32], offsets: NDArray[np.int64]) -> list[list[int]]:
    """The same of each part of ``ids`` between two neighbours of ``offsets``."""

@type_check_only
class TrainingRequest(Protocol):
    """What to train; see ``Tokenizer.train``."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def pattern(self) -> str: ...
    @property
    def special_tokens(self) -> list[str]: ...
    @property
    def min_frequency(self) -> int: ...
    @property
    def max_token_bytes(self) -> int | None: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def max_memory(self) -> int | None: ...
    @property
    def spill_folder(self) -> str | None: ...
    @property
    def weights(self) -> dict[str, int]: ...
    @property
    def max_bytes(self) -> int: ...
    @property
    def extend(self) -> Tokenizer | None: ...
    @property
    def counts(self) -> list[str]: ...
    @property
    def save_counts(self) -> str | None: ...
    @property
    def word_share(self) -> float | None: ...

@final
class WordCounts:
    def __new__(cls, request: TrainingRequest) -> WordCounts: ...
    def add(self, texts: list[str]) -> bool:
        """Count; False once ``max_bytes`` (0: no limit) are counted."""

def train_on_files(paths: list[str], text_field: str, request: TrainingRequest) -> Job[tuple[Tokenizer, str]]:
    """The tokenizer, and the report as JSON."""

def train_on_counts(counts: WordCounts, request: TrainingRequest) -> Job[tuple[Tokenizer, str]]:
    """The same; takes the counts out of ``counts``."""

def encode_files(
    paths: list[str],
    tokenizer: Tokenizer,
    text_field: str,
    max_line_bytes: int,
    end_of_text: bool,
    boundary_split: float,
    dropout: float,
    seed: int,
    threads: int | None,
) -> Job[tuple[NDArray[np.uint32], NDArray[np.int64]]]: ...
def pack(
    paths: list[str],
    tokenizer: Tokenizer,
    out: str,
    seq_len: int,
    mtp_depth: int,
    mode: str,
    seed: int,
    boundary_split: float,
    compression: str,
    shard_bytes: int,
    threads: int | None,
    text_field: str,
    on_bad_line: str,
    max_line_bytes: int,
) -> Job[str]:
    """The report as JSON."""

@final
class Dataset:
    @staticmethod
    def open(path: str) -> Dataset: ...
    def manifest(self) -> str:
        """manifest.json, as written."""
    def row(self, index: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint64]]:
        """Tokens, document ends and document ids of a row."""
    def documents(self, doc_ids: list[int]) -> str:
        """The records of these documents as a JSON list."""
    def verify(self) -> None: ...
    def sample_row(self, seed: int, epoch: int, k: int) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def seq_len(self) -> int: ...
    @property
    def lookahead(self) -> int: ...

@final
class Stream:
    def __new__(
        cls,
        dataset: Dataset,
        global_batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        prefetch_batches: int,
        state: str | None,
    ) -> Stream: ...
    def next(
        self, timeout_seconds: float
    ) -> tuple[int, NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.uint64]] | None:
        """Step, tokens [n, seq_len + lookahead], positions [n, seq_len], document ends end to end and their
        offsets [n + 1]; None when nothing came in time. Memory is used again once the arrays are freed."""
    def state(self) -> str:
        """Of the batch that comes next, as JSON."""

def _panic_for_tests() -> None: ...
