"""The values in YAML at the start of a model card, README.md, as the Hugging Face hub reads them. No torch."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tenreo.errors import TenreoError
from tenreo.files.checkpoints import CheckpointFiles
from tenreo.files.paths import opened

CARD = "README.md"
_MOST_BYTES = 1 << 16  # of the values at the start of a card
_RULE = "---"  # the lines before and after the values


def license_of(files: CheckpointFiles) -> str:
    """Return the license that the card of a folder states; empty without a folder, a card or a license in it."""
    values = read_metadata(files.path) if files.is_folder else {}
    license = values.get("license")
    if license == "other":
        license = values.get("license_name", license)
    names = license if isinstance(license, list) else [license]
    return ", ".join(name for name in names if isinstance(name, str))


def read_metadata(folder: Path) -> dict[Any, Any]:
    """Return the values between the first two lines of three hyphens of a card; nothing if they are not YAML."""
    with suppress(TenreoError, OSError, ValueError, RecursionError, yaml.YAMLError), opened(folder / CARD) as file:
        first, *lines = file.read(_MOST_BYTES).decode("utf-8-sig", "replace").splitlines()
        if first.rstrip() == _RULE:
            end = next(i for i, line in enumerate([*lines, _RULE]) if line.rstrip() == _RULE)
            values = yaml.safe_load("\n".join(lines[:end]))
            return values if isinstance(values, dict) else {}
    return {}


def metadata_text(values: dict[str, Any]) -> str:
    """Return the first lines of a card; values that are empty are left out."""
    known = {key: value for key, value in sorted(values.items()) if value}
    return f"{_RULE}\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=100)}{_RULE}\n"
