"""Adaptive arithmetic coding without replacement: a probability is a remaining count over the remaining total.

A coder has an interval of integers. To code a symbol with count `count` out of `total`, where the symbols before it in
the alphabet have the sum of counts `below`, the interval shrinks to the symbol's part of it; leading bytes that no
longer change are written. Everything is exact integer arithmetic in 57 bits, so every machine writes the same bytes.

Each coded symbol is subtracted from its count. So the symbols cost log2(n! / (c_1! c_2! ...)) bits, the choice of one
sequence among all with these counts, which is less than their entropy for permutations and large alphabets. The counts
are stored in trees: node i has the sum of the counts below its left child, and its children are 2i and 2i + 1.
"""

from typing import Any, NamedTuple

import numpy as np

from tenreo.codec.column_classes import neighbor_block
from tenreo.codec.jit import compiled

_TOP = 1 << 56  # upper bound of the interval
_BOTTOM = 1 << 48  # minimum length of the interval before each symbol
_LENGTHS = 32  # number of bit lengths of a count: 0 to 31
_INCREMENT = 24  # added to the frequency of a bit length that occurs
# Initial frequencies of bit lengths by the previous length, 2 to 33: similar lengths are more frequent.
_FREQUENCIES = 1 + (32 >> np.abs(np.subtract.outer(np.arange(_LENGTHS), np.arange(_LENGTHS))).clip(max=5))


# Integers that a short stream may have, and those per byte that any other stream may have, so that a small file cannot
# cause a large allocation.
_MOST_INTEGERS, _MOST_PER_BYTE = 1 << 24, 4096


def plausible(integers: int, size: int) -> bool:
    """Return whether a code of `size` bytes may have this many integers."""
    return integers <= max(_MOST_INTEGERS, _MOST_PER_BYTE * size)


class CountTrees(NamedTuple):
    """Remaining counts of several tables, as arrays for compiled code."""

    left: Any  # (tables, leaves) int64, sum below the left child of each inner node; column 0 has the totals
    counts: Any  # (tables, symbols) int64


def count_trees(counts: Any) -> CountTrees:
    """Return the trees of counts (tables, symbols) that are not negative."""
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
    return CountTrees(left, counts.copy())


class Coder(NamedTuple):
    """The state of an encoder or decoder."""

    # (3,) int64: the lower end of the interval (in a decoder, the distance of the stream from it), the length of the
    # interval, and the number of bytes written or read
    state: Any
    data: Any  # (bytes,) uint8


def encoder(capacity: int) -> Coder:
    """Return an encoder that can write up to `capacity` bytes."""
    return Coder(np.array([0, _TOP - 1, 0], np.int64), np.zeros(capacity, np.uint8))


def decoder(data: Any) -> Coder:
    """Return a decoder of (bytes,) uint8; after the end it reads zeros."""
    first = int.from_bytes(data[:7].tobytes().ljust(7, b"\0"), "big")
    return Coder(np.array([first, _TOP - 1, 7], np.int64), data)


def finish(coder: Coder) -> Any:
    """Return the bytes of an encoder, ended by the fewest bytes that, followed by zeros, are inside the interval."""
    low, length, size = (int(x) for x in coder.state)
    kept = next(n for n in range(8) if (last := -(-low >> 56 - 8 * n) << 56 - 8 * n) < low + length)
    _emit_carry(coder.data, size, last >= _TOP)
    coder.data[size : size + kept] = np.frombuffer((last % _TOP).to_bytes(7, "big")[:kept], np.uint8)
    return coder.data[: size + kept]


@compiled
def _emit_carry(data, size, carry):
    """Add a carry to the number that the written bytes represent."""
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
    """Return the number in [0, total) that the part of the next symbol contains, or `total` for a damaged stream."""
    return min(state[0] // (state[1] // total), total)


@compiled
def _advance(state, data, below, count, total):
    """Advance over a decoded symbol."""
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
def encode_counts(counts, state, data):
    """Encode counts (tables, symbols) below 2^31: for each its bit length, by the previous one, and its value."""
    frequencies = _FREQUENCIES.copy()
    for row in counts:
        previous = 0
        for count in row:
            length = 0
            while count >> length:
                length += 1
            table = frequencies[previous]
            _shrink(state, data, table[:length].sum(), table[length], table.sum())
            table[length] += _INCREMENT
            if length > 1:
                half = 1 << length - 1
                _shrink(state, data, count - half, 1, half)
            previous = length


@compiled
def decode_counts(counts, most, state, data):
    """Decode into `counts` (tables, symbols); return `most` minus their sum, or -1 if that is negative or damaged."""
    frequencies = _FREQUENCIES.copy()
    left = most
    for row in counts:
        previous = 0
        for i in range(len(row)):
            total = frequencies[previous].sum()
            target = _target(state, total)
            length, below = 0, 0
            while length < _LENGTHS and below + frequencies[previous, length] <= target:
                below += frequencies[previous, length]
                length += 1
            if length == _LENGTHS:
                return -1
            _advance(state, data, below, frequencies[previous, length], total)
            frequencies[previous, length] += _INCREMENT
            row[i] = length
            if length > 1:
                half = 1 << length - 1
                value = _target(state, half)
                if value == half:
                    return -1
                _advance(state, data, value, 1, half)
                row[i] = half + value
            left -= row[i]
            if left < 0:
                return -1
            previous = length
    return left


@compiled
def encode_symbols(positions, contexts, following, ranges, trees, state, data):
    """Encode positions, each with the table of its context and of the present state of a state machine.

    Args:
        positions: (n,) integers; with a state machine, 2 * index + lowest bit of the state, otherwise the index.
        contexts: (n,) integers.
        following: (states, 2) next state by the lowest bit of the index; a single state means no state machine.
        ranges: the smallest index of each symbol, the bits after the symbol, and the cell of each position, all by the
            `Alphabet`.
        trees: `CountTrees` for all contexts, or for 2 * contexts with a state machine, as a tuple.
        state, data: fields of the `Coder`.
    """
    (first, extra, cells), (left, counts) = ranges, trees
    machine = 1 if len(following) > 1 else 0
    leaves = left.shape[1]
    now = 0
    for i in range(len(positions)):
        table = contexts[i] << machine | now & machine
        symbol, index = cells[positions[i]] >> machine, positions[i] >> machine
        node, below = 1, 0
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
        if extra[symbol]:
            _shrink(state, data, index - first[symbol], 1, 1 << extra[symbol])
        left[table, 0] -= 1
        counts[table, symbol] -= 1
        now = following[now, index & 1]


@compiled
def decode_symbols(positions, contexts, neighbors, following, ranges, trees, state, data):
    """Decode the result of `encode_symbols` into `positions`; return whether the stream is valid.

    If the contexts depend on neighbors, `contexts` has one for each of their blocks instead of one for each position.
    """
    (first, extra), (left, counts) = ranges, trees
    machine = 1 if len(following) > 1 else 0
    leaves = left.shape[1]
    now = 0
    for i in range(len(positions)):
        context = contexts[neighbor_block(positions, i, neighbors)] if neighbors.blocks else contexts[i]
        table = context << machine | now & machine
        total = left[table, 0]
        if total <= 0:
            return False
        target = _target(state, total)
        if target == total:
            return False
        node, below = 1, 0
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
        index = first[symbol]
        if extra[symbol]:
            places = 1 << extra[symbol]
            place = _target(state, places)
            if place == places:
                return False
            _advance(state, data, place, 1, places)
            index += place
        positions[i] = index << machine | now & machine
        now = following[now, index & 1]
    return True
