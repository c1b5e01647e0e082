"""Sizes: bits and bytes that numbers take in a file, and amounts such as 2.5MB."""

from __future__ import annotations

import re

from tenreo.errors import TenreoError

PRECISIONS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int6": 6}  # of coefficients: bits
FLOATS = ("float32", "float16", "bfloat16")
_BAND = 64  # coefficients that share a scale, at least
_BANDS = 16  # scales per row, at most
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def width_of(count: int) -> int:
    """Bits that hold every number in [0, count): 1 at least."""
    return max(1, (count - 1).bit_length())


def packed_size(count: int, width: int) -> int:
    """Bytes that `count` numbers of `width` bits take side by side."""
    return (count * width + 7) // 8


def bands_of(kept: int) -> int:
    """Bands of frequencies, each with a scale per row, that integer coefficients have."""
    return max(1, min(_BANDS, kept // _BAND))


def amount(text: str | int | float, what: str, unit: str = "") -> int:
    """A number of bytes or parameters such as 2.5MB, 300k or 1.5MiB.

    Args:
        text: digits, then k, M, G (thousands) or Ki, Mi, Gi (1,024), then the unit or nothing.
        what: the name of the value, for a message.
        unit: that may stand behind, such as B.

    Raises:
        TenreoError: when it is no such amount, or less than 1.
    """
    match = re.fullmatch(
        rf"\s*([0-9]*\.?[0-9]+)\s*([kmg]?i?)(?:{unit or '()'})?\s*", str(text), re.IGNORECASE
    )
    value = float(match[1]) * _UNITS.get(match[2].lower(), 0) if match else 0
    if not 1 <= value < 2**63:
        raise TenreoError(f"{what}: given {text!r}, needs an amount such as 2.5M{unit} or 800k{unit}")
    return int(value)
