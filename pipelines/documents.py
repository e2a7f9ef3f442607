"""Documents read in Python: for held-out text and for setting it aside. Packing reads files in Rust.

The same formats as the packer's: .jsonl .ndjson .json .txt, plain, .gz or .zst, and .parquet .arrow.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from penstock.errors import InputError

__all__ = ["Document", "expand_paths", "read_documents"]

LINE_SUFFIXES = {".jsonl", ".ndjson", ".json"}
TABLE_SUFFIXES = {".parquet", ".arrow"}
PACKED_SUFFIXES = {".gz", ".zst"}
SUFFIXES = LINE_SUFFIXES | TABLE_SUFFIXES | {".txt"}
CHUNK_BYTES = 1 << 17
"""Small: a hostile frame makes thousands of bytes of each."""


@dataclass(frozen=True)
class Document:
    """A text and where it comes from."""

    text: str
    source: str | None = None
    id: str | None = None


def expand_paths(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given; a folder stands for the readable files below it, in order of their names.

    Raises
    ------
    InputError
        A path is not there, or a folder holds nothing readable.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.is_file() and _suffix(p) in SUFFIXES]
            if not inside:
                raise InputError(f"{path}: no .jsonl, .txt, .parquet or .arrow file in this folder")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    return found


def read_documents(paths: Iterable[str | Path], text_field: str = "text") -> Iterator[Document]:
    """Documents of several files, in order.

    Raises
    ------
    InputError
        A file is missing, cut, not UTF-8, or a line has no text; the message names file and place.
    """
    for path in expand_paths(paths):
        suffix = _suffix(path)
        if suffix in TABLE_SUFFIXES:
            yield from _rows(path, text_field)
        elif suffix in LINE_SUFFIXES:
            yield from _lines(path, text_field)
        else:
            with _opened(path) as file:
                yield Document(_decoded(file.read(), f"{path}"), id=path.name)


def _suffix(path: Path) -> str:
    """The suffix that tells the format, that of a compression left aside."""
    return Path(path.stem).suffix if path.suffix in PACKED_SUFFIXES else path.suffix


def _lines(path: Path, text_field: str) -> Iterator[Document]:
    with _opened(path) as file:
        for number, raw in enumerate(file, 1):
            place = f"{path}, line {number}"
            line = _decoded(raw, place).strip()
            if not line:
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{place}: not a JSON object: {error}") from error
            yield _document(record, text_field, place)


def _document(record: Any, text_field: str, place: str) -> Document:
    if not isinstance(record, dict) or not isinstance(record.get(text_field), str):
        keys = f"; its keys are {', '.join(sorted(record))}" if isinstance(record, dict) else ""
        raise InputError(
            f"{place}: no text under {text_field!r}{keys}; "
            "name the right one with --text-field (corpus.text_field)"
        )
    source, own_id = record.get("source"), record.get("id")
    return Document(
        record[text_field],
        source if isinstance(source, str) else None,
        str(own_id) if isinstance(own_id, str | int) else None,
    )


def _rows(path: Path, text_field: str) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        if path.suffix == ".parquet":
            batches: Iterable[Any] = pyarrow.parquet.ParquetFile(path).iter_batches()
        else:
            reader = pyarrow.ipc.open_file(path)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        number = 0
        for batch in batches:
            for record in batch.to_pylist():
                yield _document(record, text_field, f"{path}, row {number}")
                number += 1
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes without its compression; a cut one is an error, not a shorter file."""
    try:
        with path.open("rb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=raw) as plain:
                    yield plain  # type: ignore[misc]
            elif path.suffix == ".zst":
                yield io.BufferedReader(_ZstdFrames(raw, path), CHUNK_BYTES)
            else:
                yield raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: cut or damaged gzip data: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


class _ZstdFrames(io.RawIOBase):
    """One zstd frame after another. The library's own reader takes a cut file for a shorter one."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise InputError(
                f"{path}: reading .zst for held-out text needs zstandard: pip install zstandard"
            ) from error
        self._file, self._path = file, path
        self._zstandard = zstandard
        self._frame: Any = None
        self._ready = memoryview(b"")
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            raw = self._rest or self._file.read(CHUNK_BYTES)
            self._rest = b""
            if not raw:
                if self._frame is not None:
                    raise InputError(f"{self._path}: cut inside a zstd frame: fetch the file again")
                return 0
            self._ready = memoryview(self._decompressed(raw))
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _decompressed(self, raw: bytes) -> bytes:
        if self._frame is None:
            self._frame = self._zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        try:
            out: bytes = self._frame.decompress(raw)
        except self._zstandard.ZstdError as error:
            raise InputError(f"{self._path}: damaged zstd data: {error}") from error
        if self._frame.eof:
            self._rest, self._frame = self._frame.unused_data, None
        return out


def _decoded(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8-sig" if raw[:1] == b"\xef" else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8 at byte {error.start}") from error
