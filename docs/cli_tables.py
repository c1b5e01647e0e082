"""Rewrite the option tables of docs/cli.md from the option dataclasses: `python docs/cli_tables.py`."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from tenreo.cli.declare import help_of, option_fields
from tenreo.options import types_of

DOCUMENT = Path(__file__).parent / "cli.md"
TABLE = re.compile(r"(?<=<!-- options of )(\w+) -->\n\n.*?(?=\n<!-- end -->)", re.DOTALL)
VALUES = {int: "integer", float: "number", Path: "path", str: "text"}


def option_table(command: str) -> str:
    """Return the table of a command's options in Markdown."""
    hints = get_type_hints(getattr(import_module(f"tenreo.cli.commands.{command}"), command))
    rows = ["| option | value | default | meaning |", "|:--|:--|:--|:--|"]
    for name, hint in hints.items():
        if name != "return":
            rows += option_rows(hint)
    return "\n".join(rows) + "\n"


def option_rows(hint: Any) -> Iterator[str]:
    """Yield a table row for every option of a command's parameter, which is a dataclass or a list of one."""
    for cls, field, option in option_fields(hint):
        flag, kind = field.name.rstrip("_").replace("_", "-"), types_of(cls)[field.name]
        value, several = value_of(kind, option.metavar)
        names = [option.short, f"--{flag}", f"--no-{flag}" if value == "flag" else None]
        if several or (get_origin(hint) is list and option.short):
            value += ", repeatable"
        shown = ", ".join(f"`{name}`" for name in ([option.metavar] if option.positional else names) if name)
        cells = shown, value, default_of(field, NoneType in get_args(kind)), help_of(option)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def value_of(kind: Any, metavar: str | None) -> tuple[str, bool]:
    """Describe the values of a type, and tell whether the option can be repeated."""
    container = get_origin(kind) in (tuple, dict)
    if not container and get_args(kind):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    if kind is bool:
        return "flag", False
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(kind), False
    return f"`{metavar}`" if metavar else VALUES[kind], container


def default_of(field: Field[Any], optional: bool) -> str:
    """Return the default of a field, or "required"; nothing if the default is None or chosen by the recipe."""
    value = field.default
    if value is MISSING:
        return "" if optional or field.default_factory is not MISSING else "required"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value in (None, ()) else f"`{value}`"


def rewritten(text: str) -> str:
    """Return the text of the document with tables of the present options."""
    return TABLE.sub(lambda match: f"{match[1]} -->\n\n{option_table(match[1])}", text)


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text()))
