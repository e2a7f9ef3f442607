"""``penstock tokenizer``: train, encode, decode, inspect."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from penstock.cli.outcome import JsonFlag, emit, guarded

if TYPE_CHECKING:
    from penstock.decoding import Errors
    from penstock.tokenizer import Tokenizer

__all__ = ["app"]

app = typer.Typer(
    help="Train a tokenizer, encode and decode with it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

TokenizerPath = Annotated[
    Path, typer.Option("-t", "--tokenizer", help="A tokenizer folder, or a .json, .tiktoken or .model file.")
]
Pattern = Annotated[
    str | None, typer.Option("--pattern", help="The split pattern; needed for a .tiktoken file alone.")
]


@app.command("train")
@guarded
def train(
    out: Annotated[
        Path, typer.Option("-o", "--out", help="A folder, or a .json or .tiktoken file, to write.")
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help=".jsonl, .txt, .parquet or .arrow; plain, .gz or .zst. None with --counts alone."
        ),
    ] = None,
    vocab_size: Annotated[int, typer.Option(help="Tokens in all, specials included.")] = 128_000,
    also_size: Annotated[
        list[int] | None,
        typer.Option(help="A smaller size to write besides, to OUT/SIZE; may be given more than once."),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            help="gpt2, cl100k, o200k, llama3, qwen2, qwen3.5, tekken, deepseek-llm, deepseek-coder or "
            "deepseek-v3 (the default); or a regular expression without look-around."
        ),
    ] = None,
    special_token: Annotated[
        list[str] | None,
        typer.Option(help="A control token, may be given more than once; end of text first."),
    ] = None,
    min_frequency: Annotated[int, typer.Option(help="Pairs rarer than this are never merged.")] = 0,
    max_token_bytes: Annotated[int | None, typer.Option(help="No token gets longer.")] = None,
    reserved: Annotated[int, typer.Option(help="Further control tokens, for later use.")] = 0,
    max_memory: Annotated[
        str | None,
        typer.Option(help="A bound for the whole process, such as 2G; what does not fit goes to disk."),
    ] = None,
    spill_dir: Annotated[
        Path | None, typer.Option(help="Where that goes; the folder for temporary files by default.")
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE=N", help="Documents of this source count N times; may be given more than once."
        ),
    ] = None,
    max_bytes: Annotated[int, typer.Option(help="Count at most this much text; 0 means all.")] = 0,
    extend: Annotated[
        Path | None, typer.Option(help="A tokenizer whose ids and merges are kept; new ones come behind.")
    ] = None,
    counts: Annotated[
        list[Path] | None, typer.Option(help="Saved counts to add; may be given more than once.")
    ] = None,
    save_counts: Annotated[
        Path | None, typer.Option(help="A file for the counts, to go on from later.")
    ] = None,
    superbpe: Annotated[
        float | None,
        typer.Option(help="Share of the vocabulary after which tokens may reach across spaces, such as 0.6."),
    ] = None,
    text_field: Annotated[str, typer.Option(help="The JSON key or column that holds the text.")] = "text",
    threads: Annotated[int | None, typer.Option(help="All cores by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Learn a byte-level BPE vocabulary; the same text gives the same bits on any number of threads.

    Example: penstock tokenizer train corpus/*.jsonl.zst --vocab-size 128000 -o tok/
    """
    from penstock.report.progress import job_callback, open_view
    from penstock.tokenizer import Tokenizer

    if not files and not counts:
        raise typer.BadParameter("name files of text, or saved counts with --counts", param_hint="FILES")
    if also_size and out.suffix in {".json", ".tiktoken"}:
        raise typer.BadParameter("several sizes need a folder", param_hint="--out")
    if larger := [size for size in also_size or () if size > vocab_size]:
        raise typer.BadParameter(
            f"{larger[0]} is larger than --vocab-size, {vocab_size}", param_hint="--also-size"
        )
    weights = _weights(weight or ())
    with open_view(as_json) as view, warnings.catch_warnings():
        # The command says itself, below, what was sampled.
        warnings.simplefilter("ignore", UserWarning)
        tok = Tokenizer.train(
            files or (),
            vocab_size,
            pattern,
            special_token or ("<|endoftext|>",),
            min_frequency=min_frequency,
            max_token_bytes=max_token_bytes,
            reserved=reserved,
            max_memory=max_memory,
            spill_folder=spill_dir,
            weights=weights,
            max_bytes=max_bytes,
            extend=None if extend is None else Tokenizer.from_file(extend),
            counts=counts or (),
            save_counts=save_counts,
            superbpe=superbpe,
            text_field=text_field,
            threads=threads,
            progress=job_callback(view, "tokenizer"),
        )
    # First of all, so that a size that cannot be does not cost the training.
    tok.save(out)
    smaller = [(out / str(size), tok.prefix(size)) for size in also_size or ()]
    for path, prefix in smaller:
        prefix.save(path)
    result = {
        "path": out,
        "vocab_size": tok.vocab_size,
        "pattern": tok.pattern,
        "sha256": tok.sha256,
        "also": [path for path, _ in smaller],
        "training": tok.training,
    }
    emit(result, as_json, lambda: _trained_words(out, tok))


def _trained_words(out: Path, tok: Tokenizer) -> str:
    words = f"{out}: {tok.vocab_size:,} tokens, pattern {tok.pattern}"
    sampled = tok.training.sampling_words() if tok.training else ""
    return f"{words}\nsampled: {sampled}" if sampled else words


def _weights(options: Iterable[str]) -> dict[str, int]:
    from penstock.errors import ConfigError

    weights = {}
    for option in options:
        source, _, number = option.rpartition("=")
        if not source or not number.isdecimal():
            raise ConfigError(f"--weight {option}: expected SOURCE=N with a whole number N, such as en=2")
        weights[source] = int(number)
    return weights


@app.command("encode")
@guarded
def encode(
    tokenizer: TokenizerPath,
    text: Annotated[str, typer.Argument(help="The text; - reads stdin.")] = "-",
    pattern: Pattern = None,
    allow_special: Annotated[
        bool, typer.Option("--allow-special", help="Special-token strings become control tokens.")
    ] = False,
    boundary_split: Annotated[
        float,
        typer.Option(help="Share of the tokens joining punctuation and line breaks that are split in two."),
    ] = 0.0,
    dropout: Annotated[float, typer.Option(help="Share of the merges left out (BPE-dropout).")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of both.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Print the token ids of a text.

    Example: penstock tokenizer encode -t tok/ "Hello, world"
    """
    from penstock.tokenizer import Tokenizer

    tok = Tokenizer.from_file(tokenizer, pattern)
    ids = tok.encode(
        _text(text),
        allowed_special="all" if allow_special else (),
        boundary_split=boundary_split,
        dropout=dropout,
        seed=seed,
    )
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
    path: Annotated[Path, typer.Argument(help="A tokenizer folder, or a .json, .tiktoken or .model file.")],
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
