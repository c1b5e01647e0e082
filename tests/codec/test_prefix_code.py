"""Integers as prefix codes in parts, against Huffman's algorithm and a decoder of single bits."""

import heapq
import itertools

import numpy as np
import pytest

from tenreo.codec.prefix_code import best_parts, code_parts, encode_integers, field_widths, pack, prefix_code

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
    stored = [each for width, part in zip(code.widths, code.parts, strict=True) for each in pack(part, width)]
    stored += pack(code.below, code.raw)
    assert code.bytes == sum(len(each) for each in stored) + 4 * len(code.symbols)


@pytest.mark.parametrize("width", [1, 3, 7, 8, 13, 24])
def test_fields_of_bytes_are_the_bits_of_numbers(width):
    numbers = DRAW.integers(0, 1 << width, 21)
    bits = [np.unpackbits(each).reshape(24, -1) for each in pack(numbers, width)]
    assert [part.shape[1] for part in bits] == field_widths(width) and sum(field_widths(width)) == width
    assert ["".join(map(str, row)) for row in np.hstack(bits)] == [f"{n:0{width}b}" for n in [*numbers, 0, 0, 0]]


def test_each_integer_is_decoded_bit_by_bit():
    integers = CASES["peaked"]
    code = prefix_code(integers, raw=0)
    parts = [[f"{n:0{width}b}" for n in part] for width, part in zip(code.widths, code.parts, strict=True)]
    texts = dict(zip(("".join(codes(code)[i]) for i in range(len(code.symbols))), code.symbols, strict=True))
    used = [0] * len(parts)
    for integer in integers[:500]:
        text = ""
        for i, numbers in enumerate(parts):
            number = numbers[used[i]]
            used[i], text = used[i] + 1, text + number
            if i == len(code.limits) or int(number, 2) < code.limits[i]:
                break
        assert texts[text] + code.offset == integer


def codes(code):
    """Return the parts of each code as binary texts."""
    table = code_parts(code.widths, code.limits)
    return [[f"{n:0{w}b}" for n, w in zip(row, code.widths, strict=True) if n >= 0] for row in table.tolist()]


def huffman_bits(frequencies):
    """Return the bits of Huffman's code for symbols with given frequencies."""
    heap, total = [int(x) for x in frequencies], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


def test_the_bits_are_few_more_than_those_of_huffman():
    for frequencies in (np.array([8, 4, 2, 1, 1]), DRAW.integers(1, 1000, 37), np.arange(1, 90)):
        integers = np.repeat(np.arange(len(frequencies)), frequencies)
        code = prefix_code(integers, raw=0)
        bits = sum(width * len(part) for width, part in zip(code.widths, code.parts, strict=True))
        assert huffman_bits(frequencies) <= bits < 1.08 * huffman_bits(frequencies) + 16


def test_parts_of_a_small_code_are_the_best_ones():
    frequencies = np.array([4000, 2000, 900, 300, 100, 100])

    def cost(widths, limits):
        codes = code_parts(widths, limits)
        lengths = np.sort((codes >= 0) @ np.array(widths))
        if len(lengths) < len(frequencies):
            return np.inf
        sizes = [frequencies.sum()]
        for i in range(len(limits)):
            sizes.append(frequencies[lengths[: len(frequencies)] > sum(widths[: i + 1])].sum())
        levels = sum(192 + 0.1 * size for size in sizes[:-1])
        return (lengths[: len(frequencies)] * frequencies).sum() + levels + 32 * (len(codes) - len(frequencies))

    possible = [
        (widths, limits)
        for parts in range(1, 5)
        for widths in itertools.product((1, 2, 3), repeat=parts)
        for limits in itertools.product(*(range(1, 1 << width) for width in widths[:-1]))
    ]
    assert cost(*best_parts(frequencies)) == min(cost(*each) for each in possible)


def test_the_codes_are_prefix_free():
    parts = code_parts((2, 1, 2), (3, 1)).tolist()
    texts = ["".join(f"{n:0{w}b}" for n, w in zip(row, (2, 1, 2), strict=True) if n >= 0) for row in parts]
    assert texts == ["00", "01", "10", "110", "11100", "11101", "11110", "11111"]


def test_the_size_is_near_the_entropy():
    integers = np.round(DRAW.laplace(size=100_000) * 3).astype(np.int64)
    counts = np.unique(integers, return_counts=True)[1]
    entropy = -(counts * np.log2(counts / counts.sum())).sum() / 8
    assert entropy < encode_integers(integers).bytes < 1.04 * entropy + 400
    assert prefix_code(integers, raw=1).bytes < 1.05 * entropy + 400
