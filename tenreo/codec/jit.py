"""Functions that numba compiles, kept on disk for the next process where there is a place for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called; it runs without Python's lock.

    numba's own `cache=True` fails where nothing can be written, at import or after a minute of work; here a program
    that can not be kept, or read again, is compiled once more.
    """
    made: Any = njit(nogil=True)(function)
    with suppress(RuntimeError, OSError):  # no folder to keep it in, neither beside the source nor in HOME
        made._cache = _Cache(function)
    return made


def inlined(function: Callable[..., Any]) -> Any:
    """Put a function's code in the place of every call of it from compiled code, for loops that a call would slow."""
    return njit(nogil=True, inline="always")(function)


class _Cache(FunctionCache):  # type: ignore[misc]
    """Programs on disk that may be damaged or can not be written, without an error."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """A program that was kept, or None."""
        with suppress(Exception):  # a damaged file can fail in any way
            return super().load_overload(sig, target_context)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a program, if that is possible."""
        with suppress(Exception):
            super().save_overload(sig, data)
