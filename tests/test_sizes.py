"""Sizes of packed integers, and amounts such as 2.5MB."""

import pytest

from tenreo.errors import TenreoError
from tenreo.sizes import amount, bit_width, fraction, packed_size


def test_bit_widths_and_packed_sizes():
    assert [bit_width(n) for n in (1, 2, 3, 4, 5, 1024, 1025)] == [1, 1, 2, 2, 3, 10, 11]
    for count in range(1, 70):
        assert 2 ** bit_width(count) >= count and (count <= 2 or 2 ** (bit_width(count) - 1) < count)
    assert [packed_size(n, w) for n, w in ((0, 7), (1, 1), (8, 1), (9, 1), (3, 32))] == [0, 1, 1, 2, 12]


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [("2.5MB", "B", 2_500_000), ("800kB", "B", 800_000), ("1.5MiB", "B", 3 * 2**19), ("2.0M", "", 2_000_000),
     (3000, "B", 3000), ("7", "", 7), (" 12 GB ", "B", 12 * 10**9)],
)  # fmt: skip
def test_amounts_are_parsed(text, unit, value):
    assert amount(text, "size", unit) == value


@pytest.mark.parametrize("text", ["much", "-3MB", "2.5XB", "", "0", "0.1", None, "1e6"])
def test_other_texts_are_refused(text):
    with pytest.raises(TenreoError, match=r"target_size: given .*needs an amount such as 2\.5MB"):
        amount(text, "target_size", "B")


@pytest.mark.parametrize(
    ("text", "part"),
    [("5x", 0.2), ("2.5X", 0.4), ("20%", 0.2), (" 12.5 % ", 0.125), ("5", None), ("x", None), ("0x", None),
     ("-5x", None), ("5xx", None), ("9" * 100 + "x", None), ("20 percent", None)],
)  # fmt: skip
def test_fractions_are_parsed(text, part):
    assert fraction(text) == part
