"""Bit packing of tensors of small integers (`tenreo.codec.bit_packing`)."""

import torch
from torch import Tensor

from tenreo.codec.bit_packing import pack_integers, unpack_integers


def pack(numbers: Tensor, width: int) -> Tensor:
    """Pack integers.

    Args:
        numbers: (count,) integers in [0, 2^width), on the CPU.
        width: bits per integer, 1 to 32.

    Returns:
        (packed_size(count, width),) uint8.
    """
    return torch.from_numpy(pack_integers(numbers.numpy(), width))


def unpack(packed: Tensor, width: int, count: int) -> Tensor:
    """Unpack the result of `pack`.

    Args:
        packed: (packed_size(count, width),) uint8, on the CPU.
        width: bits per integer, 1 to 32.
        count: number of integers.

    Returns:
        (count,) int64.
    """
    return torch.from_numpy(unpack_integers(packed.numpy(), width, count))
