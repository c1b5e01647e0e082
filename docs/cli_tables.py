"""Rewrite the option tables of docs/cli.md from the option dataclasses: `python docs/cli_tables.py`."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from tenreo.cli.declare import help_of, option_classes
from tenreo.options import options_of, types_of

DOCUMENT = Path(__file__).parent / "cli.md"
TABLE = re.compile(r"(?<=<!-- options of )(\w+) -->\n\n.*?(?=\n<!-- end -->)", re.DOTALL)
VALUES = {int: "integer", float: "number", Path: "path", str: "text"}


def option_table(command: str) -> str:
    """Return the table of a command's options in Markdown."""
    hints = get_type_hints(getattr(import_module(f"tenreo.cli.commands.{command}"), command))
    rows = ["| option | value | default | meaning |", "|:--|:--|:--|:--|"]
    for name, hint in hints.items():
        if name != "return":
            rows += (row for cls in option_classes(hint) for row in option_rows(cls, get_origin(hint) is list))
    return "\n".join(rows) + "\n"


def option_rows(cls: type, repeated: bool) -> Iterator[str]:
    """Yield a table row for every option of a dataclass; `repeated` for a list of it."""
    known = options_of(cls)
    for field in fields(cls):
        if field.name in known:
            option, flag = known[field.name], field.name.replace("_", "-")
            value, several = value_of(types_of(cls)[field.name], option.metavar)
            if option.positional:
                names = [option.metavar]
            else:
                names = [option.short, f"--{flag}", f"--no-{flag}" if value == "flag" else None]
            if several or (repeated and option.short):
                value += ", repeatable"
            default = default_of(field, NoneType in get_args(types_of(cls)[field.name]))
            cells = ", ".join(f"`{name}`" for name in names if name), value, default, help_of(option)
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
