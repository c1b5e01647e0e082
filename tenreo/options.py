"""Options: dataclass fields that carry their help sentence and range, so that each is stated once.

The fields of `Recipe`, of the training `Settings` and of the command line's own dataclasses are made with `option`.
Their values are checked by `check_options`; the command line and the keys of YAML files are made from them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from tenreo.errors import TenreoError, shown

MOST_BYTES = 4096  # of a path, as Linux has it


@dataclass(frozen=True)
class Option:
    """What is known of a field besides its name, type and default.

    Attributes:
        help: one sentence.
        least: smallest value, of a number.
        most: largest value.
        above: the value must be larger.
        below: the value must be smaller.
        ceiling: more makes no sense, and is a slip of the finger; the help does not mention it.
        short: short name on the command line, such as -g.
        metavar: placeholder of the value in the help.
        completion: function that returns the values which a shell completes.
        positional: whether it is an argument without a name on the command line.
    """

    help: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    ceiling: float | None = None
    short: str | None = None
    metavar: str | None = None
    completion: Callable[[], Iterable[str]] | None = None
    positional: bool = False

    @property
    def range(self) -> str:
        """The range in words, such as "1 to 31" or "above 0"; empty without one."""
        if self.least is not None and self.most is not None:
            return f"{_written(self.least)} to {_written(self.most)}"
        bounds = (("at least", self.least), ("at most", self.most), ("above", self.above), ("below", self.below))
        return " and ".join(f"{word} {_written(bound)}" for word, bound in bounds if bound is not None)

    def holds(self, value: float) -> bool:
        """Whether a number lies in the range; infinity and NaN never do."""
        return (
            abs(value) <= sys.float_info.max  # so that it is a float: neither NaN nor an int of 400 digits is
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.ceiling is None or value <= self.ceiling)
        )


def _written(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) and bound >= 10_000 else f"{bound:g}"


def option(default: Any, help: str, **attributes: Any) -> Any:
    """A dataclass field that is an option.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Search:
    ...     rounds: int = option(12, "Rounds at most.", least=0)
    ...     def __post_init__(self):
    ...         check_options(self)
    >>> Search(-1)
    Traceback (most recent call last):
    tenreo.errors.TenreoError: rounds: given -1, needs a whole number of at least 0

    Args:
        default: its default; a type where it is made anew, such as dict.
        help: one sentence.
        attributes: further attributes of `Option`, such as least and most.
    """
    if isinstance(default, type):
        return field(default_factory=default, metadata=described(help, **attributes))
    return field(default=default, metadata=described(help, **attributes))


def described(help: str, **attributes: Any) -> dict[str, Option]:
    """The metadata of a dataclass field that is an option without a default: `field(metadata=described(...))`.

    Args:
        help: one sentence.
        attributes: further attributes of `Option`.
    """
    return {"option": Option(help, **attributes)}


def options_of(cls: type) -> dict[str, Option]:
    """The options of a dataclass, by the names of their fields."""
    return {f.name: f.metadata["option"] for f in fields(cls) if "option" in f.metadata}


@cache
def types_of(cls: type) -> dict[str, Any]:
    """The types of a class's annotations, resolved."""
    return get_type_hints(cls)


def check_options(instance: Any) -> None:
    """Check every option of a frozen dataclass, and give it its type (enumerations, tuples, paths).

    Raises:
        TenreoError: naming the field, what was given, and what it needs.
    """
    cls = type(instance)
    for name in options_of(cls):
        object.__setattr__(instance, name, check_value(cls, name, getattr(instance, name)))


def check_value(cls: type, name: str, value: Any) -> Any:
    """The value of an option in its type.

    Args:
        cls: the dataclass that has the option.
        name: of the option.
        value: what was given.

    Raises:
        TenreoError: when it is of another type or out of range.
    """
    kind = types_of(cls)[name]
    members = [each for each in get_args(kind) if each is not type(None)] if _is_union(kind) else [kind]
    if value is None and type(None) in get_args(kind):
        return None
    return _convert(name, value, members[0], options_of(cls)[name])


def _is_union(kind: Any) -> bool:
    return get_origin(kind) is not None and type(None) in get_args(kind)


def _convert(name: str, value: Any, kind: Any, option: Option) -> Any:
    if kind in (int, float):
        return check_number(name, value, whole=kind is int, option=option)
    if kind is bool:
        if not isinstance(value, bool):
            raise TenreoError(f"{name}: given {shown(value)}, needs true or false")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) and each for each in value):
            raise TenreoError(f"{name}: given {shown(value)}, needs a list of words, such as layer-name patterns")
        return tuple(value)
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
    return kind(value)


def _is_name(text: str) -> bool:
    """Whether the system takes a text for a path at all; most words may be paths."""
    try:
        return 0 < len(os.fsencode(text)) <= MOST_BYTES and "\0" not in text
    except UnicodeEncodeError:
        return False


def check_number(name: str, value: Any, *, whole: bool, option: Option) -> Any:
    """A number in its range.

    Raises:
        TenreoError: when it is no number, or out of range.
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
