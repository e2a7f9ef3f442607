"""``penstock tokenizer convert``: one tokenizer format to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.outcome import JsonFlag, emit, guarded

if TYPE_CHECKING:
    from penstock.interop.tokenizer_files import Conversion

__all__ = ["convert"]


@guarded
def convert(
    source: Annotated[
        Path, typer.Argument(help="A folder with tokenizer.json, a .json or a .tiktoken file.")
    ],
    target: Annotated[Path, typer.Argument(help="A folder, or a .json or .tiktoken file, to write.")],
    pattern: Annotated[
        str | None, typer.Option("--pattern", help="The split pattern of a .tiktoken source.")
    ] = None,
    chat_template: Annotated[
        Path | None,
        typer.Option("--chat-template", help="A Jinja file, kept in the folder as transformers does."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Turn a Hugging Face tokenizer.json into a .tiktoken file or back; ids stay as they are.

    A folder is what transformers.AutoTokenizer loads. What the target cannot express is an error, never
    dropped; what changes no id but has no place there is said.

    Example: penstock tokenizer convert cl100k_base.tiktoken tok/ --pattern cl100k --chat-template chat.jinja
    """
    from penstock.interop.tokenizer_files import convert_tokenizer

    done = convert_tokenizer(source, target, pattern=pattern, chat_template=chat_template)
    emit(done, as_json, lambda: _words(done))


def _words(done: Conversion) -> str:
    template = ", chat template" if done.chat_template else ""
    first = (
        f"{done.path}: {done.vocab_size:,} tokens, {done.special_tokens} of them special, "
        f"pattern {done.pattern}{template}"
    )
    return "\n".join([first, *(f"note: {note}" for note in done.notes)])
