"""The ``penstock`` command: what it is made of."""

from __future__ import annotations

from typing import Annotated

import typer

import penstock
from penstock.cli import tokenizer
from penstock.cli.doctor import doctor
from penstock.cli.evaluate import evaluate
from penstock.cli.generate import generate
from penstock.cli.inspect import inspect
from penstock.cli.pack import pack
from penstock.cli.run import run
from penstock.cli.tokenizer_compare import compare
from penstock.cli.tokenizer_convert import convert
from penstock.cli.train import train

__all__ = ["app"]

EXAMPLES = """
[bold]From raw text to a trained model[/bold]

  penstock tokenizer train corpus/*.jsonl.zst --vocab-size 128000 -o tok/
  penstock pack corpus/*.jsonl.zst --tokenizer tok/ --seq-len 4096 -o packed/
  penstock train pretrain_moe --set data.path=packed/ --set tokenizer.path=tok/
  penstock generate run/ "def "

[bold]The same in one command, on text of this machine[/bold]

  penstock run tiny
"""

app = typer.Typer(
    name="penstock",
    help="From raw text to a trained MoE + MTP model.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run)
tokenizer.app.command("convert")(convert)
tokenizer.app.command("compare")(compare)
app.add_typer(tokenizer.app, name="tokenizer")
app.command("pack")(pack)
app.command("train")(train)
app.command("evaluate")(evaluate)
app.command("generate")(generate)
app.command("inspect")(inspect)
app.command("doctor")(doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"penstock {penstock.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """From raw text to a trained MoE + MTP model."""
