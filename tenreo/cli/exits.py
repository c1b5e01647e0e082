"""Exit codes and error messages of the command line. No torch."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer

from tenreo.cli.terminal.streams import discard, note
from tenreo.errors import OutOfMemoryError, TenreoError, raise_if_out_of_memory

words: tuple[str, ...] = ()  # the command line, which results state
debug = False  # set by `tenreo --debug`: errors are then raised instead of printed


class WrongUsageError(TenreoError):
    """The command line or the configuration file is wrong: exit code 2."""


@contextmanager
def usage() -> Iterator[None]:
    """Turn errors raised inside the context into wrong usage, which has exit code 2 instead of 1."""
    try:
        yield
    except TenreoError as error:
        raise WrongUsageError(str(error)) from error


@contextmanager
def exit_codes(context: typer.Context) -> Iterator[None]:
    """Turn errors into a one-line message and an exit code: 2 for wrong usage, 130 for Ctrl-C, 1 otherwise."""
    try:
        yield
    except Exception as error:
        if debug and not isinstance(error, BrokenPipeError):
            raise
        known = _known(error)
        if known is None:
            raise
        raise typer.Exit(end_with(known, context)) from error
    except KeyboardInterrupt:
        note("stopped")
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        # A normal exit would wait for threads inside compiled code, which cannot be interrupted.
        os._exit(130)


def _known(error: Exception) -> TenreoError | OSError | None:
    """Return an error that a message explains: lacking memory, the library's and the system's errors, or else None."""
    try:
        raise_if_out_of_memory(error)
    except OutOfMemoryError as shortage:
        return shortage
    return error if isinstance(error, (TenreoError, OSError)) else None


def end_with(error: BaseException, context: typer.Context | None = None) -> int:
    """Print an error as one line on stderr, naming the command's option, and return the exit code."""
    if isinstance(error, BrokenPipeError):
        discard(sys.stdout)  # the reader has closed the pipe; flushing the buffer at exit would raise again
        return 1
    note(f"{_process()}error: {_message(error, context)}")
    return 2 if isinstance(error, WrongUsageError) else 1


def _message(error: BaseException, context: typer.Context | None) -> str:
    if isinstance(error, OSError):  # raised by the operating system and not converted by the library
        return f"{error.filename or 'operating system'}: {error.strerror or error}"
    return str(error) if context is None else _with_option(str(error), context)


def _with_option(message: str, context: typer.Context) -> str:
    """Append the option that a message of the library is about; its name is the message's first word."""
    name = message.split(":", 1)[0]
    for param in context.command.params:
        if (param.name or "").rstrip("_") == name and param.opts[0].startswith("-"):
            message = f"{message} ({'/'.join(sorted(param.opts, key=len))})"
    return with_example(message, context) if ": not given" in message or ": given None" in message else message


def with_example(message: str, context: typer.Context) -> str:
    """Append the example of the command's help text."""
    example = re.search(r"^Example: (.*)$", context.command.help or "", re.MULTILINE)
    return f"{message}; example: {example[1]}" if example else message


def _process() -> str:
    """Return the prefix that identifies a process of a distributed run; empty for a single process."""
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE", "1")
    return "" if rank is None or size == "1" else f"process {rank} of {size}: "
