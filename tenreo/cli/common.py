"""What every subcommand shares: consoles, errors to exit codes, progress, options."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tenreo.errors import TenreoError

LINE_EVERY = 60.0  # seconds between two lines of progress where there is no terminal
debug = False  # set by `tenreo --debug`: errors keep their traceback

Data = Annotated[
    str, typer.Option("--data", metavar="DIR|digits", help="Folder with train/ and val/, or digits.")
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that decode images; by default one per core, none for digits."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output file.")]


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one line and an exit code: 1 for a TenreoError, 130 for Ctrl-C."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except TenreoError as error:
            if debug:
                raise
            print(f"{_who()}error: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
        except BrokenPipeError:
            # The reader of a pipe is gone; what is still buffered has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            sys.stdout.flush()
            # Threads inside compiled code can not be interrupted, and a normal exit waits for them.
            os._exit(130)

    return run


def _who() -> str:
    """Which process of several this is, for a message."""
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE", "1")
    return "" if rank is None or size == "1" else f"process {rank} of {size}: "


def show(*things: Any) -> None:
    """Print tables or text to stdout."""
    from rich.console import Console

    console = Console()
    for thing in things:
        console.print(thing, highlight=False, soft_wrap=isinstance(thing, str), markup=False)


def show_json(value: Any) -> None:
    """Print one JSON object to stdout."""
    print(json.dumps(value, indent=2, default=str))


def note(text: str) -> None:
    """A line to stderr."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(title: str, total: int | None, shown: bool = True) -> Iterator[Callable[..., None]]:
    """A live bar on stderr, or without a terminal a line now and then; yields advance(amount, text="", done=None)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[text]}"),
    )  # fmt: skip
    live = shown and console.is_terminal
    with Progress(*columns, console=console, disable=not live) as progress:
        task = progress.add_task(title, total=total, text="")
        said = time.monotonic()

        def advance(amount: int = 1, text: str = "", done: int | None = None) -> None:
            nonlocal said
            if done is None:
                progress.update(task, advance=amount, text=text)
            else:
                progress.update(task, completed=done, text=text)
            if shown and not live and time.monotonic() - said >= LINE_EVERY:
                said = time.monotonic()
                seen, left = progress.tasks[0], progress.tasks[0].time_remaining
                later = "" if left is None else f"{left:.0f} s left"
                note(f"{title} {seen.completed:g}/{total or '?'} {text} {later}".rstrip())

        yield advance


def refuse_existing(path: Path, force: bool) -> None:
    """Raise unless the file may be written.

    Raises:
        TenreoError: when it exists and force is not set, or its folder does not.
    """
    if path.exists() and not force:
        raise TenreoError(f"{path}: exists already; say --force to replace it, or another --out")
    if not path.parent.is_dir():
        raise TenreoError(f"{path}: there is no folder {path.parent}; create it first")


def choose_workers(workers: int | None, data: str) -> int:
    """The given number, or one per core for folders and none for the digits; processes share the cores."""
    if workers is not None or data == "digits":
        return workers or 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
