"""What a tokenizer.json may say, put together at random: HF's ids and offsets, or an error that names it."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock
from penstock import Tokenizer, TokenizerError, _core

tokenizers = pytest.importorskip("tokenizers")

Json = dict[str, Any]
BYTE_LEVEL: Json = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
EXPRESSIONS = [
    r"\s+", r"\p{L}+", r"\d", r"[^\s\p{L}]+", r"\p{N}{1,3}", r"(?i:'s|'t|'re)", "x*", r"^\s*", r"\s+$", "",
    r"[a-c&&[^b]]", r"\p{Han}+", ".", r"[\r\n]", "a|b", "(?<n>é)", r" ?\p{L}+?", r"\p{Lu}\p{Ll}*", r"\S{2}",
    r"(?:\p{P}|\p{S})+", r"\x{1F600}|\u00e9|\x41", r"(a|ab)(c|bcd)?", r"\A\s", r"\p{M}", "[.-]", "K",
]  # fmt: skip
ADDED = ["<s>", "<|x|>", "ab", "abc", " a", "ạ", "e\u0301", "ﬁ", "\n", "_", "中", "<s><s>", "⅓", "K"]
CHARACTERS = [
    *"abcABCxs'tK12_- .ạ⅓\n\r\t\u00a0\u2003\u200b\u200d\u3000é\u0301\u0323\u0308ﬁ½²٣Ⅷ中文かー゛한가각각ſKßΣς",
    "😀", "🇩", "\U00011de3", "\U00016ff4", "\u1dfa", "\U00011935", "\U00011930", "\u32ff", "\u0378", "\x00",
    "\x85", "\u2028", "‿", "Ⓐ", "<s>", "<|x|>", " <s> ", "e\u0301", "abc", "'s", "'S", "  ", "123",
]  # fmt: skip


def byte_letters() -> list[str]:
    """How byte-level files spell each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


LETTERS = byte_letters()


def merges_of(text: str, count: int) -> list[tuple[str, str]]:
    """Merges of the commonest pairs of a text that nothing cuts, so that every cut shows in the ids."""
    symbols = [LETTERS[byte] for byte in text.encode()]
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs = Counter(pairwise(symbols))
        if not pairs:
            break
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        merges.append(best)
        joined: list[str] = []
        for symbol in symbols:
            if joined and (joined[-1], symbol) == best:
                joined[-1] += symbol
            else:
                joined.append(symbol)
        symbols = joined
    return list(dict.fromkeys(merges))


def file_of(pre_tokenizer: Json, text: str = "", **members: Any) -> Json:
    merges = merges_of(text, 60)
    names = dict.fromkeys([*LETTERS, *("".join(merge) for merge in merges)])
    model = {
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
    }
    model |= {"type": "BPE", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    model |= {"vocab": {name: i for i, name in enumerate(names)}, "merges": [list(pair) for pair in merges]}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": BYTE_LEVEL, "model": model,
        **members,
    }  # fmt: skip


def sequence(*steps: Json) -> Json:
    return {"type": "Sequence", "pretokenizers": [*steps, BYTE_LEVEL]}


def split(expression: str, behavior: str = "Isolated", invert: bool = False, kind: str = "Regex") -> Json:
    return {"type": "Split", "pattern": {kind: expression}, "behavior": behavior, "invert": invert}


