"""Lossless entropy coding of positions.

The columns of a weight belong to a few classes (`tenreo.codec.column_classes`), and each class has its own counts: how
often every position occurs in it. The stream has these counts and then the positions, coded by
`tenreo.codec.range_coder`. If packed bits are shorter, the stream has packed bits instead. A checksum detects damage.

    byte 0       KIND_PACKED, or memory of the trellis + 16 * (classes - 1) + 128 if blocks are input channels, or
                 memory of the trellis + 128 if blocks depend on neighbors
    bytes 1-4    CRC-32 of the positions as little-endian int32
    byte 5       only if blocks depend on neighbors: classes - 1 + 8 if the neighbors are in the row above
    the rest     packed bits, or the arithmetic code of: if there are several classes, the counts of the classes and the
                 class of each block; the counts of the positions by class and set; the positions
"""

import math
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenreo.codec import range_coder
from tenreo.codec.alphabet import Alphabet, alphabet_of
from tenreo.codec.column_classes import Classes, Division, Integers, block_count, histograms
from tenreo.codec.packing import pack
from tenreo.codec.position_decoding import KIND_PACKED, decode_stream
from tenreo.codec.position_decoding import columns_per_output as columns_per_output
from tenreo.codec.shape import CODED_HEADER, Basis
from tenreo.codec.trellis import following, is_path
from tenreo.errors import TenreoError
from tenreo.sizes import bit_width, packed_size

CLASSES = (1, 2, 4, 8)
# There is one class only if the histograms of the blocks (blocks * samples) have more cells than these limits.
_MOST_CELLS, _CELLS_PER_COLUMN = 1 << 22, 4
_ITERATIONS = 10  # maximum number of updates of the frequencies and classes
_UNSEEN = np.float32(0.01)  # count of a position that does not occur in a class


def encode_positions(positions: Tensor, length: int, row: int, memory: int = 0, basis: Basis = Basis.COSINE) -> Tensor:
    """Encode positions as a stream of bytes.

    >>> positions = torch.tensor([0, 1, 1, 1, 2, 1, 1, 1] * 100, dtype=torch.int32)  # 200 bytes of packed bits
    >>> stream = encode_positions(positions, length=3, row=800)
    >>> len(stream) < 120, torch.equal(decode_positions(stream, 800, length=3, row=800), positions)
    (True, True)

    Args:
        positions: (columns,) integers in [0, length), on the CPU.
        length: samples on the curve.
        row: number of columns of the same output channels.
        memory: bits of memory of the trellis whose path the positions are; 0: no trellis.
        basis: functions of the curve.

    Returns:
        (bytes,) uint8, at most 5 bytes more than packed bits.

    Raises:
        TenreoError: if the positions are not a path of the trellis, for example because they were set by hand.
    """
    symbols = np.ascontiguousarray(positions.numpy(), np.int32)
    if memory and not is_path(symbols, memory):  # the compiled coder would write outside of its tables
        raise TenreoError(
            "positions: they are not a path through the trellis of this layer, so a file cannot store them; load the "
            "positions that belong to these coefficients"
        )
    checksum = zlib.crc32(symbols.astype("<i4", copy=False).data).to_bytes(4, "little")
    alphabet = alphabet_of(length, memory, basis)
    classes, counts = choose_classes(symbols, alphabet, length, row, basis)
    contexts = classes.of_columns(symbols, length, row)
    coded = _encode(symbols, contexts, alphabet, length, memory, classes, _tables(counts, alphabet))
    header = _header(memory, classes)
    width = bit_width(length)
    if len(coded) >= packed_size(len(symbols), width) or not range_coder.plausible(len(symbols), len(coded)):
        header, coded = [KIND_PACKED], pack(positions, width).numpy()
    first = bytes(header[:1]) + checksum + bytes(header[1:])
    return torch.from_numpy(np.concatenate([np.frombuffer(first, np.uint8), coded]))


def _header(memory: int, classes: Classes) -> list[int]:
    """Return the first byte of a stream, and the one after the checksum if there is one."""
    if classes.division.by_neighbors:
        return [memory + 128, classes.count - 1 + 8 * (classes.division - Division.BEFORE)]
    return [memory + 16 * (classes.count - 1) + 128 * classes.division]


def even_bytes(columns: int, length: int) -> int:
    """Return an upper estimate of the bytes of positions that occur equally often, as in the paper's encoding.

    With n columns, k at each sample, there are n! / (k! ... k!) such sequences. If some counts are k and others k + 1,
    each count takes about half a byte.
    """
    each, more = divmod(columns, length)
    choices = math.lgamma(columns + 1) - more * math.lgamma(each + 2) - (length - more) * math.lgamma(each + 1)
    ideal = choices / math.log(2) / 8 + 24 + (length * 0.6 if more else 0)
    return CODED_HEADER + min(packed_size(columns, bit_width(length)), math.ceil(ideal))


def _encode(
    positions: Any, contexts: Any, alphabet: Alphabet, length: int, memory: int, classes: Classes, counts: Integers
) -> Any:
    coder = range_coder.encoder(5 * len(positions) + len(classes.of_blocks) + 6 * counts.size + 64)
    if classes.count > 1:
        blocks = classes.of_blocks.astype(positions.dtype)  # the compiled function then has one type of arguments
        plain, same = alphabet_of(classes.count, 0, Basis.COSINE), np.zeros(len(blocks), np.uint8)
        _encode_symbols(blocks, same, plain, classes.count, 0, np.bincount(blocks)[None], coder)
    _encode_symbols(positions, contexts, alphabet, length, memory, counts, coder)
    return range_coder.finish(coder)


