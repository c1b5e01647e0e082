"""Arithmetic coding of symbols whose counts are known: each symbol costs what is left of it among what is left.

A coder holds an interval of integers. Coding a symbol of count `count`, with `below` symbols before it in the alphabet
and `total` in all, shrinks the interval to that part; bytes that both ends share leave it. Everything is exact integer
arithmetic in 57 bits, so every machine writes the same bytes.

A table of counts is used up: a symbol that was coded is taken off its count. So a table costs no more than the choice
of one among all sequences with these counts, log2(n! / (c_1! c_2! ...)) bits, which a permutation and a long
alphabet profit from. Counts lie in trees: node i has the count of its left child's leaves, children are 2i and 2i + 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tenreo.codec.jit import compiled

_TOP = 1 << 56  # the interval is below it
_BOTTOM = 1 << 48  # and at least so long, whenever a symbol comes
_LENGTHS = 32  # bits of a count at most, and one more symbol for 0
_INCREMENT = 24  # what a length that was seen counts in its table; lengths near the last one start with up to 32


class Tables(NamedTuple):
    """Counts that are used up, as arrays that compiled code takes.

    Attributes:
        left: (tables, leaves) int64, of every inner node; the first of a row is the total.
        counts: (tables, symbols) int64.
    """

    left: Any
    counts: Any


def tables(counts: Any) -> Tables:
    """Trees over counts (tables, symbols), which must not be negative."""
    number, symbols = counts.shape
    leaves = 1 << (symbols - 1).bit_length()
    left = np.zeros((number, leaves), np.int64)
    level = np.zeros((number, leaves), np.int64)
    level[:, :symbols] = counts
    while level.shape[1] > 1:
        half = level.shape[1] // 2
        left[:, half : 2 * half] = level[:, ::2]
        level = level[:, ::2] + level[:, 1::2]
    left[:, 0] = level[:, 0]
    return Tables(left, counts.copy())


class Coder(NamedTuple):
    """An interval and the bytes that it left behind, or those that are still to be read.

    Attributes:
        state: (3,) int64: the interval's lower end (or, when decoding, how far the stream is above it), its length,
            and the number of bytes written or read.
        data: (bytes,) uint8.
    """

    state: Any
    data: Any


def encoder(capacity: int) -> Coder:
    """A coder that writes at most `capacity` bytes."""
    return Coder(np.array([0, _TOP - 1, 0], np.int64), np.zeros(capacity, np.uint8))


def decoder(data: Any) -> Coder:
    """A coder that reads (bytes,) uint8; past their end it reads zeros."""
    first = int.from_bytes(data[:7].tobytes().ljust(7, b"\0"), "big")
    return Coder(np.array([first, _TOP - 1, 7], np.int64), data)


def finished(coder: Coder) -> Any:
    """The bytes of an encoder: the fewest that name a number inside its interval, when zeros follow."""
    low, length, size = (int(x) for x in coder.state)
    kept = next(n for n in range(8) if (last := -(-low >> 56 - 8 * n) << 56 - 8 * n) < low + length)
    _emit_carry(coder.data, size, last >= _TOP)
    coder.data[size : size + kept] = np.frombuffer((last % _TOP).to_bytes(7, "big")[:kept], np.uint8)
    return coder.data[: size + kept]


@compiled
def _emit_carry(data, size, carry):
    """Add a carry to the number that the bytes written so far are."""
    while carry:
        size -= 1
        data[size] = (data[size] + 1) & 255
        carry = data[size] == 0


@compiled
def _shrink(state, data, below, count, total):
    """Encode one symbol."""
    unit = state[1] // total
    low = state[0] + below * unit
    length = count * unit
    if low >= _TOP:
        low -= _TOP
        _emit_carry(data, state[2], True)
    while length < _BOTTOM:
        data[state[2]] = low >> 48
        state[2] += 1
        low = (low << 8) & (_TOP - 1)
        length <<= 8
    state[0] = low
    state[1] = length


@compiled
def _target(state, total):
    """The number in [0, total) that the next symbol's share of the interval contains, or `total` if damaged."""
    return min(state[0] // (state[1] // total), total)


@compiled
def _advance(state, data, below, count, total):
    """Go past one symbol that was decoded."""
    unit = state[1] // total
    offset = state[0] - below * unit
    length = count * unit
    while length < _BOTTOM:
        offset <<= 8
        if state[2] < len(data):
            offset |= data[state[2]]
        state[2] += 1
        length <<= 8
    state[0] = offset
    state[1] = length


@compiled
def _length_tables():
    """(previous length, length) counts that lengths of counts start with: the nearer, the likelier."""
    start = np.empty((_LENGTHS, _LENGTHS), np.int64)
    for previous in range(_LENGTHS):
        for length in range(_LENGTHS):
            start[previous, length] = 1 + (32 >> min(5, abs(previous - length)))
    return start


@compiled
def encode_counts(counts, state, data):
    """Encode counts (tables, symbols) below 2^31: the bits of each, learned from its neighbor, and then its value."""
    seen = _length_tables()
    for row in counts:
        previous = 0
        for count in row:
            length = 0
            while count >> length:
                length += 1
            _shrink(state, data, seen[previous, :length].sum(), seen[previous, length], seen[previous].sum())
            seen[previous, length] += _INCREMENT
            if length > 1:
                half = 1 << length - 1
                _shrink(state, data, count - half, 1, half)
            previous = length


@compiled
def decode_counts(counts, most, state, data):
    """Decode into counts (tables, symbols); returns whether their sum is `most`, and stops when it is above."""
    seen = _length_tables()
    left = most
    for row in counts:
        previous = 0
        for i in range(len(row)):
            total = seen[previous].sum()
            target = _target(state, total)
            length = 0
            below = 0
            while length < _LENGTHS and below + seen[previous, length] <= target:
                below += seen[previous, length]
                length += 1
            if length == _LENGTHS:
                return False
            _advance(state, data, below, seen[previous, length], total)
            seen[previous, length] += _INCREMENT
            row[i] = length
            if length > 1:
                half = 1 << length - 1
                value = _target(state, half)
                if value == half:
                    return False
                _advance(state, data, value, 1, half)
                row[i] = half + value
            left -= row[i]
            if left < 0:
                return False
            previous = length
    return left == 0


@compiled
def encode_symbols(symbols, contexts, following, left, counts, state, data):
    """Encode symbols, each by the table of its context and of a state machine.

    Args:
        symbols: (n,) integers; those of a machine with several states are 2 * symbol + lowest bit of the state.
        contexts: (n,) integers.
        following: (states, 2): the state after a symbol, by the symbol's lowest bit. One state: no machine.
        left: of `Tables`, (contexts, or 2 * contexts, leaves).
        counts: of `Tables`.
        state: of the coder.
        data: of the coder.
    """
    machine = 1 if len(following) > 1 else 0
    leaves = left.shape[1]
    now = 0
    for i in range(len(symbols)):
        table = contexts[i] << machine | now & machine
        symbol = symbols[i] >> machine
        node = 1
        below = 0
        bit = leaves >> 1
        while bit:
            if symbol & bit:
                below += left[table, node]
                node = 2 * node + 1
            else:
                left[table, node] -= 1
                node = 2 * node
            bit >>= 1
        _shrink(state, data, below, counts[table, symbol], left[table, 0])
        left[table, 0] -= 1
        counts[table, symbol] -= 1
        now = following[now, symbol & 1]


@compiled
def decode_symbols(symbols, contexts, following, left, counts, state, data):
    """Decode what `encode_symbols` encoded into `symbols`; returns whether nothing was wrong."""
    machine = 1 if len(following) > 1 else 0
    leaves = left.shape[1]
    now = 0
    for i in range(len(symbols)):
        table = contexts[i] << machine | now & machine
        total = left[table, 0]
        if total <= 0:
            return False
        target = _target(state, total)
        if target == total:
            return False
        node = 1
        below = 0
        while node < leaves:
            count = left[table, node]
            if target < below + count:
                left[table, node] = count - 1
                node = 2 * node
            else:
                below += count
                node = 2 * node + 1
        symbol = node - leaves
        _advance(state, data, below, counts[table, symbol], total)
        left[table, 0] = total - 1
        counts[table, symbol] -= 1
        symbols[i] = symbol << machine | now & machine
        now = following[now, symbol & 1]
    return True
