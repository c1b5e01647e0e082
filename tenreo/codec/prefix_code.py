"""Integers as a prefix code that is decoded in parallel, with array operations only.

A stream of an arithmetic coder is decoded one symbol after another. Here a code consists of up to four parts, each a
number of a few bits. A number that is below the limit of its part ends the code; all others are followed by the next
part. The stream contains the first parts of all integers, then all second parts, and so on. So one comparison tells
which numbers are followed by another one, and a cumulative sum where that is. Few operations decode a stream, from the
last part to the first, and it has 2 to 4 % more bits than the entropy. The lowest `raw` bits of the integers, which are
nearly uniformly distributed, may be stored as they are.

Numbers of any width are stored as fields of 1, 2, 4 or 8 bits, so that a byte has fields of one kind: its numbers are
looked up in a table with a row for every byte.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

_MOST_LEVELS = 3  # parts beyond the first
_MOST_PART = 8  # bits of a part: programs decode it in bytes
_LEVEL_BITS = 0.1  # what a limit costs in time to load, in bits per number that is compared with it
_LEVEL_BYTES = 24  # what it costs in the graph
_SYMBOL_BITS = 32  # of an entry of the table of symbols
_CHOICES = 8  # limits that are tried for a part
_MOST_SYMBOLS = 4096  # different integers, without their raw bits; with more, the table is too large
_MOST_RAW = 12
FIELDS = (8, 4, 2, 1)  # widths of fields
NUMBERS = 8  # numbers fill whole bytes of fields of each width if their count is a multiple


@dataclass(frozen=True)
class PrefixCode:
    """Coded integers.

    Attributes:
        widths: bits of each part.
        limits: for every part but the last, the limit below which its numbers end the code.
        parts: for every part, the numbers of the integers whose codes have it.
        symbols: the integers minus the offset, without their raw bits, in the order of their codes; empty if the code
            of a symbol is the symbol, as in integers of fixed width. Codes that do not occur have a zero.
        raw: lowest bits of every integer that are stored as they are.
        below: these bits as numbers; empty if there are none.
        offset: the smallest integer, rounded down to a multiple of 2^raw.
    """

    widths: tuple[int, ...]
    limits: tuple[int, ...]
    parts: tuple[Integers, ...]
    symbols: Integers
    raw: int
    below: Integers
    offset: int

    @property
    def levels(self) -> int:
        """Number of parts after the first."""
        return len(self.limits)

    @property
    def bytes(self) -> int:
        """Size of the numbers and the table of symbols in bytes."""
        stored = [*zip(self.widths, self.parts, strict=True), (self.raw, self.below)]
        return sum(width * -(-len(part) // NUMBERS) for width, part in stored) + _SYMBOL_BITS // 8 * len(self.symbols)

    @property
    def cost(self) -> float:
        """Size in bytes, and what decoding costs in time, as bytes."""
        return self.bytes + sum(_level_bits(len(part)) for part in self.parts[:-1]) / 8

    @property
    def scales(self) -> tuple[int, ...]:
        """What the number of each part counts in the rank of a code, which is the sum of its parts."""
        scales = [1]
        for width, limit in zip(self.widths, self.limits, strict=False):
            scales.append(scales[-1] * ((1 << width) - limit))
        return tuple(scales)

    def decode(self) -> Integers:
        """Return the integers, (count,)."""
        ranks = self.parts[-1] * self.scales[-1]
        for limit, scale, numbers in list(zip(self.limits, self.scales, self.parts, strict=False))[::-1]:
            own = numbers * scale
            own[numbers >= limit] += ranks
            ranks = own
        values = self.symbols[ranks] if len(self.symbols) else ranks
        return (values << self.raw | (self.below if self.raw else 0)) + self.offset


def _level_bits(count: int) -> float:
    return 8 * _LEVEL_BYTES + _LEVEL_BITS * count


def encode_integers(integers: Integers, prefix: bool = True) -> PrefixCode:
    """Return the shortest code of integers: a prefix code, or numbers of fixed width.

    >>> code = encode_integers(np.array([0, 0, 1, 0, 0, 2, 0, -1] * 1000))
    >>> code.widths, [len(part) for part in code.parts], code.raw, code.bytes
    ((1, 1, 1), [8000, 3000, 2000], 0, 1641)

    Args:
        integers: (count,), at least one; they span less than 2^31.
        prefix: whether a prefix code is allowed.
    """
    best = fixed_width(integers)
    for raw in range(_MOST_RAW + 1 if prefix else 0):
        code = prefix_code(integers, raw)
        if code is None:
            continue
        if code.cost < best.cost:
            best = code
        elif best.levels:
            break  # more raw bits do not help either
    return best


def fixed_width(integers: Integers) -> PrefixCode:
    """Return integers as numbers with the width of the difference of the largest and the smallest one."""
    offset = int(integers.min())
    width = max(1, int(integers.max() - offset).bit_length())
    empty = np.zeros(0, np.int64)
    return PrefixCode((width,), (), (integers - offset,), empty, 0, empty, offset)


def prefix_code(integers: Integers, raw: int) -> PrefixCode | None:
    """Return the best prefix code of integers without their lowest `raw` bits; None if none has few symbols."""
    offset = int(integers.min()) >> raw << raw  # so that the raw bits are those of the integers themselves
    integers = integers - offset
    symbols, ranks, frequencies = np.unique(integers >> raw, return_inverse=True, return_counts=True)
    if not 2 <= len(symbols) <= _MOST_SYMBOLS:
        return None
    widths, limits = best_parts(np.sort(frequencies)[::-1])
    codes = code_parts(widths, limits)
    # The most frequent symbols get the shortest codes.
    shortest = np.argsort((codes >= 0) @ np.array(widths), kind="stable")[: len(symbols)]
    rank_of = np.empty(len(symbols), np.int64)
    rank_of[np.argsort(-frequencies, kind="stable")] = shortest
    table = np.zeros(len(codes), np.int64)
    table[rank_of] = symbols
    own = codes[rank_of[ranks.reshape(-1)]]
    parts = tuple(part[part >= 0] for part in own.T)
    below = integers & ((1 << raw) - 1) if raw else np.zeros(0, np.int64)
    return PrefixCode(widths, limits, parts, table, raw, below, offset)


def best_parts(frequencies: Integers) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the widths and the limits of the parts of a prefix code that lead to the lowest cost.

    >>> best_parts(np.array([80000, 40000, 20000, 5000, 5000]))
    ((1, 1, 1, 1), (1, 1, 1))

    Args:
        frequencies: how often each symbol occurs, the most frequent one first; at least two.
    """
    remaining = np.append(np.cumsum(frequencies[::-1])[::-1], 0).tolist()  # integers from each symbol on
    information = np.append(np.cumsum((frequencies * np.log2(frequencies))[::-1])[::-1], 0)
    # No code of these integers has fewer bits.
    entropy = (np.array(remaining) * np.log2(np.maximum(remaining, 1)) - information).tolist()
    symbols = len(frequencies)
    best: tuple[float, tuple[int, ...], tuple[int, ...]] = (math.inf, (), ())

    def extend(cost: float, widths: tuple[int, ...], limits: tuple[int, ...], done: int, longer: int) -> None:
        """Try all next parts, where `done` symbols have codes, and the others are divided among `longer` beginnings."""
        nonlocal best
        for width in range(1, _MOST_PART + 1):
            total = cost + remaining[done] * width
            if total >= best[0]:
                return
            if longer << width >= symbols - done:
                unused = done + (longer << width) - symbols  # codes
                best = min(best, (total + _SYMBOL_BITS * unused, (*widths, width), limits))
                return
            total += _level_bits(remaining[done])
            for continued in _choices((1 << width) - 1) if len(limits) < _MOST_LEVELS else ():
                limit = (1 << width) - continued
                end = done + longer * limit
                beginnings = longer * continued
                least = max(remaining[end], entropy[end] - remaining[end] * math.log2(beginnings))
                if total + least < best[0]:
                    extend(total, (*widths, width), (*limits, limit), end, beginnings)

    extend(0.0, (), (), 0, 1)
    return best[1:]


