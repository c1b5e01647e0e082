"""Integers of any sign in one entropy-coded stream, with a checksum. Does not import torch.

bytes 0-3    CRC-32 of the integers as little-endian int32
the rest     arithmetic code of one row of counts: -2 i - 1 for a negative integer i, and 2 i for any other
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from tenreo.codec import range_coder
from tenreo.errors import TenreoError

_HEADER = 4  # bytes of the checksum
Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]


def encode_integers(integers: Integers) -> Bytes | None:
    """Encode (count,) integers below 2^30 in magnitude.

    >>> encode_integers(np.array([0, -1, 2, 0, 0])).tolist()
    [184, 177, 170, 240, 31, 122, 119]

    Returns:
        (bytes,); None if the stream were so short that a reader would refuse it.
    """
    coder = range_coder.encoder(8 * len(integers) + 64)
    range_coder.encode_counts(np.where(integers < 0, -2 * integers - 1, 2 * integers)[None], *coder)
    code = range_coder.finish(coder)
    if not range_coder.plausible(len(integers), len(code)):
        return None
    return np.concatenate([np.frombuffer(_checksum(integers), np.uint8), code])


def decode_integers(stream: Bytes, count: int, content: str) -> Integers:
    """Decode a stream of `encode_integers`.

    Args:
        stream: (bytes,); may be damaged.
        count: number of integers.
        content: what the integers are, for messages.

    Returns:
        (count,).

    Raises:
        TenreoError: if the stream is damaged, or has another number of integers.
    """
    code = stream[_HEADER:]
    if len(stream) < _HEADER or not range_coder.plausible(count, len(code)):
        raise damaged(content, f"{len(stream):,} bytes for {count:,} integers")
    counts, coder = np.zeros((1, count), np.int64), range_coder.decoder(code)
    if range_coder.decode_counts(counts, 1 << 62, *coder) < 0 or len(code) > coder.state[2]:
        raise damaged(content, "an invalid code")
    integers: Integers = np.where(counts[0] & 1, -(counts[0] >> 1) - 1, counts[0] >> 1)
    if _checksum(integers) != stream[:_HEADER].tobytes():
        raise damaged(content, "a wrong checksum")
    return integers


def damaged(content: str, fault: str) -> TenreoError:
    """Return the error for a damaged stream."""
    return TenreoError(f"{content}: the stream has {fault}; the file is damaged")


def _checksum(integers: Integers) -> bytes:
    return zlib.crc32(integers.astype("<i4").tobytes()).to_bytes(4, "little")
