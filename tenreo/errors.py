"""The one error that tenreo raises on purpose, and what its message may hold."""

from __future__ import annotations

import math
import reprlib
from typing import Any

MOST_CHARACTERS = 2000  # of a message: what a damaged file says of itself can be as long as the file
_DIGITS = 30  # of a number that is written out


def printable(text: str, most: int | None = None) -> str:
    r"""A text as one line without anything that a terminal would obey: other characters as Python escapes them.

    >>> printable("resnet18\nwrote \x1b[2K")
    'resnet18\\nwrote \\x1b[2K'

    Args:
        text: anything, such as a name out of a file.
        most: characters at most; the middle is left out. None has no limit.
    """
    short = _cut(text, most)
    if short.isprintable():
        return short
    return _cut("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short), most)


def _cut(text: str, most: int | None) -> str:
    if most is None or len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end]} ... ({len(text) - most:,} characters) ... {text[-end:]}"


class _ShortRepr(reprlib.Repr):
    """`repr` of what was given, that takes little time and room whatever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 200, 200

    def repr_int(self, x: int, level: int) -> str:
        """Digits, or how many there are: Python refuses to write out thousands."""
        digits = len(str(abs(x))) if x.bit_length() < 1000 else int(x.bit_length() * math.log10(2)) + 1
        return repr(x) if digits <= _DIGITS else f"a number of {digits:,} digits"


_SHORT = _ShortRepr()


def shown(value: Any) -> str:
    """What was given, for a message: its `repr`, short.

    >>> shown(["fc"] * 1000), shown(10**400)
    ("['fc', 'fc', 'fc', 'fc', 'fc', 'fc', ...]", 'a number of 401 digits')
    """
    return _SHORT.repr(value)


class TenreoError(Exception):
    """Something a user can mend; the message says what was given, what was needed, what to do.

    The message is one printable line of bounded length, whatever the file or option said that it quotes.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message), MOST_CHARACTERS))
