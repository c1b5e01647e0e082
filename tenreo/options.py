"""Options: dataclass fields with a help sentence and a range, which are stated only there.

`option` creates the fields of `Recipe`, of the training `Settings` and of the dataclasses of the command line.
`check_options` checks their values. The command line and the keys of YAML files are generated from the fields.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from tenreo.errors import TenreoError, shown

_MOST_BYTES = 4096  # bytes of a path; the limit of Linux


@dataclass(frozen=True)
class Option:
    """Help and range of a dataclass field."""

    help: str  # one sentence
    least: float | None = None  # smallest allowed value of a number
    most: float | None = None  # largest allowed value
    above: float | None = None  # exclusive lower bound
    below: float | None = None  # exclusive upper bound
    ceiling: float | None = None  # largest value that is not certainly a typing error; the help does not mention it
    short: str | None = None  # short name on the command line, such as -g
    metavar: str | None = None  # placeholder of the value in the help of the command line
    completion: Callable[[], Iterable[str]] | None = None  # returns the values that a shell completes
    positional: bool = False  # whether the command line has a positional argument instead of an option

    @property
    def range(self) -> str:
        """The range in words, such as "1 to 31" or "above 0"; empty if there is none."""
        if self.least is not None and self.most is not None:
            return f"{_written(self.least)} to {_written(self.most)}"
        bounds = (("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below))
        return " and ".join(f"{word} {_written(bound)}" for word, bound in bounds if bound is not None)

    def holds(self, value: float) -> bool:
        """Return whether a number is finite and in the range."""
        return (
            abs(value) <= sys.float_info.max  # false for NaN, infinity, and integers too large for a float
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.ceiling is None or value <= self.ceiling)
        )


def _written(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) and bound >= 10_000 else f"{bound:g}"


def option(default: Any, help: str, **attributes: Any) -> Any:
    """Return a dataclass field with a help sentence and a range.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Search:
    ...     rounds: int = option(12, "Maximum number of rounds.", least=0)
    ...     def __post_init__(self):
    ...         check_options(self)
    >>> Search(-1)
    Traceback (most recent call last):
    tenreo.errors.TenreoError: rounds: given -1, needs a whole number of at least 0

    Args:
        default: default value; a type, such as dict, is called to create a new value for each instance.
        help: help text: one sentence.
        attributes: further attributes of `Option`, such as least and most.
    """
    if isinstance(default, type):
        return field(default_factory=default, metadata=described(help, **attributes))
    return field(default=default, metadata=described(help, **attributes))


def described(help: str, **attributes: Any) -> dict[str, Option]:
    """Return the metadata of an option without a default, for `field(metadata=described(...))`.

    Args:
        help: help text: one sentence.
        attributes: further attributes of `Option`.
    """
    return {"option": Option(help, **attributes)}


def options_of(cls: type) -> dict[str, Option]:
    """Return the options of a dataclass by field name."""
    return {f.name: f.metadata["option"] for f in fields(cls) if "option" in f.metadata}


@cache
def types_of(cls: type) -> dict[str, Any]:
    """Return the resolved types of the annotations of a class."""
    return get_type_hints(cls)


def check_options(instance: Any) -> None:
    """Check every option of a frozen dataclass and convert its value to the type of the field.

    Raises:
        TenreoError: naming the field, the value given, and the values allowed.
    """
    cls = type(instance)
    for name in options_of(cls):
        object.__setattr__(instance, name, check_value(cls, name, getattr(instance, name)))


def check_value(cls: type, name: str, value: Any) -> Any:
    """Check the value of one option and convert it to the type of the field (enumeration, tuple, path).

    Args:
        cls: dataclass that has the option.
        name: name of the field.
        value: value to check.

    Raises:
        TenreoError: if the value has a wrong type or is out of range.
    """
    kind = types_of(cls)[name]
    if type(None) in get_args(kind):
        if value is None:
            return None
        kind = next(each for each in get_args(kind) if each is not type(None))
    return _convert(name.rstrip("_"), value, kind, options_of(cls)[name])  # the option --for is the field `for_`


def _convert(name: str, value: Any, kind: Any, option: Option) -> Any:
    """Check a value against a type that is not optional, and convert it."""
    if kind in (int, float):
        return check_number(name, value, whole=kind is int, option=option)
    if kind is bool:
        if not isinstance(value, bool):
            raise TenreoError(f"{name}: given {shown(value)}, needs true or false")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) and each for each in value):
            raise TenreoError(f"{name}: given {shown(value)}, needs a list of words, such as layer-name patterns")
        return tuple(map(_expanded, value))
    if get_origin(kind) is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
            raise TenreoError(f"{name}: given {shown(value)}, needs layer-name patterns and numbers")
        return {key: check_number(f"{name} of {key}", each, whole=False, option=option) for key, each in value.items()}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if value not in list(kind):
            raise TenreoError(f"{name}: given {shown(value)}, needs one of {', '.join(kind)}")
        return kind(value)
    what = "path" if kind is Path else "word"
    if not isinstance(value, (str, kind)):
        raise TenreoError(f"{name}: given {shown(value)}, needs a {what}")
    if not _is_name(str(value)):
        raise TenreoError(f"{name}: given {shown(str(value))}, needs a {what} that can be the name of a file")
    return kind(_expanded(str(value)))


def _expanded(text: str) -> str:
    """Return a text in which the home folder replaces ~ at the start of a path, as a shell does."""
    return os.path.expanduser(text) if text.startswith("~/") else text


def _is_name(text: str) -> bool:
    """Return whether a text is a valid path; this is checked for all strings, because most may name a file."""
    try:
        return 0 < len(os.fsencode(text)) <= _MOST_BYTES and "\0" not in text
    except UnicodeEncodeError:
        return False


def check_number(name: str, value: Any, *, whole: bool, option: Option) -> Any:
    """Check that a value is a number in the range of an option, and return it.

    Args:
        name: name of the option, for the message.
        value: value to check.
        whole: whether the number must be an integer.
        option: option with the range.

    Raises:
        TenreoError: if the value is not a number or is out of range.
    """
    what = "a whole number" if whole else "a number"
    needed = what
    if option.range:
        needed += f" {option.range}" if option.range.startswith(("above", "below")) else f" of {option.range}"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise TenreoError(f"{name}: given {shown(value)}, needs {needed}")
    if option.ceiling is not None and value > option.ceiling:
        needed = f"{what} of at most {_written(option.ceiling)}"
    if not option.holds(value):
        raise TenreoError(f"{name}: given {shown(value)}, needs {needed}")
    return value
