import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenreo.codec.packing import pack, unpack
from tenreo.sizes import packed_size


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 32), st.integers(0, 200), st.integers(0, 2**31))
def test_round_trip_and_the_bits_agree_with_numpy(width, count, seed):
    numbers = np.random.default_rng(seed).integers(0, 2**width, count)
    packed = pack(torch.from_numpy(numbers), width)
    bits = (numbers[:, None] >> np.arange(width)) & 1
    assert packed.numpy().tolist() == np.packbits(bits.astype(np.uint8), bitorder="little").tolist()
    assert len(packed) == packed_size(count, width)
    assert unpack(packed, width, count).tolist() == numbers.tolist()


@pytest.mark.parametrize("width", range(1, 33))
def test_every_width_represents_its_largest_number(width):
    numbers = torch.tensor([2**width - 1, 0, 2**width - 1])
    assert torch.equal(unpack(pack(numbers, width), width, 3), numbers)
