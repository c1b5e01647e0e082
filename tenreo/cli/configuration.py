"""YAML files whose keys are the names of options. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import yaml

from tenreo.errors import TenreoError
from tenreo.options import check_value, options_of, types_of

RATE_KEYS = ("rate", "progressive", "target_size", "target_params")
# Understood for one version: former names of options, former values, and options that are no longer needed.
RENAMED = {"coefficients": "precision", "other": "dense_dtype"}
RENAMED_VALUES = {("freeze", "others"): "dense"}
NEEDLESS = {"--uniform": "rates are uniform without --progressive"}
_NOT_IN_FILES = ("file",)


def read_yaml(path: Path, classes: Sequence[type]) -> dict[str, Any]:
    """Read a YAML file as the defaults of a command's options.

    Besides the options' names, with _ for -, `uniform: 2.0` and `progressive: 0.5` say the rate and its kind at once.

    Args:
        path: of the file.
        classes: the dataclasses that have the options.

    Raises:
        TenreoError: when the file can not be read, or has an unknown key or a value that an option does not take.
    """
    owners = {name: cls for cls in classes for name in options_of(cls) if name not in _NOT_IN_FILES}
    values = _renamed(_load(path))
    if "rate" in owners:
        values = _with_rate(path, values)
    for key, value in values.items():
        if key not in owners:
            known = [*owners, *(("uniform",) if "rate" in owners else ())]
            raise TenreoError(f"{path}: unknown key {key!r}; known keys are {', '.join(known)}")
        try:
            values[key] = _checked(owners[key], key, value)
        except TenreoError as error:
            raise TenreoError(f"{path}: {error}") from error
    return values


def _load(path: Path) -> dict[Any, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TenreoError(f"{path}: can not be read as YAML: {reason}") from error
    if not isinstance(values, dict):
        raise TenreoError(f"{path}: given {type(values).__name__}, needs keys and values such as groups: 4")
    return values


def _renamed(values: dict[Any, Any]) -> dict[Any, Any]:
    named = {RENAMED.get(key, key) if isinstance(key, str) else key: value for key, value in values.items()}
    return {
        key: RENAMED_VALUES.get((key, value), value) if isinstance(value, str) else value
        for key, value in named.items()
    }


def _with_rate(path: Path, values: dict[Any, Any]) -> dict[Any, Any]:
    """`uniform: 2.0` and `progressive: 0.5` as the options rate and progressive."""
    values = dict(values)
    kinds = [k for k in ("uniform", "progressive") if k in values and not isinstance(values[k], bool)]
    if len(kinds) + ("rate" in values) > 1:
        raise TenreoError(f"{path}: rate: needs exactly one of rate, uniform and progressive, given {values}")
    for kind in kinds:
        values["rate"] = values.pop(kind)
        values["progressive"] = kind == "progressive"
    return values


def _checked(cls: type, key: str, value: Any) -> Any:
    """The value as the command line takes it."""
    kind = types_of(cls)[key]
    if float in (kind, *get_args(kind)) and isinstance(value, str):
        with suppress(ValueError):
            value = float(value)  # YAML takes 1e-4, without a point, for a word
    if str in get_args(kind) and key.startswith("target") and isinstance(value, (int, float)):
        value = str(value)
    if value is None and type(None) not in get_args(kind):
        raise TenreoError(f"{key}: given nothing, needs a value")
    checked = check_value(cls, key, value)
    if isinstance(checked, dict):
        return [f"{pattern}={weight}" for pattern, weight in checked.items()]
    return list(checked) if isinstance(checked, tuple) else checked
