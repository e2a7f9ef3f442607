"""A tokenizer of ours as a ``tiktoken.Encoding``.

tiktoken knows ranks, one regular expression and special tokens. What a tokenizer holds beyond that is refused
by name rather than dropped, since dropping it would change ids.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import TokenizerError
from penstock.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tiktoken

__all__ = ["refuse_beyond_ranks", "to_tiktoken"]

REFUSAL = "tiktoken cannot express this tokenizer"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What a ByteLevel step with ``use_regex`` stands for."""

# DeepSeek-V3 splits three times: digits, then CJK, then the rest. In one expression the classes of the third
# leave out what the first two took, and "followed by nothing" also means "followed by digits or CJK".
_CJK = "一-龥぀-ゟ゠-ヿ"
_ASCII_MARKS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_LETTERS = rf"[\p{{L}}\p{{M}}&&[^{_CJK}]]"
DEEPSEEK_V3 = "|".join(
    [
        r"\p{N}{1,3}",
        f"[{_CJK}]+",
        f"{_ASCII_MARKS}[A-Za-z]+",
        rf"[^\r\n\p{{L}}\p{{P}}\p{{S}}\p{{N}}{_CJK}]?{_LETTERS}+",
        rf" ?[\p{{P}}\p{{S}}&&[^{_CJK}]]+[\r\n]*",
        r"\s*[\r\n]+",
        rf"\s+(?![^\s\p{{N}}{_CJK}])",
        r"\s+",
        rf"[^\s\p{{L}}\p{{M}}\p{{N}}\p{{P}}\p{{S}}]+(?!{_LETTERS})",
    ]
)


def to_tiktoken(tokenizer: Tokenizer, name: str = "penstock") -> tiktoken.Encoding:
    """A ``tiktoken.Encoding`` that gives the same ids, special tokens included. Needs tiktoken.

    Parameters
    ----------
    name
        By which tiktoken shows it.

    Raises
    ------
    TokenizerError
        The tokenizer holds what tiktoken cannot express: a normaliser, added tokens that are not special, a
        split in several steps other than DeepSeek-V3's, merges other than those that the ids as ranks give.
    """
    import tiktoken

    file: dict[str, Any] = json.loads(tokenizer.to_json())
    pattern = _one_expression(tokenizer.pattern, file["pre_tokenizer"])
    refuse_beyond_ranks(file, REFUSAL)
    if not _ranks_say_all(tokenizer, file):
        raise _refusal(
            "its merges cannot be shown to be those that its ids as ranks give; "
            "load the rank file it was made from, if there is one"
        )
    added = {token["id"] for token in file["added_tokens"]}
    ranks = {
        token: i
        for i in range(tokenizer.vocab_size)
        if i not in added and (token := tokenizer.id_to_bytes(i)) is not None
    }
    return tiktoken.Encoding(
        name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=tokenizer.special_tokens
    )


def refuse_beyond_ranks(file: dict[str, Any], refusal: str) -> None:
    """Refuse what a tokenizer.json states and ranks with special tokens cannot.

    Raises
    ------
    TokenizerError
        ``refusal`` and the reason.
    """
    added = file["added_tokens"]
    plain = [token["content"] for token in added if not token["special"]]
    odd = [t["content"] for t in added if t["lstrip"] or t["rstrip"] or t["single_word"]]
    if file["normalizer"] is not None:
        reason = f"its {file['normalizer']['type']} normaliser changes text before it is split"
    elif plain:
        reason = f"{len(plain)} added tokens are not special, the first of them {plain[0]!r}"
    elif odd:
        reason = f"special tokens match white space around them or whole words only, such as {odd[0]!r}"
    else:
        return
    raise TokenizerError(f"{refusal}: {reason}")


def _one_expression(name: str, pre_tokenizer: dict[str, Any]) -> str:
    """The split as one regular expression that leaves no character out."""
    if name == "deepseek-v3":
        return DEEPSEEK_V3
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    kinds = {step["type"] for step in steps}
    splits = [step["pattern"]["Regex"] for step in steps if step["type"] == "Split"]
    if kinds <= {"Split", "ByteLevel"}:
        splits += [GPT2 for step in steps if step["type"] == "ByteLevel" and step["use_regex"]]
        if len(splits) == 1:
            # tiktoken drops what no alternative matches; here it is a piece, as it is in ours.
            return f"{splits[0]}|(?:(?!{splits[0]})[\\s\\S])+" if splits[0] != GPT2 else GPT2
    raise _refusal(f"its text is split in {len(steps)} steps ({', '.join(s['type'] for s in steps)})")


def _ranks_say_all(tokenizer: Tokenizer, file: dict[str, Any]) -> bool:
    """Whether a rank file can be written, with the special tokens as they are or left out.

    Writing one proves that ids as ranks give the same merges. Which control tokens a rank file implies
    depends on the pattern and the size, but has no part in that proof.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ranks.tiktoken"
        try:
            tokenizer.save(path)
            return True
        except TokenizerError:
            without = folder + "/tokenizer.json"
            Path(without).write_text(json.dumps(_without_specials(file)), encoding="utf-8")
        try:
            Tokenizer.from_file(without).save(path)
            return True
        except TokenizerError:
            return False


def _without_specials(file: dict[str, Any]) -> dict[str, Any]:
    """The file with its ordinary tokens numbered from 0, one control token behind them, and a plain split."""
    added = {token["content"] for token in file["added_tokens"]}
    ordinary = [token for token, _ in sorted(file["model"]["vocab"].items(), key=lambda item: item[1])]
    kept = [token for token in ordinary if token not in added]
    end = {"id": len(kept), "content": "<|endoftext|>", "special": True}
    model = {**file["model"], "vocab": {token: i for i, token in enumerate(kept)}}
    split = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    return {**file, "added_tokens": [end], "model": model, "pre_tokenizer": split}


def _refusal(reason: str) -> TokenizerError:
    return TokenizerError(f"{REFUSAL}: {reason}")
