"""What a person sees: tables and JSON on stdout, notes and progress on stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tenreo.cli.terminal.streams import note as note
from tenreo.cli.terminal.streams import writing
from tenreo.errors import printable

_NAMED = 20  # broken images
LINE_EVERY = 60.0  # seconds between two lines of progress where there is no terminal
SCHEMA = 1  # version of the JSON objects, docs/cli.md


def show(*things: Any) -> None:
    """Print tables or lines to stdout.

    Raises:
        TenreoError: when they can not be written.
    """
    console = Console(markup=False, emoji=False, highlight=False)  # names are names, whatever they look like
    with writing():
        for thing in things:
            console.print(printable(thing) if isinstance(thing, str) else thing, soft_wrap=isinstance(thing, str))


def show_json(command: str, values: dict[str, Any]) -> None:
    """Print the JSON object of a command to stdout.

    Raises:
        TenreoError: when it can not be written.
    """
    with writing():
        print(json.dumps({"schema": SCHEMA, "command": command, **values}, indent=2, default=str))


def note_images(broken: Collection[str], warned: Collection[tuple[str, str]]) -> None:
    """Say on stderr which images were skipped, and in one line what was wrong with others.

    Args:
        broken: paths.
        warned: paths and texts.
    """
    for path in sorted(broken)[:_NAMED]:
        note(f"skipped {path}: cannot be read as an image")
    if broken:
        note(f"skipped {len(broken)} broken images")
    if warned:
        path, text = min(warned)
        count = len({path for path, _ in warned})
        others = f" and {count - 1} other images" if count > 1 else ""
        note(f"warned of {path}{others}, which were read all the same: {text}")


@contextmanager
def progress_bar(title: str, total: int | None, shown: bool = True) -> Iterator[Callable[..., None]]:
    """A live bar on stderr, or without a terminal a line now and then.

    Yields:
        advance(amount=1, text="", done=None): adds to what is done, or says how much is.
    """
    console, title = Console(stderr=True), printable(title)
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[text]}", markup=False),
    )  # fmt: skip
    live = shown and console.is_terminal
    with Progress(*columns, console=console, disable=not live) as progress:
        task = progress.add_task(title, total=total, text="")
        said = time.monotonic()

        def advance(amount: int = 1, text: str = "", done: int | None = None) -> None:
            nonlocal said
            text = printable(text)
            if done is None:
                progress.update(task, advance=amount, text=text)
            else:
                progress.update(task, completed=done, text=text)
            if shown and not live and time.monotonic() - said >= LINE_EVERY:
                said = time.monotonic()
                seen, left = progress.tasks[0], progress.tasks[0].time_remaining
                later = "" if left is None else f"{left:.0f} s left"
                note(f"{title} {seen.completed:,.0f}/{total or '?'} {text} {later}".rstrip())

        yield advance
