"""The command line: `tenreo compress | evaluate | finetune | inspect | export | sweep | demo`."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from tenreo import __version__
from tenreo.cli import commands, declare, exits
from tenreo.cli.terminal.streams import note, prepare_streams, unwritten, writing
from tenreo.errors import TenreoError

_UsageError: type[Exception] = typer.BadParameter.__mro__[
    1
]  # typer does not name the class of all that is wrongly typed


class Group(TyperGroup):
    """The command line as a whole: whatever happens ends in one line and an exit code."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run a command and end the process."""
        try:
            prepare_streams()
            code = super().main(*args, **{**options, "standalone_mode": False})
            with writing():
                code = code if isinstance(code, int) else 0
            sys.exit(code)
        except _UsageError as error:
            sys.exit(_wrongly_typed(error))
        except typer.Abort:
            sys.exit(1)
        except (TenreoError, OSError) as error:
            if exits.debug:
                raise
            # Commands see to their own errors; what is left is printing the help or the version.
            sys.exit(exits.end_with(unwritten(error) if isinstance(error, OSError) else error))


def _wrongly_typed(error: Any) -> int:
    """Say what typer does not understand, in one line; without any word, show the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    message = " ".join(error.format_message().split()).removesuffix(".")
    if message.startswith("Missing"):
        message = exits.with_example(message, error.ctx)
    note(f"error: {message}; {error.ctx.command_path if error.ctx else 'tenreo'} --help says more")
    return 2


app = typer.Typer(
    name="tenreo",
    cls=Group,
    help="Shrink convolutional networks by tensor reordering (arXiv 2010.12110).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
declare.add_command(app, commands.compress, yaml=True)
declare.add_command(app, commands.evaluate)
declare.add_command(app, commands.finetune, yaml=True)
declare.add_command(app, commands.inspect)
declare.add_command(app, commands.export)
declare.add_command(app, commands.sweep)
declare.add_command(app, commands.demo)


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
    exits.debug = debug


def main() -> None:
    """Entry point."""
    app()
