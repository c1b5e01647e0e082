"""The error class of tenreo, and helpers that keep untrusted text in messages short and printable."""

import math
import reprlib
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


class TenreoError(Exception):
    """An error that the user can fix; the message states the value given, the values needed, and what to do.

    The message is one printable line of bounded length, whatever text from a file or option it quotes.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message), MOST_CHARACTERS))