expressions = st.lists(st.sampled_from(EXPRESSIONS), min_size=1, max_size=3, unique=True).map("|".join)
behaviors = st.sampled_from(["Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"])
steps = st.one_of(
    st.builds(lambda individual: {"type": "Digits", "individual_digits": individual}, st.booleans()),
    st.builds(split, expressions, behaviors, st.booleans()),
    st.builds(
        split, st.sampled_from(["a", " ", ".", "ab", "\n"]), behaviors, st.booleans(), st.just("String")
    ),
)
pre_tokenizers = st.builds(
    lambda steps, use_regex: {
        "type": "Sequence",
        "pretokenizers": [*steps, {**BYTE_LEVEL, "use_regex": use_regex}],
    },
    st.lists(steps, max_size=3),
    st.booleans(),
)
normalizers = st.sampled_from([None, None, {"type": "NFC"}, {"type": "NFKC"}])
flags = st.fixed_dictionaries(
    {name: st.booleans() for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
)
added_tokens = st.lists(st.tuples(st.sampled_from(ADDED), flags), max_size=3, unique_by=lambda pair: pair[0])
texts = st.lists(st.one_of(st.sampled_from(CHARACTERS), st.characters(codec="utf-8")), max_size=24).map(
    "".join
)


def with_added(file: Json, added: list[tuple[str, Json]]) -> Json:
    """Numbers tokens as HF does: on from the vocabulary, unless their text stands in it."""
    vocabulary = file["model"]["vocab"]
    behind = (content for content, _ in added if content not in vocabulary)
    ids = vocabulary | {content: len(vocabulary) + i for i, content in enumerate(behind)}
    file["added_tokens"] = [{"id": ids[content], "content": content, **flags} for content, flags in added]
    return file


@settings(max_examples=400, deadline=None)
@given(
    pre_tokenizers, normalizers, added_tokens, st.booleans(), texts, st.lists(texts, min_size=1, max_size=4)
)
def test_ids_and_offsets_are_those_of_hf(
    pre_tokenizer: Json,
    normalizer: Json | None,
    added: list[tuple[str, Json]],
    ignore_merges: bool,
    sample: str,
    texts: list[str],
) -> None:
    file = with_added(file_of(pre_tokenizer, "".join([sample, *texts]) * 2, normalizer=normalizer), added)
    file["model"]["ignore_merges"] = ignore_merges
    theirs = tokenizers.Tokenizer.from_str(json.dumps(file))
    try:
        ours = Tokenizer(_core.Tokenizer.from_json(json.dumps(file)))
    except TokenizerError as error:
        # What is added may be a token that merging makes as well.
        assert added
        assert re.search("special token|is not in the vocabulary|single byte", str(error))  # noqa: PT017
        return
    for text in texts:
        wanted = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text, allowed_special="all") == wanted.ids
        if normalizer is None:
            ids, offsets = ours.encode_with_offsets(text, allowed_special="all")
            assert ids.tolist() == wanted.ids
            assert [tuple(pair) for pair in offsets.tolist()] == wanted.offsets
    again = Tokenizer(_core.Tokenizer.from_json(ours._core.to_json()))
    assert again == ours
    written = tokenizers.Tokenizer.from_str(ours._core.to_json())
    assert [written.encode(text).ids for text in texts] == [theirs.encode(text).ids for text in texts]


def changed(path: str, value: object) -> Callable[[Json], None]:
    def change(file: Json) -> None:
        *folders, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        for folder in folders:
            file = file[folder]
        if value is KeyError:
            file.pop(last)
        else:
            file[last] = value

    return change


SPLIT, DIGITS, LAST = (f"pre_tokenizer/pretokenizers/{place}" for place in range(3))
REFUSED: list[tuple[str, object, str]] = [
    *(("normalizer", {"type": kind}, rf"normalizer: .*`{kind}`") for kind in (
        "NFD", "NFKD", "Lowercase", "Replace", "Prepend", "Strip", "StripAccents", "Nmt", "Precompiled",
        "ByteLevel", "BertNormalizer",
    )),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}, "normalizer: "),
    *((f"{DIGITS}/type", kind, rf"pretokenizers\[1\]: .*`{kind}`") for kind in (
        "Whitespace", "WhitespaceSplit", "Metaspace", "Punctuation", "UnicodeScripts", "BertPreTokenizer",
        "CharDelimiterSplit", "FixedLength",
    )),
    (f"{DIGITS}/individual_digits", "true", r'\[1\]\.individual_digits: .*"true"; expected true or false'),
    (f"{DIGITS}/individual_digits", KeyError, r"\[1\]\.individual_digits: .*no value; expected true or"),
    (f"{SPLIT}/behavior", KeyError, r"\[0\]\.behavior: .*no value; expected Isolated, Merged"),
    (f"{SPLIT}/behavior", "Removed", r'\[0\]\.behavior: .*"Removed"; expected Isolated, Merged'),
    (f"{SPLIT}/behavior", "isolated", r"\[0\]\.behavior"),
    (f"{SPLIT}/invert", 1, r"\[0\]\.invert: .*1; expected true or false"),
    (f"{SPLIT}/invert", KeyError, r"\[0\]\.invert"),
    (f"{SPLIT}/pattern", "a", r"\[0\]\.pattern: .*expected \{\"Regex\": ...\} or \{\"String\""),
    (f"{SPLIT}/pattern", {"Regex": "a", "String": "a"}, r"\[0\]\.pattern"),
    *((f"{SPLIT}/pattern/Regex", expression, rf"\[0\]: pattern .*{named}") for expression, named in (
        (r"\w+", r"`\\w`"), (r"\b", r"`\\b`"), ("(?i)a", r"\(\?i\)"), ("(?i:straße)", "straße"),
        ("[[:alpha:]]", "alpha"), (r"\p{Script=Han}", "Script"), (r"a(?!b)", "look-around"),
        (r"(?:a?)*", "may be empty"), ("a{2}?", "leave the"), (r"\h", "unrecognized escape"),
        (r"(a)\1", "backref"), (r"a++", "possessive"),
    )),
    (f"{LAST}/add_prefix_space", True, r"\[2\]\.add_prefix_space"),
    (f"{LAST}/add_prefix_space", "no", r'add_prefix_space: .*"no"; expected true or false'),
    (f"{LAST}/use_regex", None, "use_regex: .*null; expected true or false"),
    (f"{LAST}/trim_offsets", 3, "trim_offsets: .*3; expected true or false"),
    (LAST, {"type": "Digits", "individual_digits": True}, "pre_tokenizer: .*ByteLevel as the last"),
    (SPLIT, BYTE_LEVEL, "behind ByteLevel"),
    ("pre_tokenizer", None, "pre_tokenizer: "),
    *(("decoder", {"type": kind}, rf"decoder: .*`{kind}`") for kind in (
        "BPEDecoder", "ByteFallback", "Fuse", "Metaspace", "Replace", "Sequence", "Strip", "WordPiece", "CTC",
    )),
    ("model/type", "Unigram", "model.type: .*Unigram"),
    ("model/unk_token", "<unk>", "model.unk_token"),
    ("model/byte_fallback", True, "model.byte_fallback"),
    ("model/dropout", 0.1, "model.dropout"),
    ("model/continuing_subword_prefix", "##", "model.continuing_subword_prefix"),
    ("model/end_of_word_suffix", "</w>", "model.end_of_word_suffix"),
    ("model/ignore_merges", "yes", "expected a boolean"),
    ("added_tokens/0/lstrip", "yes", "expected a boolean"),
    ("added_tokens/0/id", 300, r"added_tokens\[0\]\.id: .*`<s>` of id 300.*256"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), REFUSED)
