"""Long loops of compiled code, in parts: idle threads take some, and between them a thread can be stopped.

A thread of a `Crew` shares its loops with those of the crew that have nothing else to do; any other thread does the
whole loop alone. Parts never depend on the number of threads, nor results on who did which.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor

PART = 1 << 14  # turns of a loop at a time: some ten milliseconds

_local = threading.local()


class Crew:
    """Threads that share their loops.

    Args:
        threads: how many.
        prepare: called in each of them first.
    """

    def __init__(self, threads: int, prepare: Callable[[], None]) -> None:
        self.threads = threads
        self.stopped = False
        self.executor = ThreadPoolExecutor(threads, initializer=self._join, initargs=(prepare,))

    def _join(self, prepare: Callable[[], None]) -> None:
        _local.crew = self
        prepare()

    def stop(self) -> None:
        """Let every thread end at the next part of its loop; what waits is not begun."""
        self.stopped = True
        self.executor.shutdown(wait=False, cancel_futures=True)


def listen(tell: Callable[[float], None] | None) -> None:
    """Have what this thread's task says of its progress sent to a function."""
    _local.tell = tell


def report(share: float) -> None:
    """Say how much of its task this thread has done, between 0 and 1; to nobody, where nobody listens."""
    tell = getattr(_local, "tell", None)
    if tell is not None:
        tell(share)


def check_stopped() -> None:
    """Raise where this thread is one of a crew that was stopped.

    Raises:
        CancelledError: then.
    """
    crew = getattr(_local, "crew", None)
    if crew is not None and crew.stopped:
        raise CancelledError


def share(count: int, work: Callable[[int, int], None]) -> None:
    """Call work(first, last) for parts that make up range(count), in this thread and in idle ones of its crew.

    Args:
        count: turns of the loop.
        work: does those from first to last - 1, in any order with others; releases Python's lock.

    Raises:
        CancelledError: when the crew was stopped.
    """
    crew = getattr(_local, "crew", None)
    left, lock = iter(range(0, count, PART)), threading.Lock()

    def take_parts() -> None:
        while True:
            check_stopped()
            with lock:
                first = next(left, None)
            if first is None:
                return
            work(first, min(first + PART, count))

    others = crew.threads - 1 if crew is not None and count > PART else 0
    helpers = [crew.executor.submit(take_parts) for _ in range(others)] if crew is not None else []
    take_parts()
    for helper in helpers:
        if not helper.cancel():  # it has begun
            helper.result()
