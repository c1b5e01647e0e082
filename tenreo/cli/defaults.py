"""A YAML file that stands in for the options that are not given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer

from tenreo.errors import TenreoError

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", Path: "a path"}
OTHERS = ("file", "config", "help")  # parameters that no YAML file may give


def use_yaml(context: typer.Context, path: Path, command: Callable[..., None]) -> None:
    """Take a file's values as defaults of a command's options; what is given on the command line wins.

    Args:
        context: of the command that is about to run.
        path: of the file; its keys are the options' names, with _ for -.
        command: whose signature says what the options hold.

    Raises:
        TenreoError: when the file can not be read, or has an unknown key or a value of the wrong kind.
    """
    from tenreo.recipe import read_yaml

    values = read_yaml(path)
    kinds = {name: _kind(hint) for name, hint in get_type_hints(command).items()}
    known = [p.name for p in context.command.params if p.name in kinds and p.name not in OTHERS]
    for key, value in values.items():
        if key not in known:
            raise TenreoError(f"{path}: unknown key {key!r}; known keys are {', '.join(map(str, known))}")
        if value is not None and not _fits(value, kinds[key]):
            raise TenreoError(f"{path}: {key}: given {value!r}, needs {KINDS[kinds[key]]}")
    context.default_map = values


def _kind(hint: Any) -> type:
    """int of `int` and of `int | None`."""
    return next((each for each in (hint, *get_args(hint)) if each in KINDS), type(None))


def _fits(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is not float:
        return isinstance(value, int if kind is int else str)
    try:
        float(value)  # YAML takes 1e-4, without a point, for a word
    except (TypeError, ValueError):
        return False
    return True
