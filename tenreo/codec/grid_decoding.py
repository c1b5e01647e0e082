"""Decoding of dense tensors that were rounded to grids (`tenreo.codec.grid`). Does not import torch."""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tenreo.codec import range_coder
from tenreo.errors import TenreoError

MOST_EXPONENT = 1000  # of a step, in magnitude; float64 represents the values
_HEADER = 4  # bytes of the checksum
Values = NDArray[np.float64]


def decode_values(stream: NDArray[np.uint8], sizes: Sequence[tuple[int, bool]]) -> list[Values]:
    """Decode a stream of `tenreo.codec.grid.encode_levels`.

    Args:
        stream: (bytes,); may be damaged.
        sizes: for each tensor the number of its values, and whether its grid is logarithmic.

    Returns:
        The values of each tensor, (values,).

    Raises:
        TenreoError: if the stream is damaged, or has other tensors.
    """
    count = sum(2 + size for size, _ in sizes)
    code = stream[_HEADER:]
    if len(stream) < _HEADER or not range_coder.plausible(count, len(code)):
        raise _damaged(f"{len(stream):,} bytes for {count:,} integers")
    coded, coder = np.zeros((1, count), np.int64), range_coder.decoder(code)
    if range_coder.decode_counts(coded, 1 << 62, *coder) < 0 or len(code) > coder.state[2]:
        raise _damaged("an invalid code")
    integers = np.where(coded[0] & 1, -(coded[0] >> 1) - 1, coded[0] >> 1)
    if checksum(integers) != stream[:_HEADER].tobytes():
        raise _damaged("a wrong checksum")
    tensors, start = [], 0
    for size, logarithmic in sizes:
        exponent, median = (int(each) for each in integers[start : start + 2])
        if abs(exponent) > MOST_EXPONENT:
            raise _damaged(f"a step of 2^{exponent}")
        levels = (integers[start + 2 : start + 2 + size] + median).astype(np.float64)
        tensors.append(values_of(levels, exponent, logarithmic))
        start += 2 + size
    return tensors


def values_of(levels: Values, exponent: int, logarithmic: bool) -> Values:
    """Return the values of levels on a grid with the step 2^exponent, which are logarithms if it is logarithmic."""
    if not logarithmic:
        return np.asarray(levels * 2.0**exponent)
    steps = (levels - (levels > 0)) * 2.0**exponent
    with np.errstate(over="ignore"):  # of a damaged file
        return np.where(levels == 0, 0.0, np.exp2(steps))


def checksum(integers: NDArray[np.int64]) -> bytes:
    """Return the CRC-32 of the integers of a stream."""
    return zlib.crc32(integers.astype("<i4").tobytes()).to_bytes(4, "little")


def _damaged(content: str) -> TenreoError:
    return TenreoError(f"dense tensors: the stream has {content}; the file is damaged")
