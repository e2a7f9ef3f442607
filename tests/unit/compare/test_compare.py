"""Tokenizers side by side: figures against plain counting, and a page in which nothing can act."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Peer

from penstock import ConfigError, InputError, Tokenizer
from penstock.compare import Comparison, Subject, bootstrap, compare_tokenizers, load_subjects
from penstock.compare.figures import as_plain
from penstock.compare.page import render_comparison
from penstock.compare.plots import save_png
from penstock.compare.terminal import as_tables
from penstock.compare.vocabulary import vocabulary_use

HOSTILE = '<script>alert("x")</script> $x_1$ & [bold]'


@pytest.fixture(scope="module")
def small(stdlib_texts: list[str]) -> Tokenizer:
    return Tokenizer.train(stdlib_texts[:20], 400, "llama3")


@pytest.fixture(scope="module")
def large(stdlib_texts: list[str]) -> Tokenizer:
    return Tokenizer.train(stdlib_texts[:20], 1500, "qwen2")


@pytest.fixture(scope="module")
def documents(stdlib_texts: list[str]) -> list[tuple[str, str]]:
    texts = [text[:3000] for text in stdlib_texts[20:60]]
    return [(HOSTILE if i % 3 else "plain", text) for i, text in enumerate(texts)] + [
        ("one", "日本語"),
        ("one", ""),
    ]


@pytest.fixture(scope="module")
def found(small: Tokenizer, large: Tokenizer, documents: list[tuple[str, str]]) -> Comparison:
    subjects = [Subject("small", small, "a/tok"), Subject(HOSTILE, large, HOSTILE), Subject("small", small)]
    return compare_tokenizers(subjects, documents)


def test_figures_equal_plain_counting_with_hf(
    found: Comparison, small: Tokenizer, large: Tokenizer, documents: list[tuple[str, str]]
) -> None:
    for figures, tokenizer in zip(found.tokenizers, (small, large, small), strict=True):
        peer = Peer.from_str(tokenizer.to_json())
        ids = [peer.encode(text, add_special_tokens=False).ids for _, text in documents]
        sizes = [len(text.encode()) for _, text in documents]
        assert figures.tokens == sum(map(len, ids))
        assert figures.bytes_per_token.value == pytest.approx(sum(sizes) / figures.tokens)
        for source in ("plain", HOSTILE, "one"):
            here = [i for i, (label, _) in enumerate(documents) if label == source]
            ratio = sum(sizes[i] for i in here) / sum(len(ids[i]) for i in here)
            assert figures.by_source[source].value == pytest.approx(ratio)
        used = {i for row in ids for i in row}
        assert figures.vocabulary.used == len(used)
        assert figures.vocabulary.tokens == tokenizer.vocab_size - 1
        assert not {piece.id for piece in figures.vocabulary.never_used} & used
        counts = {i: sum(row.count(i) for row in ids) for i in used}
        for piece, count in figures.vocabulary.longest:
            assert counts.get(piece.id, 0) == count
    assert [source.name for source in found.sources] == [HOSTILE, "plain", "one"]
    assert sum(source.documents for source in found.sources) == len(documents) - 1


def test_the_same_tokenizer_twice_needs_the_same_tokens(found: Comparison) -> None:
    first, other, again = found.tokenizers
    assert again.name == "small (2)"
    assert (again.tokens_against_first.low, again.tokens_against_first.high) == (1.0, 1.0)
    assert other.tokens_against_first.high is not None
    assert other.tokens_against_first.high < 1 < other.bytes_per_token.value / first.bytes_per_token.value


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        tokens = rng.gamma(2.0, 50.0, size=60).astype(np.int64) + 1
        sizes = (tokens * rng.normal(4.0, 0.5, size=60)).astype(np.int64)
        drawn = bootstrap.Resamples(sizes, tokens[None], [0] * 60)
        got = bootstrap.interval(sizes.sum() / tokens.sum(), drawn.bytes[0], drawn.tokens[0][0], 60)
        assert got.low is not None
        assert got.high is not None
        hits += got.low < 4.0 < got.high
    assert 180 <= hits <= 199


def test_grouping_many_documents_keeps_the_spread() -> None:
    rng = np.random.default_rng(2)
    tokens = rng.gamma(2.0, 50.0, size=9000).astype(np.int64) + 1
    sizes = (tokens * rng.normal(4.0, 0.5, size=9000)).astype(np.int64)
    drawn = bootstrap.Resamples(sizes, tokens[None], [0] * 9000)
    got = bootstrap.interval(sizes.sum() / tokens.sum(), drawn.all_bytes(), drawn.all_tokens(0), 9000)
    residuals = sizes - tokens * sizes.sum() / tokens.sum()
    error = np.sqrt((residuals.astype(float) ** 2).sum()) / tokens.sum()  # of a ratio, by the delta method
    assert got.low is not None
    assert got.high is not None
    assert (got.high - got.low) / (2 * 1.96) == pytest.approx(error, rel=0.15)


def test_too_few_documents_have_no_interval(found: Comparison) -> None:
    assert found.tokenizers[0].by_source["one"].low is None
    assert found.tokenizers[0].by_source["plain"].low is not None


def test_an_unreachable_token_is_found(tmp_path: Path, small: Tokenizer) -> None:
    reached = vocabulary_use(small, np.ones(small.vocab_size, np.int64))
    assert (reached.unreachable, reached.used_share) == (0, 1.0)
    file = json.loads(small.to_json())
    size = len(file["model"]["vocab"])
    file["model"]["vocab"] |= {"zqzq": size, "Ġa1": size + 1}
    for token in file["added_tokens"]:
        token["id"] = size + 2
        file["model"]["vocab"].pop(token["content"], None)
    first = min(file["model"]["vocab"].values())
    file["model"]["vocab"] = {token: i - first for token, i in file["model"]["vocab"].items()}
    file["added_tokens"][0]["id"] -= first
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file))
    use = vocabulary_use(Tokenizer.from_file(path), np.zeros(size + 3, np.int64))
    assert [piece.bytes for piece in use.unreachable_examples] == [b"zqzq", b" a1"]
    assert (use.unreachable, use.used) == (2, 0)
    assert use.partial == 128


def test_digits_and_indentation(found: Comparison) -> None:
    _, single_digits, _ = found.tokenizers
    assert single_digits.number_tokens == tuple(float(n) for n in range(1, 10))
    for figures in found.tokenizers:
        assert list(figures.indent_tokens)[:2] == ["2 spaces", "4 spaces"]
        assert max(figures.number_tokens) <= 9


def test_a_limit_stops_reading_and_says_so(small: Tokenizer, documents: list[tuple[str, str]]) -> None:
    done: list[int] = []
    cut = compare_tokenizers([Subject("a", small)], documents, max_bytes=10_000, progress=done.append)
    assert cut.truncated
    assert cut.bytes == done[-1] <= 10_000
    assert "limit of --max-bytes" in render_comparison(cut)
    whole = compare_tokenizers([Subject("a", small)], documents, threads=2)
    assert not whole.truncated


def test_many_small_sources_share_a_row(small: Tokenizer) -> None:
    documents = [(f"file {i}", "word " * (200 - i)) for i in range(150)]
    found = compare_tokenizers([Subject("a", small)], documents)
    assert [source.name for source in found.sources[:2]] == ["file 0", "file 1"]
    assert found.sources[-1].name == "90 smaller sources"
    assert (found.documents, found.sources[-1].documents) == (150, 90)
    assert found.bytes == sum(len(text) for _, text in documents)


def test_nothing_to_compare_is_refused(small: Tokenizer) -> None:
    with pytest.raises(InputError, match="holds no text"):
        compare_tokenizers([Subject("a", small)], [("x", "")])
    with pytest.raises(ConfigError, match="no tokenizer"):
        compare_tokenizers([], [("x", "y")])
    with pytest.raises(ConfigError, match="threads=0"):
        compare_tokenizers([Subject("a", small)], [("x", "y")], threads=0)


class Page(HTMLParser):
    """Tags and whatever a browser would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.active: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.active += [
            name
            for name, value in attrs
            if name.startswith("on")
            or (name in ("src", "href", "xlink:href", "srcset") and not (value or "").startswith("#"))
        ]


