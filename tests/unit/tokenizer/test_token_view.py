"""Token boundaries to look at: nothing of a token can act on the page or the terminal."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Tokenizer, TokenizerError
from penstock.token_view import LONG_CHARACTERS, MAX_SHOWN, TINTS


@pytest.fixture(scope="module")
def tokenizer(stdlib_texts: list[str]) -> Tokenizer:
    return Tokenizer.train(stdlib_texts[:40], vocab_size=600)


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.titles: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}
        self.titles += [value for name, value in attrs if name == "title" and value]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_white_space_and_boundaries_are_visible(tokenizer: Tokenizer) -> None:
    view = tokenizer.show("if x:\n\treturn  1")
    words = str(view)
    assert words.replace("│", "") == "if·x:↵\n→return··1"
    assert words.count("│") == len(view) - 1
    assert f"{len(view)} tokens, 16 bytes" in repr(view)
    assert b"".join(piece.bytes for piece in view) == b"if x:\n\treturn  1"


def test_part_of_a_character_is_shown_as_bytes(tokenizer: Tokenizer) -> None:
    assert str(tokenizer.show("🙂")).replace("│", "") == "⟨f0⟩⟨9f⟩⟨99⟩⟨82⟩"


def test_what_changes_direction_or_controls_a_terminal_is_spelled_out(tokenizer: Tokenizer) -> None:
    view = tokenizer.show("a\x1b[31m\u202eb\u2028\x00")
    for words in (str(view), view._repr_html_()):
        assert not set(words) & set("\x1b\u202e\u2028\x00")
    assert "⟨U+001B⟩" in str(view)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80) | st.just("<script>alert(1)</script><img src=x onerror='y' \"&amp;>"))
def test_hostile_text_stays_text(tokenizer: Tokenizer, text: str) -> None:
    view = tokenizer.show(text)
    page = Page(view._repr_html_())
    assert set(page.tags) <= {"div", "span"}
    assert page.names <= {"style", "title", "dir"}
    assert len(page.titles) == len(view)
    assert page.words.startswith("".join(map(str, view)))


def test_neighbours_differ_in_colour_and_specials_are_outlined(tokenizer: Tokenizer) -> None:
    view = tokenizer.show("a<|endoftext|>b", allowed_special="all")
    text = view.to_html()
    assert [piece.special for piece in view] == [False, True, False]
    assert text.count("outline:") == 1
    assert all(tint in text for tint in TINTS[:3])
    assert not any(piece.special for piece in tokenizer.show("a<|endoftext|>b"))


def test_ids_can_be_shown_and_must_exist(tokenizer: Tokenizer) -> None:
    assert tokenizer.show(tokenizer.encode("some text")) == tokenizer.show("some text")
    with pytest.raises(TokenizerError, match="600"):
        tokenizer.show([600])
    assert repr(tokenizer.show("")) == "[0 tokens]"
    assert tokenizer.show("")._repr_html_()


def test_a_long_text_is_cut(tokenizer: Tokenizer) -> None:
    view = tokenizer.show([300] * (MAX_SHOWN + 5))
    assert str(view).endswith("... and 5 more tokens")
    assert Page(view.to_html()).words.endswith("... and 5 more tokens")


@pytest.mark.parametrize("unit", ["some words, é字🙂 <|endoftext|>don't 12\n", "a", " ", "ab1 "])
@pytest.mark.parametrize("pattern", ["deepseek-v3", "gpt2", "[a-z]*1|[a-z]"])
def test_of_a_long_text_the_first_tokens_are_shown(stdlib_texts: list[str], unit: str, pattern: str) -> None:
    tokenizer = Tokenizer.train(stdlib_texts[:10], vocab_size=400, pattern=pattern)
    text = "x" + unit * (3 * LONG_CHARACTERS // len(unit))
    view = tokenizer.show(text, allowed_special="all")
    ids = tokenizer.encode(text, allowed_special="all")
    if len(ids) <= MAX_SHOWN:
        assert view == tokenizer.show(ids)
        return
    assert view.pieces == tokenizer.show(ids[:MAX_SHOWN]).pieces
    assert view._repr_html_().count("and more tokens") == str(view).count("and more tokens") == 1
    assert f"of a text of {len(text):,} characters" in repr(view)


def test_no_more_of_a_long_text_is_encoded_than_is_shown(tokenizer: Tokenizer) -> None:
    # What no longer text could be encoded with.
    text = "some words, and 12\n" * LONG_CHARACTERS + "\ud800"
    assert len(tokenizer.show(text)) == MAX_SHOWN
