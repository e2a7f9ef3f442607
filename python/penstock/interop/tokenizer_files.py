"""Tokenizer files of other programs: one format to another, and folders that transformers loads.

A conversion keeps ids or fails. What a format has no place for, but changes no id, is named in the report.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from penstock import _core
from penstock.errors import ConfigError, TokenizerError
from penstock.interop.chat_template import read_template, template_notes
from penstock.interop.tiktoken_encoding import refuse_beyond_ranks
from penstock.interop.whole_file import write_text
from penstock.tokenizer import Tokenizer

__all__ = ["Conversion", "convert_tokenizer", "save_tokenizer"]

Paths = str | os.PathLike[str]
Format = Literal["folder", "json", "tiktoken"]

TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"
KEPT_KEYS = ("bos_token", "eos_token", "pad_token", "model_max_length", "padding_side", "truncation_side")
"""Of a source's tokenizer_config.json; the rest says how the source's own class works."""
SURROUNDINGS = ("post_processor", "truncation", "padding")
"""Of a source's tokenizer.json: what happens around the text, which penstock does not do itself."""


@dataclass(frozen=True)
class Conversion:
    """What was written."""

    path: str
    format: Format
    vocab_size: int
    pattern: str
    special_tokens: int
    sha256: str
    chat_template: bool
    notes: tuple[str, ...]
    """What the written file does not say, and what to mind when loading it."""


def convert_tokenizer(
    source: Paths,
    target: Paths,
    *,
    pattern: str | None = None,
    chat_template: Paths | None = None,
) -> Conversion:
    """Write a tokenizer in the format that the name of ``target`` asks for; ids stay as they are.

    Parameters
    ----------
    source, target
        A folder with tokenizer.json, a .json or a .tiktoken file.
    pattern
        How text is split, for a .tiktoken source, which does not say so.
    chat_template
        A Jinja file to put into the folder. Without it a template of the source folder is kept.

    Raises
    ------
    TokenizerError
        The source is damaged, or the target's format cannot express it; the message says what.
    ConfigError
        The chat template cannot be read, or has no place in the target.
    """
    source, target = Path(source), Path(target)
    tokenizer = Tokenizer.from_file(source, pattern)
    own_template = None if chat_template is None else read_template(Path(chat_template))
    kind = _format(target)
    if own_template is not None and kind != "folder":
        raise ConfigError(f"{target}: a chat template needs a folder; a single file has no place for it")
    surroundings = _Surroundings.of(source)
    template = surroundings.chat_template if own_template is None else own_template
    if kind == "tiktoken":
        refuse_beyond_ranks(
            json.loads(tokenizer.to_json()), f"{target}: a rank file cannot hold this tokenizer"
        )
        tokenizer.save(target)
        notes = _rank_notes(tokenizer, surroundings)
    else:
        notes = _write_json(tokenizer, target, kind, surroundings, template)
    return Conversion(
        str(target),
        kind,
        tokenizer.vocab_size,
        tokenizer.pattern,
        len(tokenizer.special_tokens),
        tokenizer.sha256,
        kind == "folder" and template is not None,
        tuple(notes),
    )


def save_tokenizer(tokenizer: Tokenizer, folder: Paths, chat_template: str | None = None) -> None:
    """Write a folder that ``transformers.AutoTokenizer.from_pretrained`` loads to the same ids.

    Parameters
    ----------
    chat_template
        The text of a Jinja template, for ``apply_chat_template``.

    Raises
    ------
    ConfigError
        The folder's name is that of a file, or it cannot be written.
    TokenizerError
        A tokenizer.json would not give the same ids.
    """
    if _format(Path(folder)) != "folder":
        raise ConfigError(f"{os.fspath(folder)}: expected the name of a folder, not of a file")
    _write_json(tokenizer, Path(folder), "folder", _Surroundings({}, {}, None), chat_template)


