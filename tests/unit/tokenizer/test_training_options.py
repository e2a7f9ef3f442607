"""What may be asked of the trainer besides a size, and how it refuses what makes no sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import penstock
from penstock.tokenizer_training import memory_bytes


def jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_weights_count_documents_of_a_source_so_many_times(tmp_path: Path) -> None:
    rows = [{"text": "ab ab ab", "source": "x"}, {"text": "cd cd", "source": "y"}, {"text": "ef"}]
    corpus = jsonl(tmp_path / "a.jsonl", rows)
    repeated = jsonl(tmp_path / "b.jsonl", [rows[0], *[rows[1]] * 5, rows[2]])
    weighted = penstock.Tokenizer.train([corpus], 262, weights={"y": 5})
    assert weighted.sha256 == penstock.Tokenizer.train([repeated], 262).sha256
    without = penstock.Tokenizer.train([corpus], 262, weights={"y": 0})
    assert without.token_to_id("cd") is None
    with pytest.raises(penstock.ConfigError, match=r"weights.*z.*x, y"):
        penstock.Tokenizer.train([corpus], 262, weights={"z": 5})
    with pytest.raises(penstock.ConfigError, match="whole number"):
        penstock.Tokenizer.train([corpus], 262, weights={"y": -1})
    with pytest.raises(penstock.ConfigError, match="texts have none"):
        penstock.Tokenizer.train(iter(["text"]), 262, weights={"y": 1})


def test_reserved_ids_and_longest_tokens() -> None:
    tok = penstock.Tokenizer.train(["abcabcabc " * 9], 300, reserved=3, max_token_bytes=2)
    assert list(tok.special_tokens) == ["<|endoftext|>", *(f"<|reserved_{i}|>" for i in range(3))]
    assert [tok.token_to_id("!"), tok.training.merges > 0] == [4, True]  # type: ignore[union-attr]
    assert max(len(left + right) for left, right in tok.merges()) == 2


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("2G", 2 * 10**9), ("1.5 GiB", 3 << 29), ("300mb", 3 * 10**8), ("1000", 1000), (None, None), (5, 5)],
)
def test_memory_is_read_with_its_unit(words: str | int | None, wanted: int | None) -> None:
    assert memory_bytes(words) == wanted


@pytest.mark.parametrize("words", ["", "G", "2 T", "two", "-", "1e400"])
def test_memory_in_other_words_is_refused(words: str) -> None:
    with pytest.raises(penstock.ConfigError, match="max_memory"):
        memory_bytes(words)


def test_bounds_and_folders_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    with pytest.raises(penstock.TokenizerError, match="268435456"):
        penstock.Tokenizer.train(["text"], 300, max_memory="1M")
    with pytest.raises(penstock.TokenizerError, match="spill folder"):
        penstock.Tokenizer.train(["text"], 300, max_memory="1G", spill_folder=tmp_path / "none")
