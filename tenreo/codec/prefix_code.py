"""Integers as a prefix code that is decoded in parallel, with array operations only.

A stream of an arithmetic coder is decoded one symbol after another. Here the bits of all codes are stored by depth
instead: first the leading `width` bits of every code, then the next bit of the codes that are longer, and so on. An
integer is complete as soon as its code is, so at every depth all remaining codes are compared with one number, as in
any canonical Huffman code. The lowest `raw` bits of the integers, which are nearly uniformly distributed, may be stored
as they are.

    bits     width * count bits: bit planes, the highest first, with one bit of every integer
             remaining codes: one bit each, for every further depth
             raw * count bits: bit planes of the lowest bits, the highest first
    bytes    bit i of N bytes is bit i / N of byte i % N, which a program decodes by shifting the whole array
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Bits = NDArray[np.uint8]

_MOST_LEVELS = 9  # depths beyond the first; longer codes are so rare that they do not matter
_MOST_SYMBOLS = 4096  # different integers, without their raw bits; with more, the table is too large
_MOST_RAW = 12
_LEVEL_BYTES = 24  # a level that saves less is not worth its operations
MOST_WIDTH = 24  # bits of an integer: programs decode in float32


@dataclass(frozen=True)
class PrefixCode:
    """Coded integers.

    Attributes:
        count: number of integers.
        width: bits of the shortest codes.
        counts: for every depth from `width`, the number of symbols whose codes end there.
        sizes: for every depth after the first, the number of integers whose codes have a bit there.
        symbols: the integers minus the offset, without their raw bits, in the order of their codes; empty if the code
            of a symbol is the symbol, as in bit planes of fixed width.
        raw: lowest bits of every integer that are stored as they are.
        offset: the smallest integer, rounded down to a multiple of 2^raw.
        bits: (bits,) of 0 and 1.
    """

    count: int
    width: int
    counts: tuple[int, ...]
    sizes: tuple[int, ...]
    symbols: Integers
    raw: int
    offset: int
    bits: Bits

    @property
    def levels(self) -> int:
        """Number of depths after the first."""
        return len(self.sizes)

    @property
    def bytes(self) -> int:
        """Size of the bits and the table of symbols in bytes."""
        return packed_bytes(len(self.bits)) + 4 * len(self.symbols)

    def decode(self) -> Integers:
        """Return the integers, (count,)."""
        bits = Reader(self.bits)
        ranks = bits.numbers(self.width, self.count)
        ranks = _decode_levels(ranks, bits, self.counts, self.sizes, 0)
        values = self.symbols[ranks] if len(self.symbols) else ranks
        return (values << self.raw | bits.numbers(self.raw, self.count)) + self.offset


class Reader:
    """Reads numbers from bits in order."""

    def __init__(self, bits: Bits) -> None:
        self._bits, self._next = bits.astype(np.int64), 0

    def numbers(self, width: int, count: int) -> Integers:
        """Return (count,) numbers from bit planes of `width` bits."""
        planes: Integers = self._bits[self._next : self._next + width * count].reshape(width, count)
        self._next += width * count
        numbers: Integers = (planes << np.arange(width)[::-1, None]).sum(0)
        return numbers


def _decode_levels(
    prefixes: Integers, bits: Reader, counts: tuple[int, ...], sizes: tuple[int, ...], below: int
) -> Integers:
    if not sizes:
        return prefixes + below
    longer = prefixes >= counts[0]
    ranks = prefixes + below
    rest = 2 * (prefixes[longer] - counts[0]) + bits.numbers(1, sizes[0])
    ranks[longer] = _decode_levels(rest, bits, counts[1:], sizes[1:], below + counts[0])
    return ranks


def encode_integers(integers: Integers, prefix: bool = True) -> PrefixCode:
    """Return the shortest code of integers: a prefix code, or bit planes of fixed width.

    >>> code = encode_integers(np.array([0, 0, 1, 0, 0, 2, 0, -1] * 1000))
    >>> code.width, code.sizes, code.raw, code.bytes
    (1, (3000, 2000), 0, 1642)

    Args:
        integers: (count,), at least one; they span less than 2^24.
        prefix: whether a prefix code is allowed.
    """
    best = fixed_width(integers)
    for raw in range(_MOST_RAW + 1 if prefix else 0):
        code = prefix_code(integers, raw)
        if code is None:
            continue
        if _cost(code) < _cost(best):
            best = code
        elif best.levels:
            break  # more raw bits do not help either
    return best


def _cost(code: PrefixCode) -> int:
    return code.bytes + _LEVEL_BYTES * code.levels


def fixed_width(integers: Integers) -> PrefixCode:
    """Return bit planes of integers, whose width is that of the difference of the largest and the smallest one."""
    offset = int(integers.min())
    width = max(1, int(integers.max() - offset).bit_length())
    empty = np.zeros(0, np.int64)
    return PrefixCode(len(integers), width, (1 << width,), (), empty, 0, offset, planes(integers - offset, width))


def prefix_code(integers: Integers, raw: int) -> PrefixCode | None:
    """Return the shortest prefix code of integers without their lowest `raw` bits; None if none has few symbols."""
    offset = int(integers.min()) >> raw << raw  # so that the raw bits are those of the integers themselves
    integers = integers - offset
    symbols, ranks, frequencies = np.unique(integers >> raw, return_inverse=True, return_counts=True)
    if not 2 <= len(symbols) <= _MOST_SYMBOLS:
        return None
    lengths = _code_lengths(frequencies)
    order = np.lexsort((np.arange(len(symbols)), lengths))
    place = np.empty(len(symbols), np.int64)
    place[order] = np.arange(len(symbols))
    width, longest = int(lengths.min()), int(lengths.max())
    counts = tuple(int((lengths == depth).sum()) for depth in range(width, longest + 1))
    codes, depth = canonical_codes(counts, width)
    ranks = place[ranks.reshape(-1)]
    own, depths = codes[ranks], depth[ranks]
    parts, sizes = [planes(own >> (depths - width), width)], []
    for further in range(width + 1, longest + 1):
        left = depths >= further
        parts.append((own[left] >> (depths[left] - further) & 1).astype(np.uint8))
        sizes.append(int(left.sum()))
    bits = np.concatenate([*parts, planes(integers & ((1 << raw) - 1), raw)])
    return PrefixCode(len(integers), width, counts, tuple(sizes), symbols[order], raw, offset, bits)


def canonical_codes(counts: tuple[int, ...], width: int) -> tuple[Integers, Integers]:
    """Return the codes, and their lengths, of a canonical code with `counts[i]` codes of width + i bits."""
    codes, lengths, first = [], [], 0
    for i, count in enumerate(counts):
        codes.append(np.arange(first, first + count))
        lengths.append(np.full(count, width + i))
        first = 2 * (first + count)
    return np.concatenate(codes), np.concatenate(lengths)


def _code_lengths(frequencies: Integers) -> Integers:
    """Return the lengths of the best prefix code with few different lengths (package-merge)."""
    least = max(1, math.ceil(math.log2(len(frequencies))))
    best, best_cost = np.zeros(0, np.int64), math.inf
    for longest in range(least, least + 2 * _MOST_LEVELS):
        lengths = limited_lengths(frequencies, longest)
        levels = int(lengths.max() - lengths.min())
        if levels > _MOST_LEVELS:
            break
        cost = float((lengths * frequencies).sum()) / 8 + _LEVEL_BYTES * levels
        if cost < best_cost:
            best, best_cost = lengths, cost
        elif int(lengths.max()) < longest:
            break  # the limit has no effect any more
    return best


def limited_lengths(frequencies: Integers, longest: int) -> Integers:
    """Return the code lengths, at most `longest`, with the fewest bits (L. Larmore, D. Hirschberg, 1990).

    >>> limited_lengths(np.array([8, 4, 2, 1, 1]), 3).tolist()
    [1, 3, 3, 3, 3]
    """
    symbols = np.argsort(frequencies, kind="stable")
    own = frequencies[symbols].astype(np.float64)
    weights, packages = own, []  # of every depth, whether each item of the sorted list is a package of two
    for _ in range(longest - 1):
        pairs = len(weights) // 2
        merged = np.concatenate([own, weights[: 2 * pairs].reshape(pairs, 2).sum(1)])
        order = np.argsort(merged, kind="stable")
        weights = merged[order]
        packages.append(order >= len(own))
    lengths, chosen = np.zeros(len(own), np.int64), 2 * len(own) - 2
    for is_package in [*reversed(packages), np.zeros(len(own), bool)]:
        inside = int(is_package[:chosen].sum())
        lengths[symbols[: min(chosen, len(is_package)) - inside]] += 1
        chosen = 2 * inside
    return lengths


def planes(numbers: Integers, width: int) -> Bits:
    """Return the bits of numbers in [0, 2^width) by planes, the highest first: (width * numbers,)."""
    return (numbers[None] >> np.arange(width)[::-1, None] & 1).astype(np.uint8).reshape(-1)


def packed_bytes(bits: int) -> int:
    """Return the number of bytes of packed bits; there is always an unused bit, so no remainder is empty."""
    return bits // 8 + 1


def pack_by_planes(bits: Bits) -> Bits:
    """Pack bits so that bit i of N bytes is bit i / N of byte i % N."""
    size = packed_bytes(len(bits))
    padded = np.zeros(8 * size, np.uint8)
    padded[: len(bits)] = bits
    packed: Bits = (padded.reshape(8, size) << np.arange(8, dtype=np.uint8)[:, None]).sum(0).astype(np.uint8)
    return packed
