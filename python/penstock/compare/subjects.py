"""The tokenizers of a comparison, as the command line names them: ``[NAME=]PATH[@PATTERN]``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from penstock.errors import ConfigError
from penstock.tokenizer import Tokenizer

__all__ = ["Subject", "load_subjects"]

SUFFIXES = (".tokenizer.json", ".json", ".tiktoken", ".model")
TEXT_SUFFIXES = {".jsonl", ".ndjson", ".txt", ".parquet", ".arrow", ".zst", ".gz"}


@dataclass(frozen=True)
class Subject:
    """A tokenizer and what to call it."""

    name: str
    tokenizer: Tokenizer
    path: str = ""


def load_subjects(arguments: Sequence[str]) -> list[Subject]:
    """Load the tokenizers in the order given.

    Raises
    ------
    ConfigError
        An argument names a text file, or a rank file without its pattern.
    TokenizerError
        A tokenizer cannot be read.
    """
    subjects = [_load(argument) for argument in arguments]
    return distinct(subjects)


def distinct(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects with names that no two share."""
    seen: Counter[str] = Counter()
    named = []
    for subject in subjects:
        seen[subject.name] += 1
        count = seen[subject.name]
        named.append(replace(subject, name=f"{subject.name} ({count})") if count > 1 else subject)
    return named


def _load(argument: str) -> Subject:
    name, path, pattern = _parts(argument)
    if path.suffix in TEXT_SUFFIXES:
        raise ConfigError(
            f"{argument}: a text, not a tokenizer; give each text file its own --corpus, or name their folder"
        )
    if path.suffix == ".tiktoken" and path.is_file() and pattern is None:
        raise ConfigError(
            f"{argument}: a rank file does not say how text is split; append its pattern, as in "
            f"{path.name}@cl100k"
        )
    return Subject(name or _default_name(path), Tokenizer.from_file(path, pattern), str(path))


def _parts(argument: str) -> tuple[str | None, Path, str | None]:
    """Name, path and pattern. What exists under the whole argument is a path, whatever signs it holds."""
    name = pattern = None
    rest = argument
    if not Path(rest).exists() and "=" in rest:
        name, _, rest = rest.partition("=")
    if not Path(rest).exists() and "@" in rest:
        rest, _, pattern = rest.rpartition("@")
    return name, Path(rest), pattern


def _default_name(path: Path) -> str:
    if path.name == "tokenizer.json" or not path.name:
        path = path.resolve().parent if path.name else path.resolve()
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix) or str(path)
