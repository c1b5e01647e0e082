"""Strict reading of untrusted JSON: bounded depth and sizes, and a type and range for every value. Without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tenreo.errors import printable, shown

_DEEPEST = 8  # levels of nested lists and objects; files of tenreo have at most four
_MOST_DIGITS = 20  # digits of a whole number
_MOST_CHARACTERS = 10_000  # characters of a string
_MOST_SCALARS = 100  # values of an object or list of arguments
MOST_NAME = 1000  # characters of the name of a tensor or layer


def parse(text: str) -> Any:
    """Parse JSON from an untrusted source.

    Raises:
        ValueError: if the text is not JSON, is nested too deeply, or contains a key that is not printable, a whole
            number of more than 20 digits, NaN or infinity; or if an object contains a key twice.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_parse_whole, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_nesting(value, 0)
    return value


def check_name(name: str) -> None:
    """Raise unless the name of a tensor or layer is printable and has a bounded length.

    Raises:
        ValueError: naming the beginning of the name.
    """
    if not name.isprintable() or len(name) > MOST_NAME:
        raise ValueError(f"the name {shown(name)} is not printable, or has more than {MOST_NAME:,} characters")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dictionary of pairs; readers could disagree about the value of a key that occurs twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {shown(next(key for key in keys if keys.count(key) > 1))} occurs twice")
    return values


def _parse_whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits, needs at most {_MOST_DIGITS}")
    return int(digits)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _check_nesting(value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
    if isinstance(value, dict):
        for key in value:
            check_name(key)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_nesting(inner, depth + 1)


def cleaned(value: Any) -> Any:
    """Return a copy of a JSON value whose strings are printable and have a bounded length."""
    if isinstance(value, str):
        return printable(value, _MOST_CHARACTERS)
    if isinstance(value, list):
        return [cleaned(each) for each in value]
    return {key: cleaned(each) for key, each in value.items()} if isinstance(value, dict) else value


class Fields:
    """The fields of a JSON object, read with a type and a range; keys that nobody reads are ignored.

    Args:
        values: parsed JSON value.

    Raises:
        ValueError: if the value is not an object; in every method, if a field has a wrong type or is out of range.
    """

    def __init__(self, values: Any) -> None:
        if not isinstance(values, dict):
            raise ValueError(f"{shown(values)} is not an object")
        self.values = values

    def has(self, key: str) -> bool:
        """Return whether a field exists and is not null."""
        return self.values.get(key) is not None

    def text(self, key: str, most: int) -> str:
        """Read a string of at most `most` characters and make it printable."""
        value = self.values.get(key)
        if not isinstance(value, str) or len(value) > most:
            raise ValueError(f"{key} {shown(value)}, needs a string of at most {most:,} characters")
        return printable(value)

    def names(self, key: str, most: int, count: int | None) -> tuple[str, ...]:
        """Read a list of `count` different strings of 1 to `most` characters, unchanged."""
        names = self._items(key, count or 0)
        if not names:
            return ()
        if not all(isinstance(each, str) and 0 < len(each) <= most for each in names) or len(set(names)) != count:
            raise ValueError(f"{key} {shown(names)}, needs {count} different names of at most {most:,} characters")
        return tuple(names)

    def one_of(self, key: str, names: tuple[str, ...]) -> str:
        """Read a string that is one of `names`."""
        value = self.values.get(key)
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"{key} {shown(value)}, needs one of {', '.join(names)}")
        return value

    def whole(self, key: str, least: int, most: int) -> int:
        """Read a whole number in [least, most]."""
        return _checked_whole(key, self.values.get(key), least, most)

    def wholes(self, key: str, least: int, most: int, longest: int) -> tuple[int, ...]:
        """Read a list of at most `longest` whole numbers in [least, most]."""
        return tuple(_checked_whole(key, each, least, most) for each in self._items(key, longest))

    def number(self, key: str, least: float, most: float) -> float:
        """Read a number in [least, most]."""
        return _checked_number(key, self.values.get(key), least, most)

    def numbers(self, key: str, least: float, most: float, longest: int) -> tuple[float, ...]:
        """Read a list of at most `longest` numbers in [least, most]."""
        return tuple(_checked_number(key, each, least, most) for each in self._items(key, longest))

    def flag(self, key: str) -> bool:
        """Read true or false."""
        value = self.values.get(key)
        if not isinstance(value, bool):
            raise ValueError(f"{key} {shown(value)}, needs true or false")
        return value

    def scalars(self, key: str, most: int) -> dict[str, Any]:
        """Read an object of at most 100 scalars or lists of at most 100 scalars, each of at most `most` characters."""
        values = self.values.get(key)
        if not isinstance(values, dict) or len(values) > _MOST_SCALARS:
            raise ValueError(f"{key} {shown(values)}, needs an object of at most {_MOST_SCALARS} values")
        for name, value in values.items():
            each = value if isinstance(value, list) and len(value) <= _MOST_SCALARS else [value]
            if not all(x is None or (isinstance(x, (int, float, str)) and len(str(x)) <= most) for x in each):
                raise ValueError(f"{key}: {name} {shown(value)}, needs numbers, strings, true, false or null")
        return dict(values)

    def objects(self, key: str, longest: int) -> Iterator[Fields]:
        """Read a list of at most `longest` objects."""
        return (Fields(each) for each in self._items(key, longest))

    def _items(self, key: str, longest: int) -> list[Any]:
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) > longest:
            raise ValueError(f"{key} {shown(value)}, needs a list of at most {longest:,} items")
        return value


def _checked_whole(key: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{key} {shown(value)}, needs a whole number of {least:,} to {most:,}")
    return value


def _checked_number(key: str, value: Any, least: float, most: float) -> float:
    if type(value) not in (int, float) or not least <= value <= most:  # also false for NaN
        raise ValueError(f"{key} {shown(value)}, needs a number of {least:g} to {most:g}")
    return float(value)
