"""Printing: tables and JSON on stdout, notes and progress on stderr."""

import json
import math
import os
import textwrap
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tenreo.cli.terminal.streams import note as note
from tenreo.cli.terminal.streams import writing
from tenreo.errors import counted, printable

_MAX_NAMES = 20  # number of broken images whose paths are printed
LINE_EVERY = 60.0  # seconds between two lines of progress if stderr is not a terminal
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
    with writing():
        output_console().print(printable(line), soft_wrap=True)


def show_json(command: str, values: dict[str, Any]) -> None:
    """Print the JSON object of a command to stdout; raise TenreoError if stdout cannot be written."""
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


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show a spinner on stderr inside the context if it is a terminal, so that nobody waits without a sign."""
    console = Console(stderr=True)
    with console.status(printable(what)) if console.is_terminal else nullcontext():
        yield


@contextmanager
def progress_bar(title: str, total: int | None, shown: bool = True) -> Iterator[Callable[..., None]]:
    """Show a progress bar on stderr; if it is not a terminal, print a line every minute.

    Yields:
        advance(amount=1, text="", done=None): adds an amount to the progress, or sets it to `done`.
    """
    console, title = Console(stderr=True), printable(title)
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[done]}"),
        TimeRemainingColumn(), TextColumn("{task.fields[text]}", markup=False),
    )  # fmt: skip
    live = shown and console.is_terminal
    with Progress(*columns, console=console, disable=not live) as progress:
        # The clock starts with the first progress: compiling before it would make the rest seem to take hours.
        task = progress.add_task(title, total=total, text="", done="", start=False)
        printed = time.monotonic()

        def advance(amount: int = 1, text: str = "", done: int | None = None) -> None:
            nonlocal printed
            text = printable(text)
            state = progress.tasks[0]
            completed = min(state.completed + amount if done is None else done, total or math.inf)
            shown_as = f"{completed / total:.0%}" if total else f"{completed:,}"
            progress.update(task, completed=completed, text=text, done=shown_as)
            if not state.started:
                progress.start_task(task)
            if shown and not live and time.monotonic() - printed >= LINE_EVERY:
                printed = time.monotonic()
                state, left = progress.tasks[0], progress.tasks[0].time_remaining
                later = "" if left is None else f"{left:.0f} s left"
                note(f"{title} {state.completed:,.0f}/{total or '?'} {text} {later}".rstrip())

        yield advance
