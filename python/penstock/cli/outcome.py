"""How a command ends: its result on stdout, a clean message on stderr, an exit code.

====  ======================================================================
0     done
1     something the user can put right: one message, no traceback
2     the command line itself is wrong (typer's own)
130   interrupted
====  ======================================================================

``PENSTOCK_DEBUG=1`` shows the traceback of a user error.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ParamSpec

import typer

from penstock.errors import Cancelled, InternalError, PenstockError

__all__ = ["JsonFlag", "Overrides", "emit", "guarded", "plain"]

USER_ERROR = 1
INTERRUPTED = 130
EXTRAS = {
    "matplotlib": "train",
    "pyarrow": "arrow",
    "safetensors": "train",
    "tensorboard": "train",
    "torch": "train",
    "triton": "train",
}

P = ParamSpec("P")

JsonFlag = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout, events on stderr.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Change a recipe key; may be given more than once."
    ),
]


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """The command with its errors turned into messages and exit codes."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            command(*args, **kwargs)
        except (KeyboardInterrupt, Cancelled) as error:
            words = str(error) or "interrupted; run the same command again to go on"
            _fail(words, "Cancelled", INTERRUPTED, as_json)
        except PenstockError as error:
            _fail(str(error), type(error).__name__, USER_ERROR, as_json)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing not in EXTRAS:
                raise
            words = f"{missing} is not installed: pip install 'penstock[{EXTRAS[missing]}]'"
            _fail(words, "ModuleNotFoundError", USER_ERROR, as_json)

    return wrapped


def emit(result: Any, as_json: bool, lines: Callable[[], str]) -> None:
    """Print the result: as JSON, or the text that ``lines`` makes for people."""
    text = json.dumps(plain(result), ensure_ascii=False) if as_json else lines()
    typer.echo(text)


def plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as what JSON has."""
    import dataclasses

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _fail(words: str, kind: str, code: int, as_json: bool) -> None:
    if os.environ.get("PENSTOCK_DEBUG") == "1":
        traceback.print_exc()
    if as_json:
        typer.echo(json.dumps({"event": "error", "type": kind, "message": words}), err=True)
    else:
        coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        label = typer.style("error: ", fg=typer.colors.RED, bold=True) if coloured else "error: "
        typer.echo(label + words, err=True)
        if kind == InternalError.__name__:
            typer.echo("This is a bug in penstock: please report it with the message above.", err=True)
    raise typer.Exit(code)
