import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenreo.codec import position_coding, range_coder
from tenreo.codec.position_coding import decode_positions, encode_positions
from tenreo.codec.shape import Basis
from tenreo.codec.trellis import following
from tenreo.errors import TenreoError
from tenreo.sizes import bit_width, packed_size


def random_positions(kind, columns, length, row, seed, memory=0):
    """Return random positions; with a trellis, each is moved to an allowed position nearby."""
    random = np.random.default_rng(seed)
    scale = np.repeat(np.exp(random.normal(size=-(-columns // row))), row)[:columns]
    column, place = np.divmod(np.arange(columns), row)
    phases = np.random.default_rng(seed + 1).uniform(0, 2 * np.pi, columns)
    waves = np.exp(2 * np.sin(place / 5 + phases[column]))  # scales along rows, with any phase
    down = np.exp(2 * np.sin(column / 5 + phases[place]))  # the same along columns
    x = {
        "uniform": lambda: random.integers(0, length, columns),
        "laplace": lambda: random.laplace(size=columns) * scale * length / 20 + length / 2,
        "constant": lambda: np.full(columns, length - 1),
        "permutation": lambda: random.permutation(columns) % length,
        "rare": lambda: (random.random(columns) < 0.01) * (length - 1),
        "waves": lambda: random.laplace(size=columns) * waves * length / 20 + length / 2,
        "waves down": lambda: random.laplace(size=columns) * down * length / 20 + length / 2,
    }[kind]()
    positions = np.clip(np.floor(x), 0, length - 1).astype(np.int32)
    state, machine = 0, following(memory)
    for i in range(columns if memory else 0):
        positions[i] = min(positions[i] // 2, (length - 1 - state % 2) // 2) * 2 + state % 2
        state = machine[state, positions[i] // 2 % 2]
    return torch.from_numpy(positions)


KINDS = ["uniform", "laplace", "constant", "permutation", "rare", "waves", "waves down"]
BASES = st.sampled_from([Basis.COSINE, Basis.RAMP])


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(KINDS), st.integers(1, 700), st.integers(1, 300), st.integers(1, 80), st.integers(0, 99),
    st.integers(0, 8), BASES,
)  # fmt: skip
def test_round_trip(kind, columns, length, row, seed, memory, basis):
    length = max(3 if basis is Basis.RAMP else 2 if memory else 1, length)
    positions = random_positions(kind, columns, length, row, seed, memory)
    stream = encode_positions(positions, length, row, memory, basis)
    assert stream.dtype == torch.uint8
    assert len(stream) <= 5 + packed_size(columns, bit_width(length))
    decoded = decode_positions(stream, columns, length, row, basis)
    assert decoded.dtype == torch.int32 and torch.equal(decoded, positions)


def entropy(positions):
    """Return the number of positions times their empirical entropy, in bits."""
    counts = np.unique(positions, return_counts=True)[1]
    return -(counts * np.log2(counts / counts.sum())).sum()


@pytest.mark.parametrize("length", [8, 50, 500])
def test_one_class_is_within_one_percent_of_the_entropy(length):
    positions = random_positions("laplace", 60_000, length, 60_000, 0)
    assert 8 * len(encode_positions(positions, length, 60_000)) <= 1.01 * entropy(positions)


def test_blocks_of_different_scales_take_fewer_bits_than_their_common_entropy():
    positions = random_positions("laplace", 60_000, 40, 100, 0)
    rows, columns = positions.reshape(-1, 100), positions.reshape(-1, 100).T.contiguous()
    for given_positions, row in ((rows, 100), (columns, 600)):  # classes of output channels, then of input channels
        stream = encode_positions(given_positions.reshape(-1), 40, row)
        assert 8 * len(stream) < 0.98 * entropy(positions)
        assert torch.equal(decode_positions(stream, 60_000, 40, row), given_positions.reshape(-1))


@pytest.mark.parametrize(("kind", "division"), [("waves", 0), ("waves down", 1)])
def test_neighbors_tell_the_scale_of_a_column(kind, division):
    """All rows have nearly the same distribution, and so do all columns: classes of channels save next to nothing."""
    positions = random_positions(kind, 40_000, 41, 200, 0)
    stream = encode_positions(positions, 41, 200, 0, Basis.RAMP)
    assert stream[0] == 128 and stream[5] // 8 == division
    assert 8 * len(stream) < 0.98 * entropy(positions)
    assert 8 * len(encode_positions(positions, 41, 200)) > 0.99 * entropy(positions)
    assert torch.equal(decode_positions(stream, 40_000, 41, 200, Basis.RAMP), positions)


def test_streams_with_classes_by_neighbors_are_checked():
    positions = random_positions("waves", 4000, 41, 200, 0)
    stream = encode_positions(positions, 41, 200, 0, Basis.RAMP)
    for byte, value in ((5, 0), (5, 16), (5, 255), (0, 128 + 9)):
        damaged = stream.clone()
        damaged[byte] = value
        with pytest.raises(TenreoError, match="an unknown kind of code, 1"):
            decode_positions(damaged, 4000, 41, 200, Basis.RAMP)
    for data, row, basis in ((stream, 200, Basis.COSINE), (stream[:5], 200, Basis.RAMP)):
        with pytest.raises(TenreoError, match="an unknown kind of code, 128"):
            decode_positions(data, 4000, 41, row, basis)
    above = encode_positions(random_positions("waves down", 40_000, 41, 200, 0), 41, 200, 0, Basis.RAMP)
    with pytest.raises(TenreoError, match="an unknown kind of code, 128"):  # no other column is in the row above
        decode_positions(above, 40_000, 41, 1, Basis.RAMP)


def test_a_permutation_takes_about_log2_of_n_factorial_bits():
    stream = encode_positions(random_positions("permutation", 4096, 4096, 64, 0), 4096, 64)
    assert 8 * len(stream) == pytest.approx(math.lgamma(4097) / math.log(2), abs=500)
    assert len(stream) < 0.9 * packed_size(4096, 12)


def test_a_trellis_saves_one_bit_per_position():
    positions = random_positions("uniform", 20_000, 64, 100, 0, memory=3)
    assert len(encode_positions(positions, 64, 100, memory=3)) <= 5 + 0.86 * packed_size(20_000, 6)


def test_streams_of_earlier_versions_can_be_read():
    stream = torch.tensor(list(bytes.fromhex("0039dbc07b735b7c795298b8ae424ebd0e5da589")), dtype=torch.uint8)
    assert torch.equal(decode_positions(stream, 40, 12, 10), random_positions("laplace", 40, 12, 10, 3))


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 10**9), st.integers(1, 3), st.sampled_from([0, 3]), st.sampled_from(["flip", "cut", "longer"]), BASES
)
def test_a_damaged_stream_is_rejected_or_decoded_correctly(seed, count, memory, how, basis):
    random = np.random.default_rng(seed)
    kind = "waves down" if basis is Basis.RAMP else "laplace"
    positions = random_positions(kind, 2000, 30, 20, seed % 10, memory)
    data = encode_positions(positions, 30, 20, memory, basis).numpy().copy()
    if how == "flip":
        for _ in range(count):
            data[random.integers(len(data))] ^= 1 << random.integers(8)
    elif how == "cut":
        data = data[: random.integers(len(data))]
    else:
        data = np.concatenate([data, random.integers(0, 256, 8, dtype=np.uint8)])
    try:
        assert torch.equal(decode_positions(torch.from_numpy(data), 2000, 30, 20, basis), positions)
    except TenreoError as error:
        assert "positions: " in str(error)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200), st.integers(1, 300), st.integers(3, 40), st.integers(1, 40), BASES)
def test_arbitrary_bytes_give_positions_or_an_error(data, columns, length, row, basis):
    stream = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
    try:
        positions = decode_positions(stream, columns, length, row, basis)
    except TenreoError:
        return
    assert positions.shape == (columns,) and positions.min() >= 0 and positions.max() < length


@pytest.mark.parametrize(("columns", "length", "row"), [(499, 30, 20), (501, 30, 20), (500, 9, 20), (500, 30, 21)])
def test_rejects_other_numbers_of_columns_or_samples(columns, length, row):
    stream = encode_positions(random_positions("laplace", 500, 30, 20, 0), 30, 20)
    with pytest.raises(TenreoError, match="the file is damaged"):
        decode_positions(stream, columns, length, row)


@pytest.mark.parametrize("columns", [2**25, 2**40, 2**62])
def test_a_short_stream_cannot_cause_a_large_allocation(columns):
    stream = encode_positions(torch.zeros(100, dtype=torch.int32), 4, 10)
    with pytest.raises(TenreoError, match=f"a stream of positions has 5 bytes for {columns:,} positions"):
        decode_positions(torch.cat([stream[:5], torch.zeros(5, dtype=torch.uint8)]), columns, 4, 10)


def test_many_equal_positions_are_packed_so_that_they_can_be_read(monkeypatch):
    monkeypatch.setattr(range_coder, "_MOST_INTEGERS", 1000)
    positions = torch.zeros(100_000, dtype=torch.int32)
    stream = encode_positions(positions, 2, 1000)
    assert torch.equal(decode_positions(stream, 100_000, 2, 1000), positions)
    assert stream[0] == position_coding.KIND_PACKED and len(stream) == 5 + 100_000 // 8
