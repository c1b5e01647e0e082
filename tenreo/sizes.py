"""Sizes of packed integers, and parsing of amounts such as 2.5MB."""

import re

from tenreo.errors import TenreoError, shown

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_LONGEST = 40  # characters of an amount; 2**63 has 19 digits


def bit_width(count: int) -> int:
    """Return the number of bits that represent every integer in [0, count), at least 1.

    >>> bit_width(256), bit_width(257)
    (8, 9)
    """
    return max(1, (count - 1).bit_length())


def packed_size(count: int, width: int) -> int:
    """Return the bytes of `count` packed integers of `width` bits.

    >>> packed_size(1000, 13)
    1625
    """
    return (count * width + 7) // 8


def fraction(text: str) -> float | None:
    """Parse a fraction of a size, written as a ratio or in percent; None if the text is neither.

    >>> fraction("5x"), fraction("20%"), fraction("5MB")
    (0.2, 0.2, None)

    Args:
        text: 5x stands for a fifth, and 20% for 0.2.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(x|%)\s*", text, re.IGNORECASE) if len(text) <= _LONGEST else None
    number = float(match[1]) if match else 0.0
    if match is None or not number:
        return None
    return number / 100 if match[2] == "%" else 1 / number


def short_amount(value: int, unit: str = "") -> str:
    """Return the shortest text that `amount` parses to the same value, in units of powers of 1,000.

    >>> short_amount(560_000, "B"), short_amount(2_500_000), short_amount(1234, "B")
    ('560kB', '2.5M', '1234B')
    """
    scales = {"k": 10**3, "M": 10**6, "G": 10**9}
    texts = [
        f"{value / scale:.10g}{prefix}{unit}" for prefix, scale in scales.items() if scale <= value < 10**5 * scale
    ]
    exact = [text for text in texts if amount(text, "size", unit) == value]
    return min([f"{value}{unit}", *exact], key=len)


def is_unit(text: str) -> bool:
    """Return whether a text is a unit of bytes.

    >>> is_unit("MB"), is_unit("KiB"), is_unit("model")
    (True, True, False)
    """
    lower = text.lower()
    return lower.endswith("b") and lower.removesuffix("b") in _UNITS


def amount(text: str | int | float, what: str, unit: str = "") -> int:
    """Parse a number of bytes or parameters such as 2.5MB, 300k or 1.5MiB.

    >>> amount("2.5MB", "target size", "B")
    2500000

    Args:
        text: a number, then optionally k, M, G (powers of 1,000) or Ki, Mi, Gi (powers of 1,024), then optionally the
            unit.
        what: name of the value for error messages.
        unit: unit that is accepted, such as B.

    Raises:
        TenreoError: if the text is not an amount, or the amount is less than 1 or at least 2^63.
    """
    written = text if isinstance(text, str) else shown(text)
    pattern = rf"\s*([0-9]*\.?[0-9]+)\s*([kmg]?i?)(?:{unit or '()'})?\s*"
    # In long texts, the regular expression would try every way to split the digits.
    match = re.fullmatch(pattern, written, re.IGNORECASE) if len(written) <= _LONGEST else None
    value = float(match[1]) * _UNITS.get(match[2].lower(), 0) if match else 0
    if not 1 <= value < 2**63:
        raise TenreoError(f"{what}: given {shown(text)}, needs an amount such as 2.5M{unit} or 800k{unit}")
    return int(value)


def quantity(value: int) -> str:
    """Format a count.

    >>> quantity(896), quantity(12_345), quantity(2_000_000)
    ('896', '12.3 k', '2.00 M')
    """
    if value < 1000:
        return str(value)
    return f"{value / 1e3:.1f} k" if value < 10**5 else f"{value / 1e6:.2f} M"


def byte_count(value: int) -> str:
    """Format a number of bytes in units of powers of 1,000.

    >>> byte_count(560), byte_count(12_345), byte_count(560_000), byte_count(1_234_000_000)
    ('560 bytes', '12.3 kB', '0.56 MB', '1.23 GB')
    """
    if value < 1000:
        return f"{value} bytes"
    return f"{value / 1e9:.2f} GB" if value >= 10**9 else f"{quantity(value)}B"