@dataclass(frozen=True)
class _Surroundings:
    """What stands around the vocabulary in the source."""

    file: dict[str, Any]
    config: dict[str, Any]
    chat_template: str | None

    @classmethod
    def of(cls, source: Path) -> _Surroundings:
        is_model_alone = source.is_dir() and not (source / "tokenizer.json").exists()
        if source.suffix in (".tiktoken", ".model") or is_model_alone:
            return cls({}, {}, None)
        folder = source if source.is_dir() else source.parent
        file = _json_object(source / "tokenizer.json" if source.is_dir() else source)
        config = _json_object(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
        beside = folder / TEMPLATE_FILE
        inline = config.get("chat_template")
        template = read_template(beside) if beside.is_file() else inline if isinstance(inline, str) else None
        return cls({k: file[k] for k in SURROUNDINGS if file.get(k) is not None}, config, template)


def _write_json(
    tokenizer: Tokenizer, target: Path, kind: Format, around: _Surroundings, template: str | None
) -> list[str]:
    """Write a tokenizer.json and, in a folder, what transformers wants beside it."""
    text = tokenizer.to_json()
    _check_same_ids(tokenizer, text, target)
    if around.file:
        text = json.dumps({**json.loads(text), **around.file}, ensure_ascii=False) + "\n"
    notes = [f"{name} kept for Hugging Face; penstock itself does not apply it" for name in around.file]
    if kind == "json":
        write_text(target, text)
        return [*notes, *(["chat template left out: only a folder has a place for it"] if template else [])]
    tokenizer.save(target)
    write_text(target / "tokenizer.json", text)
    config, dropped = _config(tokenizer, _json_object(target / CONFIG_FILE), around.config)
    write_text(target / CONFIG_FILE, json.dumps(config, ensure_ascii=False, indent=2) + "\n")
    if template is not None:
        write_text(target / TEMPLATE_FILE, template)
        notes += template_notes(template, tokenizer)
    return notes + dropped


def _config(
    tokenizer: Tokenizer, ours: dict[str, Any], theirs: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """tokenizer_config.json with what the source's states, and notes on tokens that are not there."""
    kept, notes = {}, []
    for key in KEPT_KEYS:
        value = theirs.get(key)
        if value is None:
            continue
        name = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and (not isinstance(name, str) or tokenizer.token_to_id(name) is None):
            notes.append(f"{key} {name!r} of the source left out: not in the vocabulary")
        else:
            kept[key] = name if key.endswith("_token") else value
    return {**ours, **kept}, notes


def _rank_notes(tokenizer: Tokenizer, around: _Surroundings) -> list[str]:
    how = f"load it with --pattern {tokenizer.pattern}"
    if tokenizer.pattern == "custom":
        how = "only the source does, whose split has no name to load it with"
    notes = [f"a rank file does not say how text is split: {how}"]
    names = ", ".join(tokenizer.special_tokens)
    if names:
        notes.append(f"special tokens are implied by pattern and size, not written: {_shortened(names)}")
    notes += [f"{name} left out: a rank file has no place for it" for name in around.file]
    return notes + (
        ["chat template left out: a rank file has no place for it"] if around.chat_template else []
    )


def _check_same_ids(tokenizer: Tokenizer, text: str, target: Path) -> None:
    """Ranks and listed merges can differ where two merges make one token: all tokens' texts are tried."""
    again = Tokenizer(_core.Tokenizer.from_json(text))
    if again == tokenizer:
        return
    tokens = [tokenizer.id_to_bytes(i) or b"" for i in range(tokenizer.vocab_size)]
    texts = [token.decode("utf-8", "ignore") for token in tokens]
    runs = [token * 40 for token in texts if 0 < len(token) <= 2]
    for sample in (texts, runs):
        ours, theirs = tokenizer.encode_batch(sample), again.encode_batch(sample)
        if ours.tolist() != theirs.tolist():
            wrong = next(t for t, a, b in zip(sample, ours, theirs, strict=True) if a.tolist() != b.tolist())
            raise TokenizerError(
                f"{target}: a tokenizer.json would give other ids, for example for {wrong!r}"
            )


def _format(path: Path) -> Format:
    if path.suffix == ".tiktoken":
        return "tiktoken"
    if path.suffix == ".json":
        return "json"
    if near := get_close_matches(path.suffix, (".json", ".tiktoken"), n=1):
        raise ConfigError(f"{path}: nothing is written under such a name; did you mean {near[0]!r}?")
    if path.is_file():
        raise ConfigError(f"{path}: a file; expected a folder, a .json or a .tiktoken file to write")
    return "folder"


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _shortened(words: str, length: int = 120) -> str:
    return words if len(words) <= length else words[:length] + " ..."
