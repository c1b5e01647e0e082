"""The file config.json of a folder of a model, which timm, transformers and tenreo write. Does not import torch."""

from pathlib import Path
from typing import Any

from tenreo.errors import TenreoError
from tenreo.files.checkpoints import check_inside
from tenreo.files.paths import opened
from tenreo.files.quantization_config import CONFIG as CONFIG
from tenreo.files.values import parse

_MOST_BYTES = 10_000_000  # a configuration with names and descriptions of 22,000 classes has 3 million


def read_config(folder: Path) -> dict[str, Any]:
    """Return the values of config.json of a folder; nothing that they name is read, downloaded or run.

    Raises:
        TenreoError: if there is no such file, it is a link to a file outside of the folder, or it is no JSON object.
    """
    path = folder / CONFIG
    check_inside(folder, path)
    with opened(path) as file:
        text = file.read(_MOST_BYTES + 1)
    try:
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        values = parse(text.decode())
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
    except ValueError as error:
        raise TenreoError(f"{path}: cannot be read as a configuration: {error}; download the folder again") from error
    return values
