import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenreo.core.packing import pack, unpack
from tenreo.errors import TenreoError
from tenreo.sizes import amount, bands_of, packed_size, width_of


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 32), st.integers(0, 200), st.integers(0, 2**31))
def test_round_trip_and_the_bits_are_numpys(width, count, seed):
    numbers = np.random.default_rng(seed).integers(0, 2**width, count)
    packed = pack(torch.from_numpy(numbers), width)
    bits = (numbers[:, None] >> np.arange(width)) & 1
    assert packed.numpy().tolist() == np.packbits(bits.astype(np.uint8), bitorder="little").tolist()
    assert len(packed) == packed_size(count, width)
    assert unpack(packed, width, count).tolist() == numbers.tolist()


@pytest.mark.parametrize("width", range(1, 33))
def test_every_width_holds_its_largest_number(width):
    numbers = torch.tensor([2**width - 1, 0, 2**width - 1])
    assert torch.equal(unpack(pack(numbers, width), width, 3), numbers)


def test_sizes():
    assert [width_of(n) for n in (1, 2, 3, 4, 5, 1024, 1025)] == [1, 1, 2, 2, 3, 10, 11]
    assert [bands_of(n) for n in (1, 63, 128, 1024, 10**6)] == [1, 1, 2, 16, 16]


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [("2.5MB", "B", 2_500_000), ("800kB", "B", 800_000), ("1.5MiB", "B", 3 * 2**19), ("2.0M", "", 2_000_000),
     (3000, "B", 3000), ("7", "", 7), (" 12 GB ", "B", 12 * 10**9)],
)  # fmt: skip
def test_amounts(text, unit, value):
    assert amount(text, "size", unit) == value


@pytest.mark.parametrize("text", ["much", "-3MB", "2.5XB", "", "0", "0.1", None, "1e6"])
def test_refuses_what_is_no_amount(text):
    with pytest.raises(TenreoError, match=r"target_size: given .*needs an amount such as 2\.5MB"):
        amount(text, "target_size", "B")
