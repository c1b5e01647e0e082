"""Classes of columns with counts of their own in a stream of positions. Does not import torch.

The scale of weights differs between channels, between the taps of a kernel, and along a filter. So the columns are
divided into blocks, in one of four ways, and every block belongs to one of a few classes. A block has the columns of
an output channel or of an input channel, or, on a ramp, all columns whose neighbors have similar levels: levels that
precede the column in its row, or that are above it in the previous row. Both are decoded before the column.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenreo.codec.alphabet import Alphabet
from tenreo.codec.jit import compiled

Integers = NDArray[np.int64]


class Division(IntEnum):
    """How columns are divided into blocks."""

    OUTPUTS = 0  # the columns of one row, which have the same output channels
    INPUTS = 1  # the columns with the same index in all rows
    BEFORE = 2  # the columns with similar levels of the two columns before them
    ABOVE = 3  # the columns with similar levels of the three nearest columns in the row above

    @property
    def by_neighbors(self) -> bool:
        """Whether the block of a column depends on preceding positions."""
        return self >= Division.BEFORE


class Neighbors(NamedTuple):
    """Where the neighbors of a column are, as numbers for compiled code."""

    row: int  # columns of a row; 0: the neighbors are the two columns before
    low: int  # the positions from `low` to `high` have level 0
    high: int
    blocks: int  # number of blocks; 0: the classes do not depend on neighbors


NO_NEIGHBORS = Neighbors(0, 0, 0, 0)


@dataclass(frozen=True)
class Classes:
    """Classes of columns with common frequencies."""

    of_blocks: NDArray[np.integer[Any]]  # (blocks,) class of each block
    division: Division = Division.OUTPUTS

    @property
    def count(self) -> int:
        """Number of classes, at least 1."""
        return int(self.of_blocks.max()) + 1

    def of_columns(self, positions: Any, length: int, row: int) -> NDArray[np.uint8]:
        """Return the class of each column, (columns,), given the positions and the number of samples."""
        if not self.division.by_neighbors:
            return self.of_channels(len(positions), row)
        result = np.empty(len(positions), np.uint8)
        _neighbor_classes(positions, self.of_blocks.astype(np.uint8), neighbors_of(length, row, self.division), result)
        return result

    def of_channels(self, columns: int, row: int) -> NDArray[np.uint8]:
        """Return the class of each column, (columns,), of classes that do not depend on neighbors."""
        if self.count == 1:
            return np.zeros(columns, np.uint8)
        classes = self.of_blocks.astype(np.uint8)
        if self.division is Division.INPUTS:
            return np.tile(classes, -(-columns // len(classes)))[:columns]
        return np.repeat(classes, row)[:columns]


def histograms(positions: Any, alphabet: Alphabet, length: int, row: int, division: Division) -> Integers:
    """Count the cells of the alphabet in every block: (blocks, cells).

    Args:
        positions: (columns,) int32 in [0, length).
        alphabet: the alphabet of the positions.
        length: samples on the curve; with neighbors, a ramp.
        row: number of columns of the same output channels.
        division: how the columns are divided.
    """
    counts = np.zeros((block_count(len(positions), length, row, division), alphabet.cells), np.int64)
    neighbors = neighbors_of(length, row, division) if division.by_neighbors else NO_NEIGHBORS
    _count_in_blocks(positions, alphabet.cells_of(length), row, division is Division.INPUTS, neighbors, counts)
    return counts


def block_count(columns: int, length: int, row: int, division: Division) -> int:
    """Return the number of blocks."""
    if division.by_neighbors:
        return neighbors_of(length, row, division).blocks
    return min(row, columns) if division is Division.INPUTS else 1 + (columns - 1) // row


def neighbors_of(length: int, row: int, division: Division) -> Neighbors:
    """Return where the neighbors of a column are on a ramp of some samples."""
    low, high = (length - 1) // 2, length // 2
    return Neighbors(row if division is Division.ABOVE else 0, low, high, 1 + int(_block(4 * low)))


@compiled
def _block(size):
    """Return the block of a weighted sum of levels: itself below 8, then four blocks up to each power of two."""
    block = 0
    while size >= 8:
        size >>= 1
        block += 4
    return block + size


@compiled
def _level(positions, i, neighbors):
    """Return the magnitude of the level of a column; 0 before the first one."""
    if i < 0:
        return 0
    return max(neighbors.low - positions[i], positions[i] - neighbors.high, 0)


@compiled
def neighbor_block(positions, i, neighbors):
    """Return the block of column i, given the positions of all columns before it."""
    if neighbors.row:
        above = i - neighbors.row
        size = _level(positions, above - 1, neighbors) + _level(positions, above + 1, neighbors)
        size += 2 * _level(positions, above, neighbors)
    else:
        size = 2 * _level(positions, i - 1, neighbors) + _level(positions, i - 2, neighbors)
    return min(_block(size), neighbors.blocks - 1)  # a damaged stream may have positions beyond the curve


@compiled
def _neighbor_classes(positions, of_blocks, neighbors, result):
    for i in range(len(positions)):
        result[i] = of_blocks[neighbor_block(positions, i, neighbors)]


@compiled
def _count_in_blocks(positions, cells, row, across, neighbors, counts):
    column = output = 0
    for i in range(len(positions)):
        block = neighbor_block(positions, i, neighbors) if neighbors.blocks else column if across else output
        counts[block, cells[positions[i]]] += 1
        column += 1
        if column == row:
            column = 0
            output += 1


@compiled
def count_in_classes(positions, cells, classes, counts):
    """Add the number of columns with each cell in each class to `counts`, (classes, cells)."""
    for i in range(len(positions)):
        counts[classes[i], cells[positions[i]]] += 1
