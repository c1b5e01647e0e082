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

DIGITS = "digits"  # the data set that needs no folder


class Augmentation(StrEnum):
    """How training images are varied.

    "none" resizes and takes the center, as the paper; "standard" takes a random part of a photograph, flipped or not,
    and moves, turns and scales a digit a little. "randaugment" does that and RandAugment (arXiv 1909.13719: two of 14
    operations, of magnitude 9).
    """

    NONE = "none"
    STANDARD = "standard"
    RANDAUGMENT = "randaugment"


@cache
def architecture_names() -> tuple[str, ...]:
    """The classification architectures of torchvision, sorted.

    They are read from its source files: importing it takes seconds, which neither shell completion nor the message
    about a misspelled name should take.
    """
    return tuple(sorted(name for text in _sources() for name in _REGISTERED.findall(text)))


def check_architecture(arch: str) -> None:
    """Raise unless torchvision has a classification architecture of this name.

    Raises:
        TenreoError: naming some that it has.
    """
    known = architecture_names()
    if arch not in known:
        close = [name for name in known if name[:4] == arch[:4]] or list(PAPER)
        raise TenreoError(f"arch: torchvision has no classification architecture {arch!r}; such as {', '.join(close)}")


@cache
def weight_names(arch: str) -> tuple[str, ...]:
    """The names of torchvision's weights of an architecture, read from its source files as well."""
    for text in _sources():
        declared = re.search(rf"^def {re.escape(arch)}\([^)]*?weights: Optional\[(\w+)\]", text, re.MULTILINE)
        if declared:
            body = text.partition(f"class {declared[1]}(WeightsEnum):")[2]
            body = re.split(r"^\S", body, maxsplit=1, flags=re.MULTILINE)[0]
            return tuple(re.findall(r"^    (\w+) = Weights\(", body, re.MULTILINE))
    return ()


@cache
def _sources() -> tuple[str, ...]:
    """The texts of torchvision's modules of models."""
    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise TenreoError("torchvision is not installed; install tenreo with its dependencies")
    folder = Path(spec.submodule_search_locations[0]) / "models"
    return tuple(file.read_text("utf-8") for file in sorted(folder.glob("*.py")))