@cache
def _choices(most: int) -> list[int]:
    """Return some of the numbers from 1 to `most`, the smallest one first."""
    return sorted({round(most ** (i / (_CHOICES - 1))) for i in range(_CHOICES)})


def code_parts(widths: tuple[int, ...], limits: tuple[int, ...]) -> Integers:
    """Return the parts of all codes by rank, (codes, parts); a part that a code does not have is -1."""
    numbers = np.arange(1 << widths[0])[:, None]
    if not limits:
        return numbers
    complete, begun = numbers[: limits[0]], numbers[limits[0] :]
    further = code_parts(widths[1:], limits[1:])
    ended = np.hstack([complete, np.full((len(complete), further.shape[1]), -1)])
    continued = np.hstack([np.tile(begun, (len(further), 1)), np.repeat(further, len(begun), 0)])
    return np.concatenate([ended, continued])


def field_widths(width: int) -> list[int]:
    """Return the widths of the fields of a number, the highest bits first.

    >>> field_widths(3), field_widths(22)
    ([2, 1], [8, 8, 4, 2])
    """
    widths: list[int] = []
    while sum(widths) < width:
        widths.append(next(each for each in FIELDS if each <= width - sum(widths)))
    return widths


def pack(numbers: Integers, width: int) -> list[Bytes]:
    """Return the bytes of each field of numbers in [0, 2^width), the first number in the highest bits of a byte.

    Numbers of 0 are added at the end, so that each field has whole bytes.

    >>> [each.tolist() for each in pack(np.array([7, 0, 0, 1]), 3)]
    [[192, 0], [144]]
    """
    numbers = np.append(numbers, np.zeros(-len(numbers) % NUMBERS, np.int64))
    packed, remaining = [], width
    for field in field_widths(width):
        remaining -= field
        bits = numbers[:, None] >> (remaining + np.arange(field)[::-1]) & 1
        packed.append(np.packbits(bits.astype(np.uint8)))
    return packed
