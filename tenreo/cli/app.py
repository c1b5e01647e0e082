"""The command line: `tenreo compress | finetune | evaluate | inspect | sweep | demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from tenreo import __version__
from tenreo.cli import common
from tenreo.cli.compress import compress
from tenreo.cli.demo import demo
from tenreo.cli.evaluate import evaluate
from tenreo.cli.finetune import finetune
from tenreo.cli.inspect import inspect
from tenreo.cli.sweep import ManyValues, sweep

app = typer.Typer(
    name="tenreo",
    help="Shrink convolutional networks by tensor reordering (arXiv 2010.12110).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (compress, evaluate, finetune, inspect, demo):
    app.command()(common.guarded(command))
app.command(cls=ManyValues)(common.guarded(sweep))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tenreo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    common.debug = debug


def main() -> None:
    """Entry point."""
    app()
