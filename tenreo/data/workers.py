"""Worker processes that decode images: their start, their end, and errors that explain the loss of one."""

import atexit
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from multiprocessing import queues
from typing import Any
from weakref import WeakSet

from torch.utils.data import DataLoader

from tenreo.errors import TenreoError


def initialize_worker(worker: int) -> None:
    """Prepare a worker process; pass this function to a DataLoader as `worker_init_fn`.

    The worker ignores SIGINT and SIGTERM: the main process receives the same signals and still needs the images. A
    batch that cannot be sent ends the worker, which the main process notices; otherwise, torch would wait for the batch
    forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: BaseException, batch: object) -> None:
    os.write(2, f"a batch of images cannot be sent: {type(error).__name__}: {error}\n".encode(errors="replace"))
    os._exit(1)


def iterate_batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """Iterate over a loader; its worker processes have ended when the iteration ends, fails or is abandoned."""
    batches = _batches(loader)
    _running.add(batches)
    return batches


def _batches(loader: DataLoader[Any]) -> Generator[Any, None, None]:
    earlier = set(multiprocessing.active_children())
    batches = None
    try:
        batches = iter(loader)
        yield from batches
    except BaseException as error:
        _clear_frames(error)
        if isinstance(error, (EOFError, ConnectionError)):
            time.sleep(1)  # torch's error with the reason arrives with SIGCHLD, which interrupts this sleep
            raise RuntimeError("DataLoader worker ended") from error
        if isinstance(error, OSError):
            why = error.strerror or error
            raise TenreoError(
                f"the processes that decode images cannot be started: {why}; use fewer workers"
            ) from error
        raise
    finally:
        batches = None  # torch ends its workers; a worker that is killed before this is reported as a failure
        for process in set(multiprocessing.active_children()) - earlier:
            process.kill()  # workers ignore SIGTERM, which torch sends


def _clear_frames(error: BaseException) -> None:
    """Release the loader's iterator, to which the frames of a traceback refer, so that it ends its workers.

    An iterator whose construction was interrupted fails when it is released; this failure is not printed.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    traceback.clear_frames(error.__traceback__)
    sys.unraisablehook = hook


_running: WeakSet[Generator[Any, None, None]] = WeakSet()


@atexit.register
def _close_running() -> None:
    """End the workers of iterations that an error interrupted; otherwise, Python would wait for them forever."""
    for batches in list(_running):
        batches.close()


@contextmanager
def explain_worker_loss() -> Iterator[None]:
    """Convert torch's error about a lost worker process to a TenreoError that suggests what to do."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = " ".join(dict.fromkeys((lines[0], lines[-1])))  # the lines between are a traceback
        raise TenreoError(
            f"a process that decodes images has ended ({why}); if memory is short, use fewer workers"
        ) from error
