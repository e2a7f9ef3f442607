"""The corpus stage: which files are trained on, and which are never.

Files that come with held-out files of their own are used where they lie. Otherwise the documents are
written once into the run's folder, a share of them set aside by the hash of their ids.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from penstock.config import CorpusConfig
from penstock.errors import ConfigError, InputError
from penstock.pipelines.documents import Document, expand_paths, read_documents
from penstock.pipelines.machine_text import machine_text
from penstock.report.progress import Update, View

__all__ = ["input_facts", "is_held_out", "prepare_corpus"]

HELDOUT_FILE = "heldout.jsonl"
FILE_BYTES = 64 << 20
"""Text a written file; the packer works on files in parallel."""
REPORT_DOCUMENTS = 256


def input_facts(config: CorpusConfig) -> list[list[Any]]:
    """What tells one corpus from another without reading it: each file's path, size and time."""
    paths = expand_paths([*config.paths, *config.heldout_paths])
    return [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]


def prepare_corpus(config: CorpusConfig, folder: Path, view: View) -> dict[str, Any]:
    """Decide on training and held-out files, writing them to ``folder`` where that is needed.

    Returns
    -------
    dict
        ``train`` and ``heldout``: lists of paths; ``written`` and what it holds, if anything was written.

    Raises
    ------
    InputError
        A file cannot be read, or there is no text.
    ConfigError
        Nothing was set aside.
    """
    heldout = [str(p) for p in expand_paths(config.heldout_paths)]
    if config.paths and heldout and not config.max_bytes:
        return {"train": [str(p) for p in expand_paths(config.paths)], "heldout": heldout, "written": False}
    folder.mkdir(parents=True, exist_ok=True)
    split = _Split(folder, 0.0 if heldout else config.heldout_fraction, config.text_field)
    with split:
        for document in _documents(config):
            if config.max_bytes and split.text_bytes >= config.max_bytes:
                break
            split.add(document)
            if split.documents % REPORT_DOCUMENTS == 0:
                view.update(Update("corpus", split.text_bytes, config.max_bytes, "B", split.seconds()))
    if not split.train_files:
        raise InputError(f"{', '.join(config.paths) or 'this machine'}: there is no text to train on")
    if not heldout and not split.heldout_bytes:
        raise ConfigError(
            f"corpus.heldout_fraction={config.heldout_fraction} set none of {split.documents} documents "
            "aside: raise it, or name files in corpus.heldout_paths"
        )
    return {
        "train": split.train_files,
        "heldout": heldout or [str(folder / HELDOUT_FILE)],
        "written": True,
        "documents": split.documents,
        "text_bytes": split.text_bytes,
        "heldout_bytes": split.heldout_bytes,
    }


def is_held_out(document: Document, fraction: float) -> bool:
    """By hash of the id, or of the text where there is none: the same on every machine and run."""
    key = document.id if document.id is not None else document.text
    # The salt keeps the draw apart from other uses of the same hash, such as an order of documents.
    draw = int.from_bytes(hashlib.sha256(b"held out\0" + key.encode()).digest()[:8], "big")
    return draw < fraction * 2**64


def _documents(config: CorpusConfig) -> Iterator[Document]:
    if config.paths:
        return read_documents(config.paths, config.text_field)
    return machine_text()


@dataclass
class _Split:
    """Writes documents to numbered training files and one held-out file."""

    folder: Path
    fraction: float
    text_key: str
    """The name of the text field, as in the input, so that one setting serves both."""
    documents: int = 0
    text_bytes: int = 0
    heldout_bytes: int = 0
    train_files: list[str] = field(default_factory=list)

    def __enter__(self) -> _Split:
        self._began = time.monotonic()
        self._stack = ExitStack()
        self._train: IO[str] | None = None
        self._train_bytes = 0
        self._heldout = self._open(HELDOUT_FILE)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def add(self, document: Document) -> None:
        if not document.text:
            return
        size = len(document.text.encode())
        self.documents += 1
        self.text_bytes += size
        if is_held_out(document, self.fraction):
            self.heldout_bytes += size
            self._write(self._heldout, document)
            return
        if self._train is None or self._train_bytes >= FILE_BYTES:
            name = f"train-{len(self.train_files):05d}.jsonl"
            self._train, self._train_bytes = self._open(name), 0
            self.train_files.append(str(self.folder / name))
        self._train_bytes += size
        self._write(self._train, document)

    def _open(self, name: str) -> IO[str]:
        return self._stack.enter_context((self.folder / name).open("w", encoding="utf-8", newline="\n"))

    def _write(self, file: IO[str], document: Document) -> None:
        record = {self.text_key: document.text, "source": document.source, "id": document.id}
        file.write(json.dumps({k: v for k, v in record.items() if v is not None}, ensure_ascii=False) + "\n")
