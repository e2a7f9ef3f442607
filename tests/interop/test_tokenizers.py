"""Tokenizers of ours in transformers and tiktoken, and conversions between their files: the same ids."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock import ConfigError, Tokenizer, TokenizerError
from penstock.interop import convert_tokenizer, save_tokenizer, to_tiktoken

tiktoken = pytest.importorskip("tiktoken")
transformers = pytest.importorskip("transformers")

PATTERNS = [
    "gpt2", "cl100k", "o200k", "llama3", "qwen2", "qwen3.5", "tekken", "deepseek-llm", "deepseek-coder",
    "deepseek-v3",
]  # fmt: skip
IN_MANY_STEPS = {"deepseek-llm", "deepseek-coder"}
"""What no single expression says."""
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What the scanners tell apart, for strings in which every neighbourhood turns up.
ALPHABET = [
    " ", "  ", "\n", "\r\n", "\t", "1", "22", "٣", "a", "B", "é", "\u0301", "汉", "か", "ア", "・",
    "゠", "\u3099", "゛", "ー", "!", "…", "€", "'s", "\x00", "\x01", "\u200b", "\ue000", "\u2028",
    "한", "½", "\u0378", ".", "-", "\u3000", "א", "Ａ", "Ꭰ", "。", "→", "\u2003",
]  # fmt: skip


@pytest.fixture(scope="module")
def texts(stdlib_texts: list[str]) -> list[str]:
    rng = random.Random(0)
    odd = ["".join(rng.choices(ALPHABET, k=rng.randrange(1, 14))) for _ in range(4000)]
    return [text[:20_000] for text in stdlib_texts[:10]] + odd


@pytest.fixture(scope="module", params=PATTERNS)
def tokenizer(request: pytest.FixtureRequest, stdlib_texts: list[str]) -> Tokenizer:
    return Tokenizer.train(stdlib_texts[:20], 1200, request.param, special_tokens=SPECIALS)


def test_tiktoken_gives_the_same_ids(tokenizer: Tokenizer, texts: list[str]) -> None:
    if tokenizer.pattern in IN_MANY_STEPS:
        with pytest.raises(TokenizerError, match=r"split in \d steps"):
            to_tiktoken(tokenizer)
        return
    encoding = to_tiktoken(tokenizer, "ours")
    assert encoding.name == "ours"
    ours = tokenizer.encode_batch(texts).tolist()
    assert encoding.encode_ordinary_batch(texts) == ours
    assert encoding.decode_batch(ours) == texts
    text = "<|im_start|>hello<|im_end|>"
    assert encoding.encode(text, allowed_special="all") == tokenizer.encode(text, allowed_special="all")
    assert encoding.eot_token == tokenizer.eot_id


def test_transformers_loads_a_folder_with_its_chat_template(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path
) -> None:
    save_tokenizer(tokenizer, tmp_path, chat_template=TEMPLATE)
    assert Tokenizer.from_file(tmp_path) == tokenizer
    ours = tokenizer.encode_batch(texts).tolist()
    for loaded in (
        transformers.AutoTokenizer.from_pretrained(tmp_path),
        transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path),
    ):
        assert loaded(texts, add_special_tokens=False)["input_ids"] == ours
        assert loaded.chat_template == TEMPLATE
        assert (loaded.eos_token_id, len(loaded)) == (tokenizer.eot_id, tokenizer.vocab_size)
        messages = [{"role": "user", "content": "Why 1234?\n"}]
        prompt = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = loaded.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert prompt == "<|im_start|>user\nWhy 1234?\n<|im_end|>\n<|im_start|>assistant\n"
        assert ids == tokenizer.encode(prompt, allowed_special="all")


def test_transformers_saves_what_we_load_again(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path / "ours", chat_template=TEMPLATE)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    loaded.save_pretrained(tmp_path / "theirs")
    done = convert_tokenizer(tmp_path / "theirs", tmp_path / "again")
    assert done.chat_template
    assert Tokenizer.from_file(tmp_path / "again") == tokenizer
    assert (tmp_path / "again/chat_template.jinja").read_text() == TEMPLATE


@pytest.mark.parametrize(("file", "pattern"), [("cl100k_base", "cl100k"), ("llama3", "llama3")])
def test_published_rank_files_become_folders_and_encodings(
    shared: Path, file: str, pattern: str, texts: list[str], tmp_path: Path
) -> None:
    source = shared / f"eval/tokenizer/vocab/{file}.tiktoken"
    ours = Tokenizer.from_file(source, pattern)
    done = convert_tokenizer(source, tmp_path / "tok", pattern=pattern)
    assert (done.format, done.vocab_size, done.pattern) == ("folder", ours.vocab_size, pattern)
    ids = ours.encode_batch(texts).tolist()
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "tok")
    assert loaded(texts, add_special_tokens=False)["input_ids"] == ids
    assert Tokenizer.from_file(tmp_path / "tok").special_tokens == ours.special_tokens
    assert to_tiktoken(ours).encode_ordinary_batch(texts) == ids


def test_gpt2_goes_to_ranks_and_back(shared: Path, texts: list[str], tmp_path: Path) -> None:
    from tiktoken.load import load_tiktoken_bpe

    source = shared / "eval/tokenizer/vocab/gpt-2.tokenizer.json"
    ids = Tokenizer.from_file(source).encode_batch(texts).tolist()
    done = convert_tokenizer(source, tmp_path / "gpt2.tiktoken")
    assert "--pattern gpt2" in done.notes[0]
    convert_tokenizer(tmp_path / "gpt2.tiktoken", tmp_path / "gpt2.json", pattern="gpt2")
    assert Tokenizer.from_file(tmp_path / "gpt2.json").encode_batch(texts).tolist() == ids
    ranks = load_tiktoken_bpe(str(tmp_path / "gpt2.tiktoken"))
    assert to_tiktoken(Tokenizer.from_file(source))._mergeable_ranks == ranks


@pytest.mark.parametrize(
    ("file", "reason"),
    [("qwen2", "NFC normaliser"), ("deepseek-llm", "13 added tokens are not special"), ("llama3", "merges")],
)
def test_what_ranks_cannot_say_is_named(shared: Path, file: str, reason: str, tmp_path: Path) -> None:
    source = shared / f"eval/tokenizer/vocab/{file}.tokenizer.json"
    with pytest.raises(TokenizerError, match=reason):
        convert_tokenizer(source, tmp_path / "out.tiktoken")
    assert not list(tmp_path.iterdir())
    with pytest.raises(TokenizerError, match="tiktoken cannot express"):
        to_tiktoken(Tokenizer.from_file(source))


def test_what_stands_around_the_vocabulary_is_kept(texts: list[str], tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(texts[:10], 600, "llama3", special_tokens=SPECIALS)
    source = tmp_path / "source"
    tokenizer.save(source)
    file = json.loads((source / "tokenizer.json").read_text())
    start = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    file["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    (source / "tokenizer.json").write_text(json.dumps(file))
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "eos_token": {"content": "<|im_end|>"},
        "bos_token": "<nope>",
    }
    config |= {"model_max_length": 4096, "chat_template": TEMPLATE + "<|unknown|>", "auto_map": {"x": "y"}}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    done = convert_tokenizer(source, tmp_path / "out")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.encode("hi") == [1, *tokenizer.encode("hi")]
    assert (loaded.eos_token, loaded.model_max_length) == ("<|im_end|>", 4096)
    assert loaded.chat_template == TEMPLATE + "<|unknown|>"
    assert "auto_map" not in (tmp_path / "out/tokenizer_config.json").read_text()
    notes = "\n".join(done.notes)
    for words in ("post_processor kept", "<|unknown|>", "bos_token '<nope>'"):
        assert words in notes


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{% for m in messages %}", "line 1: not a Jinja template"),
        (b"", "is empty"),
        (b"\xff", "not UTF-8 at byte 0"),
        (None, "cannot be read"),
        (b"x" * (2 << 20), "more than"),
    ],
    ids=["syntax", "empty", "bytes", "missing", "large"],
)
def test_a_wrong_chat_template_is_refused(content: bytes | None, reason: str, tmp_path: Path) -> None:
    Tokenizer.train(["a text of words"] * 9, 270, "gpt2").save(tmp_path / "tok")
    template = tmp_path / "chat.jinja"
    if content is not None:
        template.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        convert_tokenizer(tmp_path / "tok", tmp_path / "out", chat_template=template)
    assert not (tmp_path / "out").exists()


def test_a_target_without_a_place_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["a text of words"] * 9, 270, "gpt2")
    tokenizer.save(tmp_path / "tok")
    (tmp_path / "chat.jinja").write_text("{{ generation }}{% generation %}x{% endgeneration %}")
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("out.json", {"chat_template": tmp_path / "chat.jinja"}, "needs a folder"),
        ("out.tiktokn", {}, "did you mean '.tiktoken'"),
        ("chat.jinja", {}, "expected a folder"),
    ]
    for name, options, reason in wrong:
        with pytest.raises(ConfigError, match=reason):
            convert_tokenizer(tmp_path / "tok", tmp_path / name, **options)
    assert convert_tokenizer(tmp_path / "tok", tmp_path / "ok", chat_template=tmp_path / "chat.jinja")
    with pytest.raises(ConfigError, match="name of a folder"):
        save_tokenizer(tokenizer, tmp_path / "x.json")


def test_tokenizers_need_no_torch() -> None:
    code = (
        "import sys; from penstock.interop import convert_tokenizer, to_tiktoken; "
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
