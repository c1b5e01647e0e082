"""File formats that models are exported to. This module does not import torch."""

from __future__ import annotations

from pathlib import Path

from tenreo.errors import TenreoError, shown

FORMATS = (".safetensors", ".pth", ".pt2", ".onnx")  # of exported models


def check_format(path: Path) -> None:
    """Raise unless the ending of a path is that of a format that models are exported to.

    Raises:
        TenreoError: naming the endings there are.
    """
    if path.suffix not in FORMATS:
        raise TenreoError(f"to: given {shown(path.name)}, needs a name that ends in {', '.join(FORMATS)}")
