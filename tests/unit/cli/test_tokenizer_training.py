"""The options of ``penstock tokenizer train`` beyond a size."""

from __future__ import annotations

from pathlib import Path

import pytest

import penstock as package

from .conftest import penstock


def test_counts_sizes_and_extension(corpus: Path, tmp_path: Path) -> None:
    train = ["tokenizer", "train"]
    saved, first = tmp_path / "saved.counts", tmp_path / "first"
    sizes = ["--vocab-size", "400", "--also-size", "300", "--also-size", "350"]
    ended = penstock(
        *train, corpus, *sizes, "--save-counts", saved, "--max-memory", "1G", "-o", first, "--json"
    )
    assert ended.code == 0
    assert ended.json["also"] == [str(first / "300"), str(first / "350")]
    assert ended.json["training"]["sampling"] is None
    again = penstock(*train, "--counts", saved, "--vocab-size", "350", "-o", tmp_path / "again", "--json")
    assert again.json["sha256"] == package.Tokenizer.from_file(first / "350").sha256
    options = ["--extend", first / "350", "--vocab-size", "400", "-o", tmp_path / "grown", "--json"]
    grown = penstock(*train, corpus, *options)
    assert grown.json["sha256"] == ended.json["sha256"]


def test_superbpe_and_reserved_tokens(corpus: Path, tmp_path: Path) -> None:
    options = ["--superbpe", "0.9", "--reserved", "2", "--vocab-size", "500", "-o", tmp_path / "tok"]
    assert penstock("tokenizer", "train", corpus, *options).code == 0
    tok = package.Tokenizer.from_file(tmp_path / "tok")
    assert list(tok.special_tokens) == ["<|endoftext|>", "<|reserved_0|>", "<|reserved_1|>"]
    assert tok.decode(tok.encode("a line of text\n")) == "a line of text\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-memory", "much"], "max_memory"),
        (["--max-memory", "1G", "--spill-dir", "missing"], "missing: cannot write counts"),
        (["--weight", "en"], "SOURCE=N"),
        (["--weight", "nowhere=2"], "nowhere"),
        (["--counts", "missing.counts"], "missing.counts"),
        (["--superbpe", "1.5"], "share"),
        (["--superbpe", "0.5", "--save-counts", "x.counts"], "superbpe"),
    ],
)
def test_what_cannot_be_done_is_said(options: list[str], words: str, corpus: Path, tmp_path: Path) -> None:
    ended = penstock("tokenizer", "train", corpus, "--vocab-size", "400", "-o", tmp_path / "tok", *options)
    assert ended.code == 1
    assert words in ended.err
    assert not (tmp_path / "tok").exists()


def test_no_text_at_all_is_a_wrong_command_line(tmp_path: Path) -> None:
    ended = penstock("tokenizer", "train", "-o", tmp_path / "tok")
    assert ended.code == 2
    assert "--counts" in ended.err


def test_a_size_beyond_the_largest_is_refused_before_training(tmp_path: Path) -> None:
    sizes = ["--vocab-size", "400", "--also-size", "401"]
    ended = penstock("tokenizer", "train", tmp_path / "missing.txt", *sizes, "-o", tmp_path / "tok")
    assert ended.code == 2
    assert "401 is larger than" in ended.err


def test_a_size_that_cannot_be_does_not_cost_the_others(corpus: Path, tmp_path: Path) -> None:
    sizes = ["--vocab-size", "400", "--also-size", "100"]
    ended = penstock("tokenizer", "train", corpus, *sizes, "-o", tmp_path / "tok")
    assert ended.code == 1
    assert "cannot be cut to 100" in ended.err
    assert package.Tokenizer.from_file(tmp_path / "tok").vocab_size == 400
