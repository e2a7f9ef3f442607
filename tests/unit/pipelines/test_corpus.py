"""Documents in, training and held-out files out; bad input named by file and place."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest

from penstock.config import CorpusConfig
from penstock.errors import ConfigError, InputError
from penstock.pipelines.corpus import prepare_corpus
from penstock.pipelines.documents import Document, read_documents
from penstock.pipelines.machine_text import machine_text
from penstock.report.progress import LineView

LINES = [{"text": f"text {i} é🙂", "source": "even" if i % 2 else "odd", "id": i} for i in range(200)]
RAW = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in LINES).encode()
WANTED = [Document(str(line["text"]), str(line["source"]), str(line["id"])) for line in LINES]


def prepare(config: CorpusConfig, folder: Path) -> dict[str, object]:
    return prepare_corpus(config, folder, LineView(io.StringIO()))


def texts(paths: object) -> list[str]:
    assert isinstance(paths, list)
    return [document.text for document in read_documents(paths)]


def test_every_format_gives_the_same_documents(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet
    import zstandard

    table = pyarrow.Table.from_pylist(LINES)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pyarrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=64)
    (tmp_path / "a.jsonl").write_bytes(RAW.replace(b"\n", b"\r\n\n"))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(RAW[:1000]) + gzip.compress(RAW[1000:]))
    half = zstandard.compress(RAW[:1000])
    (tmp_path / "a.jsonl.zst").write_bytes(half + zstandard.compress(RAW[1000:]))
    for path in sorted(tmp_path.iterdir()):
        assert list(read_documents([path])) == WANTED, path.name
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfone\ntwo")
    assert [d.text for d in read_documents([tmp_path / "b.txt"])] == ["one\ntwo"]


@pytest.mark.parametrize("size", [1, 5, 400, -5, -1])
@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_cut_file_is_an_error_and_not_a_shorter_file(tmp_path: Path, kind: str, size: int) -> None:
    import zstandard

    whole = gzip.compress(RAW) if kind == "gz" else zstandard.compress(RAW)
    path = tmp_path / f"cut.jsonl.{kind}"
    path.write_bytes(whole[:size])
    with pytest.raises(InputError, match=r"cut\.jsonl"):
        list(read_documents([path]))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"text": "a"}\n{"body": "b"}\n', "line 2: no text under 'text'; its keys are body"),
        (b'{"text": 5}\n', "line 1: no text"),
        (b'{"text": "a"}\n\xff\n', "line 2: not UTF-8 at byte 0"),
        (b'{"text": "a"\n', "line 1: not a JSON object"),
        (b"[" * 100_000, "line 1: not a JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, raw: bytes, expected: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=expected):
        list(read_documents([path]))


def test_a_share_is_set_aside_by_id_whatever_the_order(tmp_path: Path) -> None:
    forward, backward = tmp_path / "f.jsonl", tmp_path / "b.jsonl"
    forward.write_bytes(RAW)
    backward.write_bytes(b"".join(reversed(RAW.splitlines(keepends=True))))
    first = prepare(CorpusConfig(paths=(str(forward),), heldout_fraction=0.2), tmp_path / "one")
    second = prepare(CorpusConfig(paths=(str(backward),), heldout_fraction=0.2), tmp_path / "two")
    held = set(texts(first["heldout"]))
    assert held == set(texts(second["heldout"]))
    assert 20 <= len(held) <= 60
    train = texts(first["train"])
    assert not held & set(train)
    assert held | set(train) == {d.text for d in WANTED}


def test_files_with_held_out_files_are_used_where_they_lie(tmp_path: Path) -> None:
    path, held = tmp_path / "f.jsonl", tmp_path / "h.jsonl"
    path.write_bytes(RAW)
    held.write_bytes(b'{"text": "never seen"}\n')
    config = CorpusConfig(paths=(str(path),), heldout_paths=(str(held),))
    made = prepare(config, tmp_path / "out")
    assert made == {"train": [str(path)], "heldout": [str(held)], "written": False}
    assert not (tmp_path / "out").exists()


def test_an_empty_corpus_and_an_empty_share_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text('{"text": ""}\n')
    with pytest.raises(InputError, match="no text to train on"):
        prepare(CorpusConfig(paths=(str(path),)), tmp_path / "one")
    path.write_text('{"text": "only one"}\n')
    with pytest.raises(ConfigError, match="set none of 1 documents aside"):
        prepare(CorpusConfig(paths=(str(path),), heldout_fraction=1e-9), tmp_path / "two")
    with pytest.raises(InputError, match="no such file"):
        prepare(CorpusConfig(paths=(str(tmp_path / "absent"),)), tmp_path / "three")


def test_text_of_this_machine_is_in_a_fixed_order() -> None:
    first = list(machine_text())
    assert [d.id for d in machine_text()] == [d.id for d in first]
    assert {d.source for d in first} == {"python-code", "python-docs"}
    assert len({d.id for d in first}) == len(first)
    assert sum(len(d.text) for d in first) > 3_000_000


def test_a_cut_machine_corpus_keeps_text_to_train_on(tmp_path: Path) -> None:
    made = prepare(CorpusConfig(max_bytes=500_000, heldout_fraction=0.2), tmp_path)
    heldout_bytes, text_bytes = made["heldout_bytes"], made["text_bytes"]
    assert isinstance(heldout_bytes, int)
    assert isinstance(text_bytes, int)
    assert 0 < heldout_bytes < text_bytes / 2
    assert texts(made["train"])
