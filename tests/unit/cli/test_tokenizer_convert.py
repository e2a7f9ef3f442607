"""``penstock tokenizer convert`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

from penstock import Tokenizer

from .conftest import penstock


def test_to_ranks_and_back_to_a_folder(tokenizer: Path, tmp_path: Path) -> None:
    ranks, out, chat = tmp_path / "x.tiktoken", tmp_path / "out", tmp_path / "chat.jinja"
    chat.write_text("{{ messages[0]['content'] }}<|endoftext|>")
    first = penstock("tokenizer", "convert", tokenizer, ranks)
    assert (first.code, first.err) == (0, "")
    assert "note: a rank file does not say how text is split: load it with --pattern deepseek-v3" in first.out
    again = penstock(
        "tokenizer", "convert", ranks, out, "--pattern", "deepseek-v3", "--chat-template", chat, "--json"
    )
    assert again.json["vocab_size"] == 400
    assert (again.json["chat_template"], again.json["notes"]) == (True, [])
    assert (out / "chat_template.jinja").read_text() == chat.read_text()
    text = "def f(x):\n    return 1234"
    assert Tokenizer.from_file(out).encode(text) == Tokenizer.from_file(tokenizer).encode(text)


def test_a_split_without_a_name_is_not_called_one(corpus: Path, tmp_path: Path) -> None:
    split = ["--pattern", r"\p{L}+|\s+", "--vocab-size", "300"]
    assert penstock("tokenizer", "train", corpus, *split, "-o", tmp_path / "tok").code == 0
    ended = penstock("tokenizer", "convert", tmp_path / "tok", tmp_path / "x.tiktoken")
    assert ended.code == 0
    assert "--pattern" not in ended.out
    assert "only the source does" in ended.out


def test_mistakes_are_messages(tokenizer: Path, tmp_path: Path) -> None:
    for arguments, kind, words in (
        ([tokenizer, tmp_path / "x.tiktokn"], "ConfigError", "did you mean '.tiktoken'"),
        ([tmp_path / "none", tmp_path / "x"], "TokenizerError", "none"),
        ([tokenizer, tmp_path / "x", "--pattern", "gpt3"], "TokenizerError", "known are gpt2"),
        ([tokenizer, tmp_path / "x", "--chat-template", tmp_path / "no"], "ConfigError", "cannot be read"),
    ):
        ended = penstock("tokenizer", "convert", *arguments, "--json")
        event = json.loads(ended.err)
        assert (ended.code, ended.out, event["type"]) == (1, "", kind)
        assert words in event["message"]
    assert not list(tmp_path.iterdir())
    unknown = penstock("tokenizer", "convert", tokenizer, tmp_path / "x", "--chat-templat", "y")
    assert unknown.code == 2
    assert "--chat-template" in unknown.err
