"""``penstock tokenizer``: train, encode, decode, inspect."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from penstock.cli.outcome import JsonFlag, emit, guarded

if TYPE_CHECKING:
    from penstock.decoding import Errors

__all__ = ["app"]

app = typer.Typer(
    help="Train a tokenizer, encode and decode with it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

TokenizerPath = Annotated[
    Path, typer.Option("-t", "--tokenizer", help="A tokenizer folder, a tokenizer.json or a .tiktoken file.")
]
Pattern = Annotated[
    str | None, typer.Option("--pattern", help="The split pattern; needed for a .tiktoken file alone.")
]


@app.command("train")
@guarded
def train(
    files: Annotated[
        list[Path], typer.Argument(help=".jsonl, .txt, .parquet or .arrow; plain, .gz or .zst.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="A folder, or a .json or .tiktoken file, to write.")
    ],
    vocab_size: Annotated[int, typer.Option(help="Tokens in all, specials included.")] = 128_000,
    pattern: Annotated[
        str, typer.Option(help="gpt2, cl100k, o200k, llama3, qwen2 or deepseek-v3.")
    ] = "deepseek-v3",
    special_token: Annotated[
        list[str] | None,
        typer.Option(help="A control token, may be given more than once; end of text first."),
    ] = None,
    min_frequency: Annotated[int, typer.Option(help="Pairs rarer than this are never merged.")] = 0,
    max_bytes: Annotated[int, typer.Option(help="Count at most this much text; 0 means all.")] = 0,
    text_field: Annotated[str, typer.Option(help="The JSON key or column that holds the text.")] = "text",
    threads: Annotated[int | None, typer.Option(help="All cores by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Learn a byte-level BPE vocabulary; the same text gives the same bits on any number of threads.

    Example: penstock tokenizer train corpus/*.jsonl.zst --vocab-size 128000 -o tok/
    """
    from penstock.report.progress import job_callback, open_view
    from penstock.tokenizer import Tokenizer

    with open_view(as_json) as view:
        tok = Tokenizer.train(
            files,
            vocab_size,
            pattern,
            special_token or ("<|endoftext|>",),
            min_frequency=min_frequency,
            max_bytes=max_bytes,
            text_field=text_field,
            threads=threads,
            progress=job_callback(view, "tokenizer"),
        )
    tok.save(out)
    result = {"path": out, "vocab_size": tok.vocab_size, "pattern": tok.pattern, "sha256": tok.sha256}
    emit(result, as_json, lambda: f"{out}: {tok.vocab_size:,} tokens, pattern {tok.pattern}")


@app.command("encode")
@guarded
def encode(
    tokenizer: TokenizerPath,
    text: Annotated[str, typer.Argument(help="The text; - reads stdin.")] = "-",
    pattern: Pattern = None,
    allow_special: Annotated[
        bool, typer.Option("--allow-special", help="Special-token strings become control tokens.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Print the token ids of a text.

    Example: penstock tokenizer encode -t tok/ "Hello, world"
    """
    from penstock.tokenizer import Tokenizer

    tok = Tokenizer.from_file(tokenizer, pattern)
    ids = tok.encode(_text(text), allowed_special="all" if allow_special else ())
    emit({"ids": ids, "tokens": len(ids)}, as_json, lambda: " ".join(map(str, ids)))


@app.command("decode")
@guarded
def decode(
    tokenizer: TokenizerPath,
    ids: Annotated[list[str] | None, typer.Argument(help="Token ids; none reads them from stdin.")] = None,
    pattern: Pattern = None,
    errors: Annotated[
        str, typer.Option(help="What becomes of bytes that are no UTF-8: replace, strict or ignore.")
    ] = "replace",
    as_json: JsonFlag = False,
) -> None:
    """Print the text of token ids.

    Example: penstock tokenizer decode -t tok/ 17 4 291
    """
    from penstock.errors import TokenizerError
    from penstock.tokenizer import Tokenizer

    words = " ".join(ids) if ids else sys.stdin.read()
    try:
        numbers = [int(word) for word in words.replace(",", " ").split()]
    except ValueError as error:
        raise TokenizerError(f"token ids are whole numbers with spaces between them: {error}") from error
    if any(number < 0 or number > 0xFFFF_FFFF for number in numbers):
        raise TokenizerError(f"token ids lie between 0 and 2**32 - 1, not {min(numbers)} to {max(numbers)}")
    text = Tokenizer.from_file(tokenizer, pattern).decode(numbers, cast("Errors", errors))
    emit({"text": text}, as_json, lambda: text)


@app.command("inspect")
@guarded
def inspect(
    path: Annotated[Path, typer.Argument(help="A tokenizer folder, a tokenizer.json or a .tiktoken file.")],
    pattern: Pattern = None,
    as_json: JsonFlag = False,
) -> None:
    """What a tokenizer holds.

    Example: penstock tokenizer inspect tok/
    """
    from penstock.cli.contents import tokenizer_facts
    from penstock.cli.table import two_columns

    facts = tokenizer_facts(path, pattern)
    emit(facts, as_json, lambda: two_columns(facts))


def _text(argument: str) -> str:
    """The argument, or stdin; undecodable bytes there are the user's error, not a traceback."""
    from penstock.errors import InputError

    if argument != "-":
        return argument
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"stdin: not UTF-8 at byte {error.start}") from error
