"""Printing: tables and JSON on stdout, notes on stderr."""

import json
import os
import textwrap
from collections.abc import Collection
from typing import Any

from rich.console import Console

from tenreo.cli.terminal.progress import stop_spinner
from tenreo.cli.terminal.streams import note as note
from tenreo.cli.terminal.streams import writing
from tenreo.errors import counted, printable

_MAX_NAMES = 20  # number of broken images whose paths are printed
_UNLIMITED = 10**4  # characters of a line
SCHEMA = 1  # version of the JSON objects, docs/cli.md


def output_console() -> Console:
    """Return the console of stdout; the width of a pipe or file is unlimited, unless COLUMNS states one."""
    console = Console(markup=False, emoji=False, highlight=False)  # names may look like markup
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNLIMITED
    return console


def show(*things: Any) -> None:
    """Print tables and lines to stdout; raise TenreoError if stdout cannot be written.

    A terminal wraps lines between words, but not inside of words such as paths, which can then be copied.
    """
    stop_spinner()
    console = output_console()
    with writing():
        for thing in things:
            if not isinstance(thing, str):
                console.print(thing)
                continue
            line = printable(thing)
            if console.is_terminal:
                line = textwrap.fill(line, console.width, break_long_words=False, break_on_hyphens=False)
            console.print(line, soft_wrap=True)


def show_command(line: str) -> None:
    """Print a line with a command to stdout, which is not wrapped, so that it can be copied."""
    stop_spinner()
    with writing():
        output_console().print(printable(line), soft_wrap=True)


def show_json(command: str, values: dict[str, Any]) -> None:
    """Print the JSON object of a command to stdout; raise TenreoError if stdout cannot be written."""
    stop_spinner()
    with writing():
        print(json.dumps({"schema": SCHEMA, "command": command, **values}, indent=2, default=str))


def note_images(broken: Collection[str], warned: Collection[tuple[str, str]]) -> None:
    """Print the skipped images on stderr, and one line about images that were read with a warning.

    Args:
        broken: paths of skipped images.
        warned: paths of images that were read with a warning, and the texts of the warnings.
    """
    for path in sorted(broken)[:_MAX_NAMES]:
        note(f"skipped {path}: cannot be read as an image")
    if broken:
        note(f"skipped {counted(len(broken), 'broken image')}")
    if warned:
        path, text = min(warned)
        others = len({path for path, _ in warned}) - 1
        more = f" and {counted(others, 'other image')}" if others else ""
        note(f"warning about {path}{more}: {text}; the images were used")
