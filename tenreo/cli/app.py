"""The command line: `tenreo compress | evaluate | finetune | inspect | sweep | demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from tenreo import __version__
from tenreo.cli import command, commands

app = typer.Typer(
    name="tenreo",
    help="Shrink convolutional networks by tensor reordering (arXiv 2010.12110).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
command.add_command(app, commands.compress, yaml=True)
command.add_command(app, commands.evaluate)
command.add_command(app, commands.finetune, yaml=True)
command.add_command(app, commands.inspect)
command.add_command(app, commands.sweep)
command.add_command(app, commands.demo)


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
    command.debug = debug


def main() -> None:
    """Entry point."""
    app()
