"""A cache beside a tokenizer file: the same tokenizer, checked against its source, no reason to fail."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from penstock import Tokenizer, TokenizerError

TEXT = "It's 123 naïve tests;\r\n\r\n\tif (a != b) {\n最后一行。 한국어 <|endoftext|><mask> \ue000 🙂\n"


@pytest.fixture(scope="module")
def source(stdlib_texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json with every kind of added token, a normaliser, and a split in steps."""
    tok = Tokenizer.train(stdlib_texts[:10], 900, "deepseek-llm", ["<|endoftext|>", "<|pad|>"])
    file = json.loads(tok.to_json())
    flags = {"single_word": True, "lstrip": True, "rstrip": False, "normalized": True, "special": False}
    file["added_tokens"].append({"id": 900, "content": "<mask>", **flags})
    file["normalizer"] = {"type": "NFKC"}
    path = tmp_path_factory.mktemp("source") / "tokenizer.json"
    path.write_text(json.dumps(file), encoding="utf-8")
    return path


def check_same(ours: Tokenizer, other: Tokenizer) -> None:
    assert ours == other
    assert ours.to_json() == other.to_json()
    assert ours.pattern == other.pattern
    for allowed in ((), "all"):
        assert ours.encode(TEXT, allowed_special=allowed) == other.encode(TEXT, allowed_special=allowed)


def test_a_cache_gives_the_same_tokenizer(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    plain = Tokenizer.from_file(source)
    check_same(Tokenizer.from_file(source, cache=cache), plain)
    written = cache.read_bytes()
    stamp = cache.stat().st_mtime_ns
    check_same(Tokenizer.from_file(source, cache=cache), plain)
    assert (cache.read_bytes(), cache.stat().st_mtime_ns) == (written, stamp), "read, not written again"


def test_published_vocabularies(shared: Path, tmp_path: Path) -> None:
    folder = shared / "eval/tokenizer/vocab"
    files = {f"{n}.tokenizer.json": None for n in ("gpt-2", "llama3", "deepseek-llm", "qwen2")}
    for name, pattern in {**files, "cl100k_base.tiktoken": "cl100k", "llama3.tiktoken": "llama3"}.items():
        cache = tmp_path / name
        plain = Tokenizer.from_file(folder / name, pattern)
        Tokenizer.from_file(folder / name, pattern, cache=cache)
        check_same(Tokenizer.from_file(folder / name, pattern, cache=cache), plain)


def test_another_source_or_pattern_is_read_anew(
    source: Path, tmp_path: Path, stdlib_texts: list[str]
) -> None:
    cache = tmp_path / "cache"
    Tokenizer.from_file(source, cache=cache)
    other = Tokenizer.train(stdlib_texts[:2], 400, "gpt2")
    other.save(tmp_path / "other")
    check_same(Tokenizer.from_file(tmp_path / "other", cache=cache), other)
    check_same(Tokenizer.from_file(tmp_path / "other", cache=cache), other)
    with pytest.raises(TokenizerError, match="splits by"):
        Tokenizer.from_file(tmp_path / "other", "cl100k", cache=cache)
    other.save(tmp_path / "x.tiktoken")
    for pattern in ("gpt2", "cl100k", "gpt2"):
        tok = Tokenizer.from_file(tmp_path / "x.tiktoken", pattern, cache=cache)
        assert tok.pattern == pattern


def test_a_damaged_cache_is_written_anew(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    plain = Tokenizer.from_file(source, cache=cache)
    written = cache.read_bytes()
    damaged = [written[:end] for end in range(0, len(written), len(written) // 40)]
    damaged += [
        written[:at] + bytes([written[at] ^ 1]) + written[at + 1 :] for at in range(0, len(written), 997)
    ]
    for content in damaged:
        cache.write_bytes(content)
        assert Tokenizer.from_file(source, cache=cache) == plain
        assert cache.read_bytes() == written


def test_a_forged_cache_is_no_more_than_another_tokenizer(source: Path, tmp_path: Path) -> None:
    """Whoever writes the checksum can write anything; it must hold together all the same."""
    xxhash = pytest.importorskip("xxhash")
    cache = tmp_path / "cache"
    plain = Tokenizer.from_file(source, cache=cache)
    written = cache.read_bytes()
    lengths = struct.unpack("<4I", written[40:56])
    ends = [56 + sum(lengths[: i + 1]) for i in range(4)]
    places = [40, 44, 48, 52, *range(56, ends[0], 211), *range(ends[0], ends[1], 401)]
    places += [*range(ends[1], ends[2], 401), *range(ends[2], ends[3], 201)]
    for at in places:
        for value in (0x00, 0xFF, written[at] ^ 1):
            body = written[40:at] + bytes([value]) + written[at + 1 :]
            cache.write_bytes(written[:32] + struct.pack("<Q", xxhash.xxh3_64_intdigest(body)) + body)
            tok = Tokenizer.from_file(source, cache=cache)
            ids = tok.encode(TEXT)
            assert max(ids) < tok.vocab_size
            tok.decode(ids)
    assert Tokenizer.from_file(source) == plain


def test_a_cache_that_cannot_be_written_is_an_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="nowhere"):
        Tokenizer.from_file(source, cache=tmp_path / "nowhere/cache")


def test_a_sentencepiece_model_is_read_as_it_is(tmp_path: Path) -> None:
    model = Path(__file__).parent / "sentencepiece/words.model"
    cache = tmp_path / "cache"
    assert Tokenizer.from_file(model, cache=cache) == Tokenizer.from_file(model)
    assert not cache.exists()
