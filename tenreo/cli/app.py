"""The command line: `tenreo compress`, `evaluate`, `analyze` and the others; `_options` has those of all commands."""

import re
import sys
from difflib import SequenceMatcher
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from tenreo import __version__
from tenreo.cli import exits
from tenreo.cli.commands import (
    analyze,
    card,
    compress,
    decompress,
    demo,
    evaluate,
    export,
    finetune,
    inspect,
    pull,
    push,
    sweep,
    verify,
)
from tenreo.cli.declare import add_command
from tenreo.cli.terminal.streams import note, prepare_streams, unwritten, writing
from tenreo.errors import MOST_CHARACTERS, TenreoError, printable

# Base class of all errors of the command line's parser, which typer does not export.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Group(TyperGroup):
    """The command line as a whole: every error ends in a one-line message and an exit code."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run a command and exit the process."""
        try:
            prepare_streams()
            exits.words = tuple(args[0] or sys.argv[1:] if args else options.get("args") or sys.argv[1:])
            code = super().main(*args, **{**options, "standalone_mode": False})
            with writing():
                code = code if isinstance(code, int) else 0
            sys.exit(code)
        except _UsageError as error:
            sys.exit(_parser_error(error))
        except typer.Abort:
            sys.exit(1)
        except (TenreoError, OSError) as error:
            if exits.debug:
                raise
            # Commands handle their own errors; this one was raised while printing the help or the version.
            sys.exit(exits.end_with(unwritten(error) if isinstance(error, OSError) else error))


def _parser_error(error: Any) -> int:
    """Print an error of the parser in one line, or the help if there are no arguments; return the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    message = printable(" ".join(error.format_message().split()).removesuffix("."), MOST_CHARACTERS)
    if similar := getattr(error, "possibilities", None):  # the parser would list them by the alphabet
        nearest = max(similar, key=lambda option: SequenceMatcher(None, error.option_name, option).ratio())
        message = re.sub(r" ?\(Possible options: .*\)", f"; did you mean {nearest}?", message)
    if message.startswith("Missing"):
        message = exits.with_example(message, error.ctx)
    note(f"error: {message}; {error.ctx.command_path if error.ctx else 'tenreo'} --help lists the options")
    return 2


app = typer.Typer(
    name="tenreo",
    cls=Group,
    help="Shrink trained neural networks by tensor reordering (arXiv 2010.12110).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
add_command(app, compress.compress, "compress_and_save", yaml=True)
add_command(app, decompress.decompress, "decompress_files")
add_command(app, verify.verify, "verify_files")
add_command(app, evaluate.evaluate, "evaluate_files")
add_command(app, finetune.finetune, "finetune_file", yaml=True)
add_command(app, inspect.inspect, "inspect_file")
add_command(app, analyze.analyze, "analyze_model")
add_command(app, export.export, "export_file")
add_command(app, card.card, "write_card")
add_command(app, push.push, "push_files")
add_command(app, pull.pull, "pull_files")
add_command(app, sweep.sweep, "sweep_recipes")
add_command(app, demo.demo, "run_demo")


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
    """Entry point of the command `tenreo`."""
    app()
