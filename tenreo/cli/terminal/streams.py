"""Standard output and standard error, which may be closed, full, or a terminal. Does not import rich."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tenreo.errors import TenreoError, printable


def note(text: str) -> None:
    """Print a line on stderr; a failure to write it is ignored."""
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)


@contextmanager
def writing() -> Iterator[None]:
    """Flush stdout at the end of the context, so that errors are found.

    Raises:
        TenreoError: if stdout cannot be written, for example because the disk is full.
        BrokenPipeError: if the reader has closed the pipe.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        raise unwritten(error) from error


def unwritten(error: OSError) -> Exception:
    """Return the error to raise after a failed write to stdout, and discard further output."""
    discard(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return error
    return TenreoError(f"standard output cannot be written: {error.strerror}; redirect it to another place")


def discard(stream: Any) -> None:
    """Redirect a stream to the null device; otherwise flushing its buffer when Python exits would fail."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def prepare_streams() -> None:
    """Make stdout and stderr usable, whatever the process inherited.

    Closed descriptors 0 to 2 are opened on the null device, so that no data file gets their number. Characters that the
    encoding of the terminal lacks are escaped.

    Raises:
        TenreoError: if stdout is closed, so that no result could be printed.
    """
    closed = sys.stdout is None
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - stays open until the process ends
    if closed:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        raise TenreoError("standard output is closed; redirect it, for example > /dev/null")
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a test has replaced the stream
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
