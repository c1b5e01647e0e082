"""YAML files whose keys are names of options: reading. No torch."""

from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml

from tenreo.errors import TenreoError, shown
from tenreo.options import check_value, options_of, types_of
from tenreo.planning.rates import Uniform, as_rate_options
from tenreo.planning.recipe import Recipe

_MAX_BYTES = 2**20  # a file with all options has about two thousand bytes
_MAX_DEPTH = 10  # the depth of `layers` is 3


def read_yaml(path: Path, classes: Sequence[type]) -> dict[str, Any]:
    """Read a YAML file as the defaults of a command's options.

    The keys are the names of the options with _ instead of -. `uniform: 2.0` and `progressive: 0.5` set the rate and
    its kind at once, and `layers` contains the settings of single layers.

    Args:
        path: path of the file.
        classes: option dataclasses of the command.

    Raises:
        TenreoError: if the file cannot be read, a key is unknown, or an option does not accept its value.
    """
    # `for` is the key of the field `for_`; but `layers` are settings of layers, and not the field `layers_`.
    owners = {
        name if name == "layers_" else name.rstrip("_"): (cls, name)
        for cls in classes
        for name, option in options_of(cls).items()
        if not option.positional
    }
    values = _load(path)
    try:
        if "rate" in owners:
            values = as_rate_options(values)
        for key, value in list(values.items()):
            if key == "layers" and "rate" in owners:
                values[key] = _layer_settings(value)
            elif key in owners:
                cls, name = owners[key]
                del values[key]
                values[name] = _checked(cls, name, value)
            else:
                known = dict.fromkeys([*owners, *(("uniform", "layers") if "rate" in owners else ())])
                similar = get_close_matches(str(key).replace("-", "_"), known, 1)
                advice = f"did you mean {similar[0]}?" if similar else f"known keys are {', '.join(known)}"
                raise TenreoError(f"unknown key {shown(key)}; {advice}")
    except TenreoError as error:
        raise TenreoError(f"{path}: {error}") from error
    return values


def _load(path: Path) -> dict[Any, Any]:
    try:
        if not path.is_file():
            raise TenreoError(f"{path}: cannot be read as YAML: no such file; give the path of a file")
        if path.stat().st_size > _MAX_BYTES:
            raise TenreoError(f"{path}: cannot be read as YAML: has more than {_MAX_BYTES:,} bytes")
        values = yaml.load(path.read_text("utf-8-sig"), Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise TenreoError(f"{path}: cannot be read as YAML: {where}{error.problem}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise TenreoError(f"{path}: cannot be read as YAML: {reason}") from error
    if not isinstance(values, dict):
        raise TenreoError(f"{path}: given {type(values).__name__}, needs keys and values such as groups: 4")
    return values


class _PlainLoader(yaml.SafeLoader):
    """Reads text, numbers, true, false, lists and mappings; all other features of YAML are errors."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse deep nesting, tags, and anchors, with which a few lines expand to gigabytes."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _problem(event, "anchors and aliases (& and *) are not supported; write the value out")
        if event.tag is not None:
            raise _problem(event, f"the tag {event.tag} is not supported; leave it out")
        if self._depth >= _MAX_DEPTH:
            raise _problem(event, f"is nested more than {_MAX_DEPTH} deep")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse duplicate keys, of which PyYAML would take the last."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem(key, "a key must be text")
            if key.value in seen:
                raise _problem(key, f"the key {shown(key.value)} is given twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# Dates stay text, because 2001-01-01 may be the name of a folder.
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _problem(place: Any, text: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=place.start_mark)


def _layer_settings(value: Any) -> dict[str, Any]:
    """Check the value of `layers`: a mapping of layer-name patterns to "dense" or to settings."""
    if not isinstance(value, dict):
        raise TenreoError(f"layers: given {shown(value)}, needs layer-name patterns and their settings")
    return Recipe(1, Uniform(1.0), layers=value).layers


def _checked(cls: type, key: str, value: Any) -> Any:
    """Check a value and convert it to the form that the command line uses."""
    kind = types_of(cls)[key]
    if float in (kind, *get_args(kind)) and isinstance(value, str):
        with suppress(ValueError):
            value = float(value)  # YAML reads 1e-4, which has no decimal point, as text
    if str in get_args(kind) and key.startswith("target") and isinstance(value, (int, float)):
        value = shown(value)
    if value is None and type(None) not in get_args(kind):
        raise TenreoError(f"{key}: given nothing, needs a value")
    checked = check_value(cls, key, value)
    if isinstance(checked, dict):
        return [f"{pattern}={weight}" for pattern, weight in checked.items()]
    return list(checked) if isinstance(checked, tuple) else checked
