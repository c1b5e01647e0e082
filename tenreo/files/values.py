"""Values of unknown origin, read strictly: JSON of bounded depth and numbers, and objects of known keys. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tenreo.errors import printable, shown

_DEEPEST = 8  # levels of lists and objects; what is written has four
_MOST_DIGITS = 20  # of a whole number
_MOST_CHARACTERS = 10_000  # of a string
_MOST_SCALARS = 100
MOST_NAME = 1000  # characters of a tensor's or layer's name


def parse(text: str) -> Any:
    """Read JSON of which nothing is known.

    Raises:
        ValueError: when it is no JSON, nested deeper than a file needs, or holds a name that is not printable, a
            number of many digits, NaN or infinity.
    """
    try:
        value = json.loads(text, parse_int=_whole, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check(value, 0)
    return value


def check_name(name: str) -> None:
    """Raise unless a name of a tensor or layer is printable and of bounded length.

    Raises:
        ValueError: when it is not.
    """
    if not name.isprintable() or len(name) > MOST_NAME:
        raise ValueError(f"the name {shown(name)} is not printable, or has more than {MOST_NAME:,} characters")


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _check(value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
    if isinstance(value, dict):
        for key in value:
            check_name(key)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check(inner, depth + 1)


def cleaned(value: Any) -> Any:
    """The same value with its texts printable and of bounded length, as they are to be shown."""
    if isinstance(value, str):
        return printable(value, _MOST_CHARACTERS)
    if isinstance(value, list):
        return [cleaned(each) for each in value]
    return {key: cleaned(each) for key, each in value.items()} if isinstance(value, dict) else value


class Fields:
    """The values of an object that was read, by key and type; keys that are not asked for are left alone.

    Args:
        values: what was read.

    Raises:
        ValueError: when it is no object; each method, when a value is of another type or out of its range.
    """

    def __init__(self, values: Any) -> None:
        if not isinstance(values, dict):
            raise ValueError(f"{shown(values)} is no object")
        self.values = values

    def has(self, key: str) -> bool:
        """Whether there is a value, and it is not null."""
        return self.values.get(key) is not None

    def text(self, key: str, most: int) -> str:
        """A string of at most so many characters, made printable."""
        value = self.values.get(key)
        if not isinstance(value, str) or len(value) > most:
            raise ValueError(f"{key} {shown(value)}, needs a text of at most {most:,} characters")
        return printable(value)

    def names(self, key: str, most: int, count: int | None) -> tuple[str, ...]:
        """Different strings of 1 to `most` characters, `count` of them, as they are."""
        names = self._items(key, count or 0)
        if not names:
            return ()
        if not all(isinstance(each, str) and 0 < len(each) <= most for each in names) or len(set(names)) != count:
            raise ValueError(f"{key} {shown(names)}, needs {count} different names of at most {most:,} characters")
        return tuple(names)

    def one_of(self, key: str, names: tuple[str, ...]) -> str:
        """One of some strings."""
        value = self.values.get(key)
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"{key} {shown(value)}, needs one of {', '.join(names)}")
        return value

    def whole(self, key: str, least: int, most: int) -> int:
        """A whole number in [least, most]."""
        return _checked_whole(key, self.values.get(key), least, most)

    def wholes(self, key: str, least: int, most: int, longest: int) -> tuple[int, ...]:
        """At most so many whole numbers in [least, most]."""
        return tuple(_checked_whole(key, each, least, most) for each in self._items(key, longest))

    def number(self, key: str, least: float, most: float) -> float:
        """A finite number in [least, most]."""
        return _checked_number(key, self.values.get(key), least, most)

    def numbers(self, key: str, least: float, most: float, longest: int) -> tuple[float, ...]:
        """At most so many finite numbers in [least, most]."""
        return tuple(_checked_number(key, each, least, most) for each in self._items(key, longest))

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.values.get(key)
        if not isinstance(value, bool):
            raise ValueError(f"{key} {shown(value)}, needs true or false")
        return value

    def scalars(self, key: str, most: int) -> dict[str, Any]:
        """An object of at most 100 numbers, flags, nulls, and texts or lists of numbers of bounded length."""
        values = self.values.get(key)
        if not isinstance(values, dict) or len(values) > _MOST_SCALARS:
            raise ValueError(f"{key} {shown(values)}, needs an object of at most {_MOST_SCALARS} values")
        for name, value in values.items():
            each = value if isinstance(value, list) and len(value) <= _MOST_SCALARS else [value]
            if not all(x is None or (isinstance(x, (int, float, str)) and len(str(x)) <= most) for x in each):
                raise ValueError(f"{key}: {name} {shown(value)}, needs numbers, flags or words")
        return dict(values)

    def objects(self, key: str, longest: int) -> Iterator[Fields]:
        """At most so many objects."""
        return (Fields(each) for each in self._items(key, longest))

    def _items(self, key: str, longest: int) -> list[Any]:
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) > longest:
            raise ValueError(f"{key} {shown(value)}, needs a list of at most {longest:,}")
        return value


def _checked_whole(key: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{key} {shown(value)}, needs a whole number of {least:,} to {most:,}")
    return value


def _checked_number(key: str, value: Any, least: float, most: float) -> float:
    if type(value) not in (int, float) or not least <= value <= most:  # NaN is in no range
        raise ValueError(f"{key} {shown(value)}, needs a number of {least:g} to {most:g}")
    return float(value)