def _encode_symbols(
    positions: Any, contexts: Any, alphabet: Alphabet, length: int, memory: int, counts: Any, coder: range_coder.Coder
) -> None:
    range_coder.encode_counts(counts, *coder)
    ranges = (alphabet.first, alphabet.extra, alphabet.cells_of(length))
    trees = tuple(range_coder.count_trees(counts))
    range_coder.encode_symbols(positions, contexts, following(memory), ranges, trees, *coder)


def _tables(counts: Integers, alphabet: Alphabet) -> Integers:
    """Arrange counts by class, (classes, cells), as tables by class and set: (sets * classes, symbols)."""
    classes = len(counts)
    by_set = counts.reshape(classes, len(alphabet.first), alphabet.sets).transpose(0, 2, 1)
    return np.ascontiguousarray(by_set).reshape(alphabet.sets * classes, -1)


def decode_positions(stream: Tensor, columns: int, length: int, row: int, basis: Basis = Basis.COSINE) -> Tensor:
    """Decode a stream of `encode_positions`.

    Args:
        stream: (bytes,) uint8, on the CPU; may be damaged.
        columns: number of columns of the weight, at least 1.
        length: samples on the curve.
        row: number of columns of the same output channels.
        basis: functions of the curve.

    Returns:
        (columns,) int32 in [0, length).

    Raises:
        TenreoError: if the stream is damaged, or has another number of columns or samples.
    """
    return torch.from_numpy(decode_stream(stream.numpy(), columns, length, row, basis))


def choose_classes(positions: Any, alphabet: Alphabet, length: int, row: int, basis: Basis) -> tuple[Classes, Integers]:
    """Choose the classes with which the positions and the counts take the fewest bits.

    Args:
        positions: (columns,) int32 in [0, length).
        alphabet: the alphabet of the positions.
        length: samples on the curve.
        row: number of columns of the same output channels.
        basis: functions of the curve.

    Returns:
        The classes, and the number of columns with each cell in each class: (classes, cells).
    """
    columns = len(positions)
    best, best_counts = (
        Classes(np.zeros(1, np.int64)),
        histograms(positions, alphabet, length, columns, Division.OUTPUTS),
    )
    least = _bits(_tables(best_counts, alphabet))
    for division in _divisions(row, basis):
        number = block_count(columns, length, row, division)
        if number < 2 or number * alphabet.cells > min(_MOST_CELLS, _CELLS_PER_COLUMN * columns):
            continue
        by_block = histograms(positions, alphabet, length, row, division)
        frequencies = by_block.astype(np.float32)
        for count in CLASSES[1:]:
            of_blocks = _cluster(frequencies, count, alphabet.sets)
            classes = Classes(of_blocks, division)
            counts = np.stack([by_block[of_blocks == i].sum(0) for i in range(classes.count)])
            bits = _bits(_tables(counts, alphabet)) + _bits(np.bincount(of_blocks)[None])
            if bits < least:
                best, best_counts, least = classes, counts, bits
    return best, best_counts


def _divisions(row: int, basis: Basis) -> tuple[Division, ...]:
    """Return the ways of dividing columns: those by neighbors need levels, and the row above more than one column."""
    if basis is not Basis.RAMP:
        return Division.OUTPUTS, Division.INPUTS
    return tuple(Division) if row > 1 else (Division.OUTPUTS, Division.INPUTS, Division.BEFORE)


def _cluster(histograms: NDArray[np.float32], count: int, sets: int) -> Integers:
    """Cluster blocks by their histograms so that their positions take few bits; return the classes, (blocks,)."""
    probabilities = histograms / histograms.sum(1, keepdims=True).clip(min=1)  # a block by neighbors may be empty
    entropies = -(probabilities * np.log2(np.where(probabilities > 0, probabilities, 1))).sum(1)
    classes = np.empty(len(histograms), np.int64)
    classes[np.argsort(entropies, kind="stable")] = np.arange(len(histograms)) * count // len(histograms)
    for _ in range(_ITERATIONS):
        frequencies = (np.arange(count)[:, None] == classes).astype(np.float32) @ histograms
        before, classes = classes, (histograms @ bits_of(frequencies + _UNSEEN, sets).T).argmin(1)
        if (before == classes).all():
            break
    return np.unique(classes, return_inverse=True)[1]  # without empty classes


def bits_of(frequencies: Any, sets: int) -> Any:
    """Convert frequencies of cells, (classes, cells), to bits within each set."""
    totals = np.empty_like(frequencies)
    for first in range(sets):
        part = slice(first, None, sets)
        totals[:, part] = frequencies[:, part].sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(frequencies > 0, np.log2(totals) - np.log2(frequencies), np.inf)


def _bits(counts: Integers) -> float:
    """Estimate the bits of counts (tables, symbols) and of the symbols that they count."""
    used = counts[counts > 0]
    lengths = np.log2(used).sum() + 2.5 * counts.size
    choices = _log_factorials(counts.sum(1)) - _log_factorials(used)
    return float(lengths + choices / math.log(2))


def _log_factorials(numbers: Integers) -> float:
    return torch.from_numpy(numbers + 1.0).lgamma().sum().item()
