"""Progress reports, cancellation and chunked loops for the long computations of the codec.

Long functions take a `Task`. The default task reports nothing and runs every loop in the calling thread. The chunks of
a loop do not depend on the number of threads, and each chunk writes a part of the result of its own, so the result does
not depend on the number of threads either.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass

CHUNK = 1 << 14  # iterations per chunk: about ten milliseconds


def usable_cores() -> int:
    """Return the number of cores that this process may use, which containers and batch systems limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ThreadPool:
    """Threads that run tasks; idle threads take chunks of the loops of other tasks.

    Args:
        threads: number of threads.
        initializer: function that each thread calls first.
    """

    def __init__(self, threads: int, initializer: Callable[[], None] | None = None) -> None:
        self.threads = threads
        self.stopped = False
        self.executor = ThreadPoolExecutor(threads, initializer=initializer)

    def stop(self) -> None:
        """Cancel all tasks: running ones end at their next check, and waiting ones do not start."""
        self.stopped = True
        self.executor.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Task:
    """The connection of a long computation with its caller."""

    pool: ThreadPool | None = None  # threads that share the loops of the task; None runs them in the calling thread
    progress: Callable[[float], None] | None = None  # receives the completed fraction, between 0 and 1

    def report(self, fraction: float) -> None:
        """Report the completed fraction of the task, between 0 and 1."""
        if self.progress is not None:
            self.progress(fraction)

    def check_stopped(self) -> None:
        """Raise if the task was cancelled.

        Raises:
            CancelledError: if the pool was stopped.
        """
        if self.pool is not None and self.pool.stopped:
            raise CancelledError

    def run_chunks(self, count: int, work: Callable[[int, int], None]) -> None:
        """Run a loop in chunks, in this thread and in idle threads of the pool.

        Args:
            count: number of iterations.
            work: function of (start, end) that runs the iterations start to end - 1. Chunks run in any order and at the
                same time; to use several cores, the function must release the GIL.

        Raises:
            CancelledError: if the pool was stopped.
        """
        starts, lock = iter(range(0, count, CHUNK)), threading.Lock()

        def run() -> None:
            """Run chunks until none is left."""
            while True:
                self.check_stopped()
                with lock:
                    start = next(starts, None)
                if start is None:
                    return
                work(start, min(start + CHUNK, count))

        helpers = []
        if self.pool is not None and count > CHUNK:
            helpers = [self.pool.executor.submit(run) for _ in range(self.pool.threads - 1)]
        run()
        for helper in helpers:
            if not helper.cancel():  # it has started
                helper.result()


SINGLE_THREADED = Task()