def test_what_would_give_other_ids_is_refused_by_name(path: str, value: object, message: str) -> None:
    digits = {"type": "Digits", "individual_digits": True}
    plain = with_added(file_of(sequence(split("a"), digits)), [("<s>", {"special": True})])
    _core.Tokenizer.from_json(json.dumps(plain))
    file = copy.deepcopy(plain)
    changed(path, value)(file)
    with pytest.raises(TokenizerError, match=f"(?s){message}"):
        _core.Tokenizer.from_json(json.dumps(file))


PROPERTIES = [
    "L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P", "Pc", "Pd", "Ps",
    "Pe", "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "C", "Cc", "Cf", "Co", "Cn",
    "Han", "Hiragana", "Katakana", "Hangul", "Latin", "Greek", "Cyrillic", "Arabic", "Hebrew", "Thai",
    "Devanagari", "Armenian", "Georgian",
]  # fmt: skip


@pytest.mark.parametrize("name", PROPERTIES)
def test_properties_hold_the_characters_that_they_hold_there(name: str) -> None:
    # "a" merges with the first byte of any character that is not cut off from it.
    file = file_of(sequence(split(rf"\p{{{name}}}")))
    firsts = [LETTERS[byte] for byte in range(0xC2, 0xF5)]
    file["model"]["merges"] = [["a", first] for first in firsts]
    file["model"]["vocab"] |= {"a" + first: 256 + i for i, first in enumerate(firsts)}
    sampled = [c for c in range(0x80, 0x110000) if not 0xD800 <= c < 0xE000 and (c < 0x3000 or c % 13 == 0)]
    text = "".join("a" + chr(c) for c in sampled)
    ours = _core.Tokenizer.from_json(json.dumps(file)).encode(text, []).tolist()
    assert ours == tokenizers.Tokenizer.from_str(json.dumps(file)).encode(text).ids


@pytest.mark.parametrize("individual", [True, False])
def test_digits_are_those_of_hf(individual: bool) -> None:
    file = file_of(sequence({"type": "Digits", "individual_digits": individual}))
    firsts = [LETTERS[byte] for byte in range(0xC2, 0xF5)]
    file["model"]["merges"] = [["1", first] for first in firsts]
    file["model"]["vocab"] |= {"1" + first: 256 + i for i, first in enumerate(firsts)}
    text = "".join("1" + chr(c) for c in range(0x80, 0x20000) if not 0xD800 <= c < 0xE000)
    ours = _core.Tokenizer.from_json(json.dumps(file)).encode(text, []).tolist()
    assert ours == tokenizers.Tokenizer.from_str(json.dumps(file)).encode(text).ids


def test_the_unicode_version_is_the_one_stated() -> None:
    file = file_of({**BYTE_LEVEL, "use_regex": True}, "a\ua7dca\ua7cea\ua7dca\ua7ce")
    ours = _core.Tokenizer.from_json(json.dumps(file))
    # A letter since Unicode 16, and one since 17, behind a letter.
    assert penstock.unicode_version == "16.0"
    assert len(ours.encode("a\ua7dc", [])) == 1
    assert len(ours.encode("a\ua7ce", [])) > 1
