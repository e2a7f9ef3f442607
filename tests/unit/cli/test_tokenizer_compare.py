"""``penstock tokenizer compare`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import penstock


def test_a_table_a_page_and_a_picture(tokenizer: Path, corpus: Path, tmp_path: Path) -> None:
    other, page, png = tmp_path / "other", tmp_path / "new/report.html", tmp_path / "plots.png"
    assert penstock("tokenizer", "train", corpus, "--vocab-size", "900", "-o", other).code == 0
    arguments = ["tokenizer", "compare", tokenizer, f"large={other}", "--corpus", corpus]
    ended = penstock(*arguments, "--out", page, "--png", png)
    assert ended.code == 0, ended.err
    for words in ("tok", "large", "even", "odd", "bytes a token", "│"):
        assert words in ended.out
    assert "<h1>Tokenizers side by side</h1>" in page.read_text()
    assert png.stat().st_size > 10_000
    found = penstock(*arguments, "--json").json
    assert [t["name"] for t in found["tokenizers"]] == ["tok", "large"]
    assert found["tokenizers"][1]["tokens_against_first"]["high"] < 1
    assert sorted(source["name"] for source in found["sources"]) == ["even", "odd"]


def test_documents_without_a_source_are_named_by_their_file(tokenizer: Path, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("some words " * 50)
    found = penstock("tokenizer", "compare", tokenizer, "--corpus", tmp_path, "--json").json
    assert sorted(source["name"] for source in found["sources"]) == ["a.txt", "b.txt"]


def test_mistakes_are_messages(tokenizer: Path, corpus: Path, tmp_path: Path) -> None:
    for arguments, kind, words in (
        ([tokenizer, "--corpus", tmp_path / "none.jsonl"], "InputError", "none.jsonl"),
        ([tokenizer, corpus, "--corpus", corpus], "ConfigError", "a text, not a tokenizer"),
        ([tokenizer, "--corpus", corpus, "--out", "x.pdf"], "ConfigError", "ends in .html"),
        ([tmp_path / "none", "--corpus", corpus], "TokenizerError", "none"),
        ([tokenizer, "--corpus", corpus, "--threads", "0"], "ConfigError", "threads=0"),
    ):
        ended = penstock("tokenizer", "compare", *arguments, "--json")
        event = json.loads(ended.err.splitlines()[-1])
        assert (ended.code, ended.out, event["type"]) == (1, "", kind)
        assert words in event["message"]
    mistyped = penstock("tokenizer", "compare", tokenizer, "--corpos", corpus)
    assert mistyped.code == 2
    assert "--corpus" in mistyped.err
