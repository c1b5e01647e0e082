"""Bit packing of small integers: the storage of positions and integer coefficients in a file. Does not import torch.

Number i occupies the bits [i * width, (i + 1) * width) of the stream, lowest bit first. Bit k of the stream is bit
k % 8 of byte k // 8, as in `numpy.packbits` with bit order "little".
"""

from typing import Any

import numpy as np

from tenreo.codec.jit import compiled
from tenreo.sizes import packed_size


def pack_integers(numbers: Any, width: int) -> Any:
    """Pack integers.

    Args:
        numbers: (count,) integers in [0, 2^width).
        width: bits per integer, 1 to 32.

    Returns:
        (packed_size(count, width),) uint8.
    """
    packed = np.zeros(packed_size(len(numbers), width), np.uint8)
    _pack(numbers.astype(np.uint32), np.uint64(width), packed)
    return packed


def unpack_integers(packed: Any, width: int, count: int) -> Any:
    """Unpack the result of `pack_integers`.

    Args:
        packed: (packed_size(count, width),) uint8.
        width: bits per integer, 1 to 32.
        count: number of integers.

    Returns:
        (count,) int64.
    """
    numbers = np.empty(count, np.int64)
    _unpack(packed, np.uint64(width), numbers)
    return numbers


@compiled
def _pack(numbers, width, packed):
    pending = np.uint64(0)  # bits that are not yet written; fewer than 8 after each number
    bits = np.uint64(0)
    byte = 0
    for number in numbers:
        pending |= np.uint64(number) << bits
        bits += width
        while bits >= 8:
            packed[byte] = pending & np.uint64(255)
            byte += 1
            pending >>= np.uint64(8)
            bits -= np.uint64(8)
    if bits > 0:
        packed[byte] = pending


@compiled
def _unpack(packed, width, numbers):
    mask = (np.uint64(1) << width) - np.uint64(1)
    pending = np.uint64(0)
    bits = np.uint64(0)
    byte = 0
    for i in range(len(numbers)):
        while bits < width:
            pending |= np.uint64(packed[byte]) << bits
            byte += 1
            bits += np.uint64(8)
        numbers[i] = pending & mask
        pending >>= width
        bits -= width
