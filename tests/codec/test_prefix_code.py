"""Integers as prefix codes by depth, against Huffman's algorithm and a decoder of single bits."""

import heapq
import itertools

import numpy as np
import pytest

from tenreo.codec.prefix_code import canonical_codes, encode_integers, limited_lengths, pack_by_planes, prefix_code

DRAW = np.random.default_rng(0)
CASES = {
    "peaked": np.round(DRAW.laplace(size=5000)).astype(np.int64),
    "wide": np.round(DRAW.normal(size=3000) * 900).astype(np.int64),
    "outliers": np.round(DRAW.standard_t(1.1, size=4000) * 3).clip(-(1 << 22), 1 << 22).astype(np.int64),
    "few": np.array([7, 7, 7, -2]),
    "one": np.array([5]),
    "equal": np.full(100, -3),
    "uniform": DRAW.integers(0, 256, 1000),
}


@pytest.mark.parametrize("name", CASES)
def test_decoding_returns_the_integers(name):
    code = encode_integers(CASES[name])
    assert np.array_equal(code.decode(), CASES[name])
    packed = pack_by_planes(code.bits)
    assert len(packed) * 8 > len(code.bits)
    unpacked = (packed[None] >> np.arange(8)[:, None] & 1).reshape(-1)
    assert np.array_equal(unpacked[: len(code.bits)], code.bits)


def huffman_bits(frequencies):
    """Return the bits of Huffman's code for symbols with given frequencies."""
    heap, total = [int(x) for x in frequencies], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


def test_lengths_without_a_limit_are_those_of_huffman():
    for frequencies in (np.array([8, 4, 2, 1, 1]), DRAW.integers(1, 1000, 37), np.arange(1, 90)):
        lengths = limited_lengths(frequencies, 20)
        assert (lengths * frequencies).sum() == huffman_bits(frequencies)
        assert (0.5**lengths).sum() == 1


def test_limited_lengths_are_the_best_ones():
    frequencies = np.array([50, 20, 9, 3, 1, 1])
    possible = (x for x in itertools.product((1, 2, 3), repeat=6) if sum(0.5**i for i in x) <= 1)
    assert (limited_lengths(frequencies, 3) * frequencies).sum() == min(
        (np.array(x) * frequencies).sum() for x in possible
    )


def test_the_codes_are_prefix_free():
    codes, lengths = canonical_codes((1, 1, 0, 4), 1)
    texts = [f"{code:0{length}b}" for code, length in zip(codes, lengths, strict=True)]
    assert texts == ["0", "10", "1100", "1101", "1110", "1111"]


def test_the_size_is_near_the_entropy():
    integers = np.round(DRAW.laplace(size=100_000) * 3).astype(np.int64)
    counts = np.unique(integers, return_counts=True)[1]
    entropy = -(counts * np.log2(counts / counts.sum())).sum() / 8
    assert entropy < encode_integers(integers).bytes < 1.015 * entropy + 400
    assert len(prefix_code(integers, raw=1).bits) < 1.02 * 8 * entropy
