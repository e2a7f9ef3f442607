"""What may be asked of the trainer besides a size, and how it refuses what makes no sense."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
import tokenizers

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
    with pytest.raises(penstock.ConfigError, match="reserved=-1"):
        penstock.Tokenizer.train(["some text"] * 9, 300, reserved=-1)
    with pytest.raises(penstock.TokenizerError, match="268435456"):
        penstock.Tokenizer.train(["text"], 300, max_memory="1M")
    with pytest.raises(penstock.TokenizerError, match="spill folder"):
        penstock.Tokenizer.train(["text"], 300, max_memory="1G", spill_folder=tmp_path / "none")


def test_several_sizes_come_from_one_run(stdlib_texts: list[str]) -> None:
    tok = penstock.Tokenizer.train(stdlib_texts, 2000)
    for size in (300, 1999):
        assert tok.prefix(size) == penstock.Tokenizer.train(stdlib_texts, size)
    with pytest.raises(penstock.TokenizerError, match="2001"):
        tok.prefix(2001)


def test_extending_keeps_every_id(stdlib_texts: list[str]) -> None:
    half = len(stdlib_texts) // 2
    base = penstock.Tokenizer.train(stdlib_texts[:half], 1000, "llama3")
    grown = penstock.Tokenizer.train(stdlib_texts[half:], 1500, extend=base, special_tokens=["<|more|>"])
    assert grown.vocab_size == 1500
    assert [grown.id_to_bytes(i) for i in range(1000)] == [base.id_to_bytes(i) for i in range(1000)]
    assert grown.token_to_id("<|more|>") == 1000
    assert grown.pattern == "llama3"
    text = "".join(stdlib_texts[half:])
    assert grown.count_tokens(text) < base.count_tokens(text)
    with pytest.raises(penstock.ConfigError, match="llama3"):
        penstock.Tokenizer.train(stdlib_texts, 1500, "gpt2", extend=base)


@pytest.mark.parametrize("name", ["qwen2", "llama3", "deepseek-llm"])
def test_published_vocabularies_are_extended(
    shared: Path, name: str, stdlib_texts: list[str], tmp_path: Path
) -> None:
    """Qwen's text is normalised, Llama's pieces are looked up whole; HF encodes with the result as we do."""
    base = penstock.Tokenizer.from_file(shared / f"eval/tokenizer/vocab/{name}.tokenizer.json")
    accents = [unicodedata.normalize("NFD", "Žluťoučký kůň úpěl ďábelské ódy. Đạn! ") * 20]
    texts = [*stdlib_texts, *accents]
    grown = penstock.Tokenizer.train(texts, base.vocab_size + 500, extend=base, special_tokens=["<|more|>"])
    assert all(grown.id_to_bytes(i) == base.id_to_bytes(i) for i in range(base.vocab_size))
    grown.save(tmp_path / "tokenizer.json")
    peer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in texts:
        ids = grown.encode(text, allowed_special="all")
        assert ids == peer.encode(text, add_special_tokens=False).ids
    assert any(i > base.vocab_size for i in grown.encode(accents[0]))


def test_saved_counts_train_the_same(stdlib_texts: list[str], tmp_path: Path) -> None:
    half = len(stdlib_texts) // 2
    whole = penstock.Tokenizer.train(stdlib_texts, 1000)
    penstock.Tokenizer.train(stdlib_texts[:half], 300, save_counts=tmp_path / "first.counts")
    saved = [tmp_path / "first.counts"]
    for max_memory in (None, "300M"):
        resumed = penstock.Tokenizer.train(stdlib_texts[half:], 1000, counts=saved, max_memory=max_memory)
        assert resumed == whole
    penstock.Tokenizer.train(stdlib_texts[half:], 300, save_counts=tmp_path / "second.counts")
    assert penstock.Tokenizer.train(vocab_size=1000, counts=[*saved, tmp_path / "second.counts"]) == whole
    with pytest.raises(penstock.TokenizerError, match=r"first\.counts.*deepseek-v3.*gpt2"):
        penstock.Tokenizer.train(vocab_size=1000, pattern="gpt2", counts=saved)
    damaged = bytearray(saved[0].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    saved[0].write_bytes(damaged)
    with pytest.raises(penstock.TokenizerError, match="checksum"):
        penstock.Tokenizer.train(vocab_size=1000, counts=saved)


def test_superbpe_is_read_by_hf_with_the_same_ids(stdlib_texts: list[str], tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Peer

    texts, heldout = stdlib_texts[:-4], stdlib_texts[-4:]
    plain = penstock.Tokenizer.train(texts, 4000)
    tok = penstock.Tokenizer.train(texts, 4000, superbpe=0.6)
    assert tok.vocab_size == 4000
    assert [tok.id_to_bytes(i) for i in range(2400)] == [plain.id_to_bytes(i) for i in range(2400)]
    tok.save(tmp_path)
    peer = Peer.from_file(str(tmp_path / "tokenizer.json"))
    strange = [
        "",
        " ",
        "a  b\r\n\r\n c\n\n",
        "1234567 12",
        "你好，世界 12\n",
        "\u00a0x\u2028y\u0085z",
        "é\u0301 \t x",
    ]
    for text in [*heldout, *strange]:
        ids = tok.encode(text)
        assert ids == peer.encode(text, add_special_tokens=False).ids
        assert tok.decode(ids) == text
    assert penstock.Tokenizer.from_file(tmp_path) == tok
    assert sum(map(tok.count_tokens, heldout)) < 0.9 * sum(map(plain.count_tokens, heldout))


def test_superbpe_refuses_what_it_cannot_do(stdlib_texts: list[str], tmp_path: Path) -> None:
    for share in (1.0, -0.1, float("nan")):
        with pytest.raises(penstock.TokenizerError, match="share"):
            penstock.Tokenizer.train(stdlib_texts[:3], 500, superbpe=share)
    with pytest.raises(penstock.ConfigError, match="counts"):
        penstock.Tokenizer.train(stdlib_texts[:3], 500, superbpe=0.5, save_counts=tmp_path / "x")


def test_text_is_split_by_an_expression(stdlib_texts: list[str], tmp_path: Path) -> None:
    expression = r"\p{N}{1,2}| ?\p{L}+|\s+"
    tok = penstock.Tokenizer.train(stdlib_texts, 2000, expression, max_bytes=2_000_000)
    text = "call f12345(x)\n\n  return\tab12"
    tok.save(tmp_path)
    again = penstock.Tokenizer.from_file(tmp_path)
    assert again == tok
    assert again.encode(text) == tok.encode(text)
    assert [tok.decode([i]) for i in tok.encode("12121")] == ["12", "12", "1"]
    peer = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for sample in (text, *stdlib_texts[:20]):
        assert peer.encode(sample).ids == tok.encode(sample)
    grown = penstock.Tokenizer.train(stdlib_texts, 2100, extend=tok, max_bytes=2_000_000)
    assert grown.merges()[: len(tok.merges())] == tok.merges()
    with pytest.raises(penstock.TokenizerError, match="look-around"):
        penstock.Tokenizer.train(["text"], 300, r"\s+(?!\S)|\S+")
    with pytest.raises(penstock.TokenizerError, match="once compiled"):
        penstock.Tokenizer.train(["text"], 300, r"a{1000000}")
    with pytest.raises(penstock.TokenizerError, match="unknown split pattern `gpt-2`; known are gpt2, "):
        penstock.Tokenizer.train(["text"], 300, "gpt-2")


def test_a_rank_file_is_cached_by_its_expression(stdlib_texts: list[str], tmp_path: Path) -> None:
    tok = penstock.Tokenizer.train(stdlib_texts, 1000, r"\p{N}| ?\p{L}+|\s+", max_bytes=1_000_000)
    tok.save(tmp_path / "ranks.tiktoken")
    for expression in (r"\p{N}| ?\p{L}+|\s+", r"\p{N}{1,3}|\p{L}+| "):
        wanted = penstock.Tokenizer.from_file(tmp_path / "ranks.tiktoken", expression)
        cached = penstock.Tokenizer.from_file(tmp_path / "ranks.tiktoken", expression, cache=tmp_path / "c")
        assert cached == wanted


def test_a_list_of_texts_may_begin_with_a_long_line() -> None:
    """Longer than the name of any file, shorter than what is a text at a glance."""
    assert penstock.Tokenizer.train(["x" * 300 + " hello"], 300).vocab_size > 257
