"""The card of a folder of weights: a README.md that starts with values in YAML. Does not import torch."""

from contextlib import suppress
from typing import Any

import yaml

from tenreo.errors import TenreoError
from tenreo.files.checkpoints import CheckpointFiles
from tenreo.files.paths import opened

_CARD = "README.md"
_MOST_BYTES = 1 << 16  # of the values at the start of a card


def license_of(files: CheckpointFiles) -> str:
    """Return the license that the card of a folder states; empty without a folder, a card or a license in it."""
    values = _values(files) if files.is_folder else {}
    license = values.get("license")
    if license == "other":
        license = values.get("license_name", license)
    names = license if isinstance(license, list) else [license]
    return ", ".join(name for name in names if isinstance(name, str))


def _values(files: CheckpointFiles) -> dict[Any, Any]:
    """Return the values between the first two lines of three hyphens; nothing if they are not YAML."""
    with suppress(TenreoError, OSError, ValueError, RecursionError, yaml.YAMLError), opened(files.path / _CARD) as file:
        first, *lines = file.read(_MOST_BYTES).decode("utf-8-sig", "replace").splitlines()
        if first.rstrip() == "---":
            end = next(i for i, line in enumerate([*lines, "---"]) if line.rstrip() == "---")
            values = yaml.safe_load("\n".join(lines[:end]))
            return values if isinstance(values, dict) else {}
    return {}
