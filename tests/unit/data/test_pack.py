"""Nothing is lost, nothing is there twice, other programs read it, the bytes depend on the input alone."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

import penstock

SEQ_LEN = 64
Rebuild = Callable[[Path, int], list[list[int]]]


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_every_token_of_every_document_comes_back(
    packed: tuple[Path, penstock.PackReport],
    documents: list[str],
    tokenizer: penstock.Tokenizer,
    rebuild: Rebuild,
) -> None:
    path, report = packed
    wanted = sorted([*tokenizer.encode(text), tokenizer.eot_id] for text in documents)
    assert sorted(rebuild(path, SEQ_LEN)) == wanted
    assert report.documents == len(documents)
    assert report.tokens == sum(map(len, wanted))
    assert report.text_bytes == sum(len(text.encode()) for text in documents)
    assert sum(s.tokens for s in report.by_source.values()) == report.tokens
    assert set(report.by_source) == {"label-0", "label-1"}
    longer = sum(len(ids) > SEQ_LEN + 1 for ids in wanted)
    assert report.cut_documents == longer, "best-fit cuts only what is longer than a row"
    assert report.pad_tokens < 0.05 * report.rows * SEQ_LEN


def test_pyarrow_reads_the_shards(packed: tuple[Path, penstock.PackReport]) -> None:
    path, report = packed
    shards = sorted((path / "shards").glob("*.arrow"))
    assert len(shards) == report.shards >= 3
    rows = 0
    for shard in shards:
        table = pyarrow.ipc.open_file(shard).read_all()
        rows += len(table)
        assert table.schema.field("tokens").type == pyarrow.list_(
            pyarrow.field("item", pyarrow.uint32(), nullable=False), SEQ_LEN + 2
        )
        assert table.schema.field("xxh3").type == pyarrow.uint64()
    assert rows == report.rows


def test_hf_datasets_reads_the_shards(packed: tuple[Path, penstock.PackReport]) -> None:
    datasets = pytest.importorskip("datasets")
    path, _ = packed
    shard = sorted((path / "shards").glob("*.arrow"))[0]
    table = pyarrow.ipc.open_file(shard).read_all()
    assert len(datasets.Dataset(table)[0]["tokens"]) == SEQ_LEN + 2


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_the_same_bytes_for_any_threads(
    packed: tuple[Path, penstock.PackReport],
    corpus: list[Path],
    tokenizer: penstock.Tokenizer,
    tmp_path: Path,
    threads: int,
) -> None:
    out = tmp_path / "again"
    penstock.pack(
        corpus[::-1], tokenizer=tokenizer, seq_len=SEQ_LEN, out=out, shard_bytes=60_000, threads=threads
    )
    assert hashes(out) == hashes(packed[0])


def test_a_second_call_does_nothing(
    packed: tuple[Path, penstock.PackReport], corpus: list[Path], tokenizer: penstock.Tokenizer
) -> None:
    path, report = packed
    before = hashes(path)
    again = penstock.pack(corpus, tokenizer=tokenizer, seq_len=SEQ_LEN, out=path, shard_bytes=60_000)
    assert (again.tasks_done, again.tasks_reused) == (0, 3)
    assert (again.documents, again.rows) == (report.documents, report.rows)
    assert hashes(path) == before


def test_other_parameters_are_refused(
    packed: tuple[Path, penstock.PackReport], corpus: list[Path], tokenizer: penstock.Tokenizer
) -> None:
    with pytest.raises(penstock.DataError, match="seq_len"):
        penstock.pack(corpus, tokenizer=tokenizer, seq_len=32, out=packed[0])


def test_boundary_tokens_are_split_while_packing(tmp_path: Path, rebuild: Rebuild) -> None:
    texts = [f"{i}. First.\nSecond (it is so):\n\n- and a third;\n" for i in range(300)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    tok = penstock.Tokenizer.train(texts, vocab_size=400)
    plain = [[*tok.encode(text), tok.eot_id] for text in texts]
    for share, seed in ((0.0, 1), (0.4, 1), (0.4, 2), (1.0, 1)):
        out = tmp_path / f"{share}-{seed}"
        penstock.pack(path, tok, SEQ_LEN, out, seed, boundary_split=share)
        varied = tok.encode_batch(texts, boundary_split=share, seed=seed)
        assert sorted(rebuild(out, SEQ_LEN)) == sorted([*ids, tok.eot_id] for ids in varied.tolist())
        parameters = json.loads((out / "manifest.json").read_text())["parameters"]
        assert parameters.get("boundary_split_ppm", 0) == share * 1_000_000
        assert (sorted(rebuild(out, SEQ_LEN)) == sorted(plain)) == (share == 0)
    with pytest.raises(penstock.ConfigError, match="boundary_split"):
        penstock.pack(path, tok, SEQ_LEN, tmp_path / "none", boundary_split=2.0)


def test_another_tokenizer_is_refused(
    packed: tuple[Path, penstock.PackReport], corpus: list[Path], documents: list[str]
) -> None:
    other = penstock.Tokenizer.train(iter(documents), vocab_size=300)
    with pytest.raises(penstock.DataError, match="tokenizer"):
        penstock.pack(corpus, tokenizer=other, seq_len=SEQ_LEN, out=packed[0], shard_bytes=60_000)


def test_concatenate_pads_only_the_last_row_of_a_task(
    corpus: list[Path], tokenizer: penstock.Tokenizer, documents: list[str], tmp_path: Path, rebuild: Rebuild
) -> None:
    report = penstock.pack(
        corpus, tokenizer=tokenizer, seq_len=SEQ_LEN, out=tmp_path / "c", mode="concatenate"
    )
    assert report.pad_tokens < 3 * SEQ_LEN
    wanted = sorted([*tokenizer.encode(text), tokenizer.eot_id] for text in documents)
    assert sorted(rebuild(tmp_path / "c", SEQ_LEN)) == wanted


def test_a_special_string_in_a_document_gives_no_control_id(
    tokenizer: penstock.Tokenizer, tmp_path: Path, rebuild: Rebuild
) -> None:
    text = "before <|endoftext|> after"
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": text}) + "\n")
    penstock.pack([path], tokenizer=tokenizer, seq_len=SEQ_LEN, out=tmp_path / "p")
    (ids,) = rebuild(tmp_path / "p", SEQ_LEN)
    assert ids.count(tokenizer.eot_id) == 1
    assert tokenizer.decode(ids[:-1]) == text


@pytest.mark.parametrize("kind", ["txt", "jsonl.gz", "parquet", "arrow", "jsonl.zst"])
def test_every_kind_of_file_gives_the_same_tokens(
    kind: str, tokenizer: penstock.Tokenizer, tmp_path: Path, rebuild: Rebuild
) -> None:
    texts = ["only one text, with ünïcode\nand lines"] if kind == "txt" else ["one", "zwei\n", "三" * 100]
    path = tmp_path / f"x.{kind}"
    lines = "".join(json.dumps({"text": t}) + "\n" for t in texts).encode()
    if kind == "txt":
        path.write_text(texts[0], encoding="utf-8")
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines))
    elif kind == "jsonl.zst":
        path.write_bytes(pytest.importorskip("zstandard").compress(lines))
    else:
        table = pyarrow.table({"text": texts})
        if kind == "parquet":
            pyarrow.parquet.write_table(table, path)
        else:
            with pyarrow.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
    penstock.pack([path], tokenizer=tokenizer, seq_len=SEQ_LEN, out=tmp_path / "p")
    wanted = sorted([*tokenizer.encode(t), tokenizer.eot_id] for t in texts)
    assert sorted(rebuild(tmp_path / "p", SEQ_LEN)) == wanted


def bad_files() -> dict[str, tuple[str, bytes, str]]:
    line = json.dumps({"text": "fine"}).encode() + b"\n"
    cases = {
        "no text field": ("a.jsonl", line + b'{"body": "x"}\n', "line 2"),
        "not json": ("a.jsonl", line + b"{oops\n", "line 2"),
        "text is a number": ("a.jsonl", line + b'{"text": 3}\n', "line 2"),
        "not utf-8": ("a.jsonl", line + b'{"text": "\xff"}\n', "line 2"),
        "lone surrogate": ("a.jsonl", line + b'{"text": "\\ud800"}\n', "line 2"),
        "text file not utf-8": ("a.txt", b"abc\xff\xfe", "UTF-8"),
        "cut gzip": ("a.jsonl.gz", gzip.compress(line * 500)[:-20], r"cut|truncated|end"),
        "not parquet": ("a.parquet", b"PAR1 nothing", r"[Pp]arquet"),
    }
    try:
        import zstandard

        cases["cut zstd"] = ("a.jsonl.zst", zstandard.compress(line * 5000)[:-9], r"cut|truncated|end")
    except ImportError:
        pass
    return cases


@pytest.mark.parametrize("case", bad_files())
def test_bad_input_is_a_typed_error_and_leaves_no_manifest(
    case: str, tokenizer: penstock.Tokenizer, tmp_path: Path
) -> None:
    name, content, place = bad_files()[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(penstock.InputError, match=place) as caught:
        penstock.pack([path], tokenizer=tokenizer, seq_len=SEQ_LEN, out=tmp_path / "p")
    assert name in str(caught.value)
    assert not (tmp_path / "p/manifest.json").exists()
    with pytest.raises(penstock.DataError):
        penstock.StreamingDataset(tmp_path / "p")


def test_bad_lines_can_be_skipped_and_are_counted(tokenizer: penstock.Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"body": 1}\n{oops\n{"text": "two"}\n')
    report = penstock.pack([path], tokenizer=tokenizer, seq_len=16, out=tmp_path / "p", on_bad_line="skip")
    assert report.documents == 2
    assert sum(report.skipped.values()) == 2
    assert len(report.skipped) == 2


def test_a_missing_file_is_named(tokenizer: penstock.Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(penstock.InputError, match="no-such-file"):
        penstock.pack([tmp_path / "no-such-file.jsonl"], tokenizer=tokenizer, out=tmp_path / "p")


def test_two_documents_tables_answer_questions(packed: tuple[Path, penstock.PackReport]) -> None:
    dataset = penstock.StreamingDataset(packed[0], global_batch_size=4, seed=1)
    found = dataset.documents_of_step(5)
    assert found
    by_file: dict[str, set[int]] = defaultdict(set)
    for record in found:
        assert record["id"] == f"doc:{3 * record['ordinal'] + int(record['file'].split('-')[1][0])}"
        by_file[record["file"]].add(record["ordinal"])
    assert sum(map(len, by_file.values())) == len(found)
