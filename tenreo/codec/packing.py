"""Bit packing of small integers: the storage of positions and integer coefficients in a file.

Number i occupies the bits [i * width, (i + 1) * width) of the stream, lowest bit first. Bit k of the stream is bit
k % 8 of byte k // 8, as in `numpy.packbits` with bit order "little".
"""

import numpy as np
import torch
from torch import Tensor

from tenreo.codec.jit import compiled
from tenreo.sizes import packed_size


def pack(numbers: Tensor, width: int) -> Tensor:
    """Pack integers.

    Args:
        numbers: (count,) integers in [0, 2^width), on the CPU.
        width: bits per integer, 1 to 32.

    Returns:
        (packed_size(count, width),) uint8.
    """
    packed = np.zeros(packed_size(len(numbers), width), np.uint8)
    _pack(numbers.numpy().astype(np.uint32), np.uint64(width), packed)
    return torch.from_numpy(packed)


def unpack(packed: Tensor, width: int, count: int) -> Tensor:
    """Unpack the result of `pack`.

    Args:
        packed: (packed_size(count, width),) uint8, on the CPU.
        width: bits per integer, 1 to 32.
        count: number of integers.

    Returns:
        (count,) int64.
    """
    numbers = np.empty(count, np.int64)
    _unpack(packed.numpy(), np.uint64(width), numbers)
    return torch.from_numpy(numbers)


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
