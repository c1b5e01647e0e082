"""Decoding of coded positions, the result of `tenreo.codec.position_coding`. Does not import torch."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenreo.codec import range_coder
from tenreo.codec.alphabet import Alphabet, alphabet_of
from tenreo.codec.bit_packing import unpack_integers
from tenreo.codec.pieces import pieces
from tenreo.codec.shape import CODED_HEADER, MOST_MEMORY, Basis
from tenreo.codec.trellis import following
from tenreo.errors import TenreoError
from tenreo.sizes import bit_width, packed_size

KIND_PACKED = 15
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Classes:
    """Classes of columns with common frequencies."""

    of_blocks: Integers  # (blocks,) class of each block
    across: bool  # whether a block has the columns with the same index in all rows (input channels), instead of a row

    @property
    def count(self) -> int:
        """Number of classes, at least 1."""
        return int(self.of_blocks.max()) + 1

    def of_columns(self, columns: int, row: int) -> NDArray[np.uint8]:
        """Return the class of each column, (columns,)."""
        return self.of_blocks.astype(np.uint8).take(blocks_of(columns, row, self.across))


def blocks_of(columns: int, row: int, across: bool) -> NDArray[Any]:
    """Return the block of each column, (columns,)."""
    blocks: NDArray[Any] = np.empty(columns, np.int32 if columns < 1 << 31 else np.int64)
    for part in pieces(columns):
        column = np.arange(part.start, min(part.stop, columns), dtype=blocks.dtype)
        quotient = column // row
        blocks[part] = column - quotient * row if across else quotient  # % is slower than the product
    return blocks


def columns_per_output(shape: Sequence[int]) -> int:
    """Return the number of adjacent columns of a reshaped weight that belong to the same output channels.

    >>> columns_per_output((64, 32, 3, 3))
    288
    """
    return max(1, math.prod(shape[1:]))


def decode_stream(data: NDArray[np.uint8], columns: int, length: int, row: int, basis: Basis) -> NDArray[np.int32]:
    """Decode a stream of positions.

    Args:
        data: (bytes,) the stream; may be damaged.
        columns: number of columns of the weight, at least 1.
        length: samples on the curve.
        row: number of columns of the same output channels.
        basis: functions of the curve.

    Returns:
        (columns,) in [0, length).

    Raises:
        TenreoError: if the stream is damaged, or has another number of columns or samples.
    """
    if len(data) < CODED_HEADER:
        raise TenreoError(
            f"positions: given a stream of {len(data)} bytes, needs at least {CODED_HEADER}; the file is damaged"
        )
    kind, checksum = int(data[0]), int.from_bytes(data[1:CODED_HEADER].tobytes(), "little")
    if kind == KIND_PACKED:
        positions = _unpack(data[CODED_HEADER:], columns, length)
    else:
        positions = _decode(kind, data[CODED_HEADER:], columns, length, row, basis)
    if zlib.crc32(positions.astype("<i4").tobytes()) != checksum:
        raise TenreoError("positions: the checksum of the positions is wrong; the file is damaged")
    return np.asarray(positions)


def _unpack(packed: Any, columns: int, length: int) -> Any:
    width = bit_width(length)
    if len(packed) != packed_size(columns, width):
        raise _damaged(f"{len(packed)} bytes for {columns} positions of {width} bits")
    positions = unpack_integers(packed, width, columns)
    if int(positions.max()) >= length:
        raise _damaged(f"a position of {int(positions.max())} on a curve of {length} samples")
    return positions.astype(np.int32)


def _decode(kind: int, data: Any, columns: int, length: int, row: int, basis: Basis) -> Any:
    memory, classes, across = kind % 16, kind // 16 % 8 + 1, kind >= 128
    if memory > MOST_MEMORY or (across and classes == 1):
        raise _damaged(f"an unknown kind of code, {kind}")
    if not range_coder.plausible(columns, len(data)):
        raise _damaged(f"{len(data):,} bytes for {columns:,} positions")
    coder = range_coder.decoder(data)
    contexts = np.zeros(columns, np.uint8)
    if classes > 1:
        blocks = int(blocks_of(columns, row, across).max()) + 1
        plain = alphabet_of(classes, 0, Basis.COSINE)
        of_blocks = _decode_symbols(np.zeros(blocks, np.uint8), 1, 0, plain, coder)
        contexts = Classes(of_blocks.astype(np.int64), across).of_columns(columns, row)
    positions = _decode_symbols(contexts, classes, memory, alphabet_of(length, memory, basis), coder)
    low, high = int(positions.min()), int(positions.max())
    if low < 0 or high >= length:  # the first and last range, and the last odd sample, may reach beyond the curve
        raise _damaged(f"a position of {high if high >= length else low} on a curve of {length} samples")
    if len(data) > coder.state[2]:
        raise _damaged(f"{len(data) - int(coder.state[2])} bytes too many")
    return positions


def _decode_symbols(
    contexts: Any, classes: int, memory: int, alphabet: Alphabet, coder: range_coder.Coder
) -> NDArray[np.int32]:
    counts = np.zeros((alphabet.sets * classes, len(alphabet.first)), np.int64)
    if range_coder.decode_counts(counts, len(contexts), *coder) != 0:
        raise _damaged(f"counts whose sum is not {len(contexts)}")
    positions, ranges = np.empty(len(contexts), np.int32), (alphabet.first, alphabet.extra)
    trees = tuple(range_coder.count_trees(counts))
    if not range_coder.decode_symbols(positions, contexts, following(memory), ranges, trees, *coder):
        raise _damaged("more symbols of a kind than its counts allow")
    return positions


def _damaged(content: str) -> TenreoError:
    return TenreoError(f"positions: a stream of positions has {content}; the file is damaged")
