"""Decoding of coded positions, the result of `tenreo.codec.position_coding`. Does not import torch."""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenreo.codec import range_coder
from tenreo.codec.alphabet import Alphabet, alphabet_of
from tenreo.codec.bit_packing import unpack_integers
from tenreo.codec.column_classes import (
    NO_NEIGHBORS,
    Classes,
    Division,
    Neighbors,
    block_count,
    neighbors_of,
)
from tenreo.codec.shape import CODED_HEADER, MOST_MEMORY, Basis
from tenreo.codec.trellis import following
from tenreo.errors import TenreoError
from tenreo.sizes import bit_width, packed_size

KIND_PACKED = 15


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
    if zlib.crc32(positions.astype("<i4", copy=False).data) != checksum:
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
    memory, count, division, data = _kind_of(kind, data, row, basis)
    if memory > MOST_MEMORY:
        raise _damaged(f"an unknown kind of code, {kind}")
    if not range_coder.plausible(columns, len(data)):
        raise _damaged(f"{len(data):,} bytes for {columns:,} positions")
    coder = range_coder.decoder(data)
    contexts, neighbors = np.zeros(columns, np.uint8), NO_NEIGHBORS
    if count > 1:
        blocks = np.zeros(block_count(columns, length, row, division), np.uint8)
        contexts = _decode_symbols(blocks, 1, 0, alphabet_of(count, 0, Basis.COSINE), coder).astype(np.uint8)
        if division.by_neighbors:
            neighbors = neighbors_of(length, row, division)
        else:
            contexts = Classes(contexts, division).of_channels(columns, row)
    alphabet = alphabet_of(length, memory, basis)
    positions = _decode_symbols(contexts, count, memory, alphabet, coder, columns, neighbors)
    low, high = int(positions.min()), int(positions.max())
    if low < 0 or high >= length:  # the first and last range, and the last odd sample, may reach beyond the curve
        raise _damaged(f"a position of {high if high >= length else low} on a curve of {length} samples")
    if len(data) > coder.state[2]:
        raise _damaged(f"{len(data) - int(coder.state[2])} bytes too many")
    return positions


def _kind_of(kind: int, data: Any, row: int, basis: Basis) -> tuple[int, int, Division, Any]:
    """Return the memory of the trellis, the number of classes, how they are divided, and the arithmetic code."""
    memory, count, across = kind % 16, kind // 16 % 8 + 1, kind >= 128
    if not across or count > 1:
        return memory, count, Division.INPUTS if across else Division.OUTPUTS, data
    above, count = divmod(int(data[0]), 8) if len(data) else (0, 0)
    if count == 0 or above > 1 or (above and row == 1) or basis is not Basis.RAMP:
        raise _damaged(f"an unknown kind of code, {kind}")
    return memory, count + 1, Division(Division.BEFORE + above), data[1:]


def _decode_symbols(
    contexts: Any, classes: int, memory: int, alphabet: Alphabet, coder: range_coder.Coder,
    count: int | None = None, neighbors: Neighbors = NO_NEIGHBORS,
) -> NDArray[np.int32]:  # fmt: skip
    """Decode `count` symbols, by default one for each context; with neighbors, there is a context for each block."""
    count = len(contexts) if count is None else count
    counts = np.zeros((alphabet.sets * classes, len(alphabet.first)), np.int64)
    if range_coder.decode_counts(counts, count, *coder) != 0:
        raise _damaged(f"counts whose sum is not {count}")
    positions, ranges = np.empty(count, np.int32), (alphabet.first, alphabet.extra)
    trees = tuple(range_coder.count_trees(counts))
    if not range_coder.decode_symbols(positions, contexts, neighbors, following(memory), ranges, trees, *coder):
        raise _damaged("more symbols of a kind than its counts allow")
    return positions


def _damaged(content: str) -> TenreoError:
    return TenreoError(f"positions: a stream of positions has {content}; the file is damaged")
