"""Progress on stderr: a spinner while a command works, and bars; lines if stderr is not a terminal."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.spinner import Spinner

from tenreo.cli.terminal.streams import note
from tenreo.errors import printable

LINE_EVERY = 60.0  # seconds between two lines of progress if stderr is not a terminal

_spinner: Live | None = None  # of the running command; a terminal has one last line, so there is only one
Advance = Callable[..., None]


def _stderr_console() -> Console:
    """Return a console on the present stderr, which shows progress also while stderr is redirected, as in exports."""
    return Console(file=sys.stderr)


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show a spinner on stderr inside the context if it is a terminal, so that nobody waits without a sign.

    Bars take its place, and the first result that is printed ends it.
    """
    global _spinner
    console = _stderr_console()
    if console.is_terminal:
        _spinner = Live(
            Spinner("dots", printable(what)), console=console, transient=True, redirect_stdout=sys.stdout.isatty()
        )
        _spinner.start()
    try:
        yield
    finally:
        stop_spinner()


def doing(what: str) -> None:
    """Say next to the spinner what the command does now."""
    if _spinner is not None:
        _spinner.update(Spinner("dots", printable(what)))


@cache  # once per command: parts of the encoder are compiled when they are needed first
def note_compiling() -> None:
    """Note that the encoder is being compiled, which is not done again on this machine."""
    note("compiling the encoder, once per machine: about 15 seconds")


def stop_spinner() -> None:
    """Remove the spinner, because results follow."""
    global _spinner
    if _spinner is not None:
        _spinner.stop()
        _spinner = None


class Bar:
    """A progress bar on stderr; if it is not a terminal, a line every minute.

    The bar appears with the first progress. Before, the spinner of the command says what it waits for: compiling, which
    takes seconds, would otherwise make the rest seem to take hours.
    """

    def __init__(self, title: str, total: int | None, shown: bool = True) -> None:
        console = _stderr_console()
        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[done]}"),
            TimeRemainingColumn(), TextColumn("{task.fields[text]}", markup=False),
        )  # fmt: skip
        self.title, self.total, self.shown = printable(title), total, shown
        self.live = shown and console.is_terminal
        self.progress = Progress(*columns, console=console, disable=not self.live, redirect_stdout=sys.stdout.isatty())
        self.task: TaskID | None = None
        self.reserved = 0.0  # amount of all stages that have begun
        self.completed, self.printed, self.began = 0.0, time.monotonic(), time.monotonic()

    def __call__(self, amount: float = 1, text: str = "", done: float | None = None) -> None:
        """Add an amount to the progress, or set it to `done`; `text` stands behind the bar."""
        text = printable(text)
        self.completed = min(self.completed + amount if done is None else done, self.total or math.inf)
        if self.task is None:
            self._begin()
        part = f"{self.completed / self.total:.0%}" if self.total else f"{self.completed:,.0f}"
        if self.task is not None:
            self.progress.update(self.task, completed=self.completed, description=self.title, text=text, done=part)
        if self.shown and not self.live and time.monotonic() - self.printed >= LINE_EVERY:
            self.printed = time.monotonic()
            later = ""
            if self.total and self.completed:
                passed = self.printed - self.began
                later = f"{passed * (self.total - self.completed) / self.completed:.0f} s left"
            note(f"{self.title} {part} {text} {later}".rstrip())

    def stage(self, title: str, share: float, total: float) -> Advance:
        """Return a function that advances one stage of the work.

        Args:
            title: what is done in the stage.
            share: part of the whole bar, as an amount.
            total: amount of work in the stage, 0 if it is not known; work beyond it does not count.

        Returns:
            advance(amount=1, text="", done=None), whose amounts are those of the stage.
        """
        start, finished = self.reserved, 0.0
        self.reserved += share
        self.title = printable(title)
        if self.task is not None:
            self(done=start)

        def advance(amount: float = 1, text: str = "", done: float | None = None) -> None:
            nonlocal finished
            finished = finished + amount if done is None else done
            self(done=start + (share * min(finished / total, 1.0) if total else 0), text=text)

        return advance

    def _begin(self) -> None:
        if self.live:
            if _spinner is not None:
                _spinner.stop()
            self.progress.start()
            self.task = self.progress.add_task(self.title, total=self.total, text="", done="")

    def end(self) -> None:
        """Leave the bar as it is, and go on with the spinner."""
        if self.task is not None:
            self.progress.stop()
            doing("working")
            if _spinner is not None:
                _spinner.start()


@contextmanager
def progress_bar(title: str, total: int | None, shown: bool = True) -> Iterator[Bar]:
    """Show a progress bar inside the context.

    Args:
        title: what is counted.
        total: amount of all work; None if it is not known.
        shown: whether anything is shown, which only one of several processes does.

    Yields:
        The bar: a function advance(amount=1, text="", done=None).
    """
    bar = Bar(title, total, shown)
    try:
        yield bar
    finally:
        bar.end()