def test_the_page_is_self_contained_and_escapes_names(found: Comparison) -> None:
    text = render_comparison(found)
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert page.active == []
    assert not re.search(r"url\((?!#)|@import", text)
    assert "prefers-color-scheme: dark" in text
    assert "var(--series-1)" in text
    assert "&lt;script&gt;alert" in text
    for heading in (
        "Bytes a token",
        "Speed",
        "Vocabulary",
        "Longest tokens",
        "Numbers",
        "Indentation of code",
    ):
        assert f"<h2>{heading}</h2>" in text


def test_the_png_and_the_json(found: Comparison, tmp_path: Path) -> None:
    save_png(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    plain = json.loads(json.dumps(as_plain(found)))
    assert plain["tokenizers"][0]["tokens"] == found.tokenizers[0].tokens
    assert plain["tokenizers"][1]["vocabulary"]["never_used"] > 0


def test_names_cannot_style_a_table_or_steer_a_terminal(
    small: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    documents = [("[red]a[/red]\x1b[2J", "some text"), ("b\ud800", "more text")]
    words = as_tables(compare_tokenizers([Subject("[bold]", small)], documents), io.StringIO())
    assert "\x1b" not in words
    for name in ("[bold]", "[red]a[/red]<U+001B>[2J", "b?"):
        assert name in words


def test_half_a_surrogate_pair_is_no_text(small: Tokenizer) -> None:
    with pytest.raises(
        InputError, match="document 2, of source 'b': half of a surrogate pair at character 1"
    ):
        compare_tokenizers([Subject("a", small)], [("a", "x"), ("b", "x\ud800")])


def test_subjects_are_named_on_the_command_line(
    small: Tokenizer, stdlib_texts: list[str], tmp_path: Path
) -> None:
    ranked = Tokenizer.train(stdlib_texts[:5], 300, "gpt2")
    small.save(tmp_path / "tok")
    small.save(tmp_path / "odd@name=x.json")
    ranked.save(tmp_path / "ranks.tiktoken")
    subjects = load_subjects(
        [
            f"{tmp_path}/tok",
            f"mine={tmp_path}/ranks.tiktoken@gpt2",
            f"{tmp_path}/odd@name=x.json",
            f"{tmp_path}/tok/",
        ]
    )
    assert [s.name for s in subjects] == ["tok", "mine", "odd@name=x", "tok (2)"]
    assert subjects[1].tokenizer.pattern == "gpt2"
    assert load_subjects([f"{tmp_path}/tok/tokenizer.json"])[0].name == "tok"
    with pytest.raises(ConfigError, match="append its pattern"):
        load_subjects([f"{tmp_path}/ranks.tiktoken"])
    with pytest.raises(ConfigError, match="a text, not a tokenizer"):
        load_subjects(["corpus/b.jsonl.zst"])
