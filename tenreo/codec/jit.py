"""Compilation of numeric functions with numba, cached on disk if a folder is writable."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from numba import njit
from numba.core import event
from numba.core.caching import FunctionCache


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call; it runs without the GIL.

    Unlike numba's `cache=True`, this never fails for want of a writable folder, neither at import nor after
    compilation: a function that cannot be cached, or whose cache file is damaged, is compiled again.
    """
    dispatcher: Any = njit(nogil=True)(function)
    with suppress(RuntimeError, OSError):  # neither the source's folder nor the user's cache folder is writable
        dispatcher._cache = _Cache(function)
    return dispatcher


def inlined(function: Callable[..., Any]) -> Any:
    """Inline a function into the compiled functions that call it, for loops that a call would slow down."""
    return njit(nogil=True, inline="always")(function)


class _Cache(FunctionCache):  # type: ignore[misc]
    """A cache on disk that treats damaged files and failed writes as cache misses."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return a cached function, or None."""
        with suppress(Exception):  # a damaged file can raise any error
            return super().load_overload(sig, target_context)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Cache a function if possible."""
        with suppress(Exception):
            super().save_overload(sig, data)


@contextmanager
def on_compile(notify: Callable[[], Any]) -> Iterator[None]:
    """Call `notify` once if numba compiles a function inside this context."""

    notify_once = cache(notify)

    class Listener(event.Listener):  # type: ignore[misc]
        def on_start(self, _event: event.Event) -> None:
            notify_once()

        def on_end(self, _event: event.Event) -> None:
            pass

    with event.install_listener("numba:compile", Listener()):
        yield
