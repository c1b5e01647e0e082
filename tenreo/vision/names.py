"""The names that options take: torchvision's architectures, and ways to augment images. No torch."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tenreo.errors import TenreoError

PAPER = ("mobilenet_v2", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_REGISTERED = re.compile(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)


class Augmentation(StrEnum):
    """How training images are varied.

    "none" resizes and takes the center, as the paper; "standard" takes a random part of a photograph, flipped or not,
    and moves, turns and scales a digit a little.
    """

    NONE = "none"
    STANDARD = "standard"


@cache
def architecture_names() -> tuple[str, ...]:
    """The classification architectures of torchvision, sorted.

    They are read from its source files: importing it takes seconds, which neither shell completion nor the message
    about a misspelled name should take.
    """
    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise TenreoError("torchvision is not installed; install tenreo with its dependencies")
    folder = Path(spec.submodule_search_locations[0]) / "models"
    return tuple(sorted(name for file in folder.glob("*.py") for name in _REGISTERED.findall(file.read_text())))


def check_architecture(arch: str) -> None:
    """Raise unless torchvision has a classification architecture of this name.

    Raises:
        TenreoError: naming some that it has.
    """
    known = architecture_names()
    if arch not in known:
        close = [name for name in known if name[:4] == arch[:4]] or list(PAPER)
        raise TenreoError(f"arch: torchvision has no classification architecture {arch!r}; such as {', '.join(close)}")
