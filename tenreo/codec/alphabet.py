"""The symbols by which positions are coded.

The positions on a curve of cosines are symbols themselves. On a ramp, far positions are rare, and a table of their
counts would be long. So a symbol stands for a range of positions that is the wider, the farther it is from the middle:
up to 31 positions away it is a single one, and then there are 16 ranges between each power of two and the next. The
symbol is followed by the place in its range, in plain bits.

With a trellis (`tenreo.codec.trellis`), the even and the odd positions are two sets with a table of counts each. The
symbols then stand for ranges of `position // 2`, the index in the set, instead of ranges of positions.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tenreo.codec.shape import Basis

_LEADING = 5  # bits that the numbers of a range have in common: 16 ranges between powers of two
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Alphabet:
    """The symbols of the positions on a curve, and the cells: a symbol of a set.

    Attributes:
        first: (symbols,) int64, rising: the smallest index of each symbol.
        extra: (symbols,) int64, bits of the place in each symbol's range, which has 2^extra indices.
        sets: 2 with a trellis, otherwise 1.
    """

    first: Integers
    extra: Integers
    sets: int

    @property
    def cells(self) -> int:
        """Number of cells; cell c is the symbol c // sets of the set c % sets."""
        return len(self.first) * self.sets

    def cells_of(self, length: int) -> NDArray[np.int32]:
        """Return the cell of each position, (length,)."""
        symbols = np.repeat(np.arange(len(self.first)), 1 << self.extra)[-self.first[0] :][: -(-length // self.sets)]
        cells = symbols[:, None] * self.sets + np.arange(self.sets)
        return cells.reshape(-1)[:length].astype(np.int32)


@lru_cache(maxsize=256)
def alphabet_of(length: int, memory: int, basis: Basis) -> Alphabet:
    """Return the alphabet of the positions on a curve.

    >>> alphabet_of(5, 0, Basis.COSINE).first.tolist()
    [0, 1, 2, 3, 4]
    >>> alphabet_of(201, 0, Basis.RAMP).first[-5:].tolist(), alphabet_of(201, 0, Basis.RAMP).extra[-5:].tolist()
    ([184, 188, 192, 196, 200], [2, 2, 2, 2, 2])

    Args:
        length: samples on the curve.
        memory: bits of memory of the trellis, 0 without one.
        basis: functions of the curve.
    """
    sets = 2 if memory else 1
    indices = -(-length // sets)
    if basis is not Basis.RAMP:
        return Alphabet(np.arange(indices), np.zeros(indices, np.int64), sets)
    middle = length // 2 // sets
    above, above_extra = _ranges(indices - middle)
    below, below_extra = _ranges(middle)
    first = np.concatenate([(middle - below - (1 << below_extra))[::-1], middle + above])
    return Alphabet(first, np.concatenate([below_extra[::-1], above_extra]), sets)


def _ranges(count: int) -> tuple[Integers, Integers]:
    """Return the first number and the bits of the ranges that contain the numbers below `count`."""
    first, extra, number = [], [], 0
    while number < count:
        first.append(number)
        extra.append(max(0, number.bit_length() - _LEADING))
        number += 1 << extra[-1]
    return np.array(first, np.int64), np.array(extra, np.int64)
