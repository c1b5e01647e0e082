"""The error class of tenreo, its translation of lacking memory, and helpers for untrusted text in messages."""

import errno
import math
import re
import reprlib
from collections.abc import Sequence
from typing import Any

MOST_CHARACTERS = 2000  # characters of a message; text that it quotes from a damaged file may be very long
_DIGITS = 30  # digits of a number that a message quotes


def printable(text: str, most: int | None = None) -> str:
    r"""Return a text as one line in which line breaks and control characters are escaped as in Python's strings.

    >>> printable("resnet18\nwrote \x1b[2K")
    'resnet18\\nwrote \\x1b[2K'

    Args:
        text: any text, for example a name from a file.
        most: maximum length in characters, apart from a note in the middle that counts the omitted ones; None for no
            limit.
    """
    short = _cut(text, most)
    if short.isprintable():
        return short
    return _cut("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short), most)


def _cut(text: str, most: int | None) -> str:
    """Omit the middle of a text that has more than `most` characters."""
    if most is None or len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end]} ... ({len(text) - most:,} characters) ... {text[-end:]}"


class _ShortRepr(reprlib.Repr):
    """A `repr` whose time and length are bounded for every value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 200, 200

    def repr_int(self, x: int, level: int) -> str:
        """Return the digits, or their number if there are many, because Python refuses to print thousands of digits."""
        digits = len(str(abs(x))) if x.bit_length() < 1000 else int(x.bit_length() * math.log10(2)) + 1
        return repr(x) if digits <= _DIGITS else f"a number of {digits:,} digits"


_SHORT = _ShortRepr()


def shown(value: Any) -> str:
    """Return the `repr` of a value with a bounded length, for a message.

    >>> shown(["fc"] * 1000), shown(10**400)
    ("['fc', 'fc', 'fc', 'fc', 'fc', 'fc', ...]", 'a number of 401 digits')
    """
    return _SHORT.repr(value)


def install(extra: str) -> str:
    """Return how the optional packages of an extra are installed, for a message.

    >>> install("plot")
    "install it with pip install 'tenreo[plot]', or pip install -e '.[plot]' in a clone"
    """
    return f"install it with pip install 'tenreo[{extra}]', or pip install -e '.[{extra}]' in a clone"


def counted(number: int, what: str, several: str = "") -> str:
    """Return a number and its noun, in the plural unless the number is 1.

    >>> counted(1, "round"), counted(2, "bias", "biases")
    ('1 round', '2 biases')
    """
    return f"{number:,} {what if number == 1 else several or what + 's'}"


def abbreviate(names: Sequence[str], most: int = 3) -> str:
    """Join the first names and the number of further names, for a message.

    >>> abbreviate(["a", "b", "c", "d", "e"]), abbreviate(["a", "b", "c", "d", "e"], most=5)
    ('a, b, c and 2 more', 'a, b, c, d, e')
    """
    rest = len(names) - most
    return f"{', '.join(names[:most])}{f' and {rest:,} more' if rest > 0 else ''}"


class TenreoError(Exception):
    """An error that the user can fix; the message states the value given, the values needed, and what to do.

    The message is one printable line of bounded length, whatever text from a file or option it quotes.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message), MOST_CHARACTERS))


class OutOfMemoryError(TenreoError):
    """The memory of the machine or of the GPU does not suffice."""


# Texts of errors about memory: of torch's allocators, of C++, of ONNX Runtime, of threads without memory for a stack,
# and of the loader of shared libraries.
_MEMORY_TEXTS = re.compile(
    "DefaultCPUAllocator|std::bad_alloc|out of memory|can't start new thread|failed to map segment|"
    "[Cc]annot allocate memory|Failed to allocate memory"
)
_NO_THREAD = "Resource temporarily unavailable"  # a thread of C++ has no memory for its stack
_BYTES = re.compile(r"tried to allocate ([0-9]+) bytes")


def raise_if_out_of_memory(error: BaseException) -> None:
    """Raise an OutOfMemoryError if an error, or one of its causes, says that memory does not suffice.

    Torch, NumPy and C++ raise errors of several types for this. Code that catches any error of a model calls this
    function first, because the model is not at fault.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OutOfMemoryError):
            raise cause
        if _is_about_memory(cause):
            size = _BYTES.search(str(cause))
            what = f"{int(size[1]):,} bytes could not be allocated" if size else "the allocation failed"
            raise OutOfMemoryError(
                f"out of memory: {what}; try smaller batches, fewer jobs or workers, or a machine with more memory"
            ) from error
        cause = cause.__cause__ or cause.__context__


def _is_about_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which this module does not import
        return True
    if isinstance(error, RuntimeError) and _NO_THREAD in str(error):  # as an OSError, it is of a pipe or a lock
        return True
    known = isinstance(error, (RuntimeError, ImportError, OSError)) or type(error).__module__.startswith("onnxruntime.")
    return known and _MEMORY_TEXTS.search(str(error)) is not None
