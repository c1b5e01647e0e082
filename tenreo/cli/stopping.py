"""Ctrl-C and SIGTERM: asked once, a run saves and ends; asked twice, it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


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
    """Note the first signal instead of dying of it; the next one kills as always."""
    stop = Stop()
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        os.write(2, b"\nstopping after this step; asked once more, at once\n")
        for each in kept:
            signal.signal(each, signal.SIG_DFL)

    for number in kept:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
