"""Ctrl-C and SIGTERM: the first signal makes a run save and stop, a second one ends the process at once."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM)
# Signals within this number of seconds count as one, because a scheduler signals both torchrun and its processes, and
# torchrun forwards the signal to the processes.
SAME = 1.0


@dataclass
class Stop:
    """The number of the signal that requested a stop, or 0."""

    signal: int = 0

    def __call__(self) -> bool:
        """Return whether a stop was requested."""
        return self.signal != 0

    @property
    def exit_code(self) -> int:
        """The exit code that shells use, 128 plus the signal's number; that of Ctrl-C if there was no signal."""
        return 128 + (self.signal or signal.SIGINT)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Record the first signal instead of ending the process; a later one ends it at once.

    Yields:
        A function that returns whether a stop was requested.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if not stop():
            stop.signal = number
            os.write(2, b"\nstopping after this step; repeat the signal to stop at once\n")

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_exit_on_second_signal, args=(reader,), daemon=True).start()
    handlers = {number: signal.signal(number, note) for number in NUMBERS}
    earlier = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(earlier)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.write(writer, b"\0")
        os.close(writer)


def _exit_on_second_signal(reader: int) -> None:
    """Read the numbers of signals from a pipe; this works while the main thread is inside compiled code."""
    first: float | None = None
    while (number := os.read(reader, 1)) not in (b"", b"\0"):
        if number[0] in NUMBERS:
            now = time.monotonic()
            first = now if first is None else first
            if now - first > SAME:
                if os.isatty(2):
                    os.write(2, b"\x1b[?25h")  # shows the cursor, which a bar hides
                os._exit(128 + number[0])
    os.close(reader)
