"""Ctrl-C and SIGTERM: asked once, a run saves and ends; asked once more, it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM)
# Seconds in which signals are one request: a scheduler tells torchrun and its processes, and torchrun tells
# these again.
SAME = 1.0


@dataclass
class Stop:
    """The signal that asked for a stop, or 0."""

    signal: int = 0

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal != 0

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells count; that of Ctrl-C where no signal came."""
        return 128 + (self.signal or signal.SIGINT)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Note the first signal instead of dying of it; one that comes later ends the process at once."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if not stop():
            stop.signal = number
            os.write(2, b"\nstopping after this step; asked once more, at once\n")

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_end_when_asked_again, args=(reader,), daemon=True).start()
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


def _end_when_asked_again(reader: int) -> None:
    """Read the numbers of signals, also while the main thread hears none, inside another library."""
    first: float | None = None
    while (number := os.read(reader, 1)) not in (b"", b"\0"):
        if number[0] in NUMBERS:
            now = time.monotonic()
            first = now if first is None else first
            if now - first > SAME:
                os._exit(128 + number[0])
    os.close(reader)
