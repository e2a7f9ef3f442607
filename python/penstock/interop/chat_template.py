"""Chat templates: the Jinja text by which transformers turns messages into a prompt."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from penstock.errors import ConfigError
from penstock.tokenizer import Tokenizer

__all__ = ["read_template", "template_notes"]

MAX_TEMPLATE_BYTES = 1 << 20
CONTROL_TOKEN = re.compile(r"<[|｜][^\s'\"{}<>]{1,64}[|｜]>")
# transformers adds this tag to Jinja; to a plain parser it is a mistake.
GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


def read_template(path: Path) -> str:
    """The text of a template file, checked as far as can be done without running it.

    Raises
    ------
    ConfigError
        It cannot be read, is empty, far too large, not UTF-8, or not Jinja (checked where jinja2 is there).
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TEMPLATE_BYTES + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: the chat template cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the chat template is not UTF-8 at byte {error.start}") from error
    if len(raw) > MAX_TEMPLATE_BYTES:
        raise ConfigError(f"{path}: a chat template of more than {MAX_TEMPLATE_BYTES:,} bytes")
    if not text.strip():
        raise ConfigError(f"{path}: the chat template is empty")
    _check_syntax(text, path)
    return text


def template_notes(template: str, tokenizer: Tokenizer) -> list[str]:
    """Control tokens that the template writes and the tokenizer lacks: they would become ordinary text."""
    names = sorted(set(CONTROL_TOKEN.findall(template)) - set(tokenizer.special_tokens))
    if not names:
        return []
    return [f"the chat template writes what is no special token here: {', '.join(names[:8])}"]


def _check_syntax(text: str, path: Path) -> None:
    if importlib.util.find_spec("jinja2") is None:
        return
    from jinja2 import Environment, TemplateSyntaxError

    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(GENERATION_TAG.sub("", text))
    except (TemplateSyntaxError, RecursionError) as error:
        place = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise ConfigError(f"{path}{place}: not a Jinja template: {error}") from error
