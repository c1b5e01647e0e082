"""Standard output and standard error: full, closed, or a terminal that must not obey what is printed. No rich."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tenreo.errors import TenreoError, printable


def note(text: str) -> None:
    """A line to stderr; nothing depends on whether it arrives."""
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)


@contextmanager
def writing() -> Iterator[None]:
    """Print to stdout inside the context, and see that it arrives.

    Raises:
        TenreoError: when it does not, as on a full disk.
        BrokenPipeError: when its reader is gone.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        raise unwritten(error) from error


def unwritten(error: OSError) -> Exception:
    """The error to raise when stdout could not be printed to; nothing more is then printed there."""
    discard(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return error
    return TenreoError(f"standard output can not be written: {error.strerror}; print to another place")


def discard(stream: Any) -> None:
    """Send what a stream still holds, and all that follows, nowhere: Python would fail on it when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def prepare_streams() -> None:
    """Make stdout and stderr usable: no file may get the number of a closed one, and every character is printed.

    Raises:
        TenreoError: when stdout is closed, so that no result could be shown.
    """
    closed = sys.stdout is None
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - as long as the process lives
    if closed:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        raise TenreoError("standard output is closed; give it a place, such as > /dev/null")
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # of a test
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
