"""The shape of an encoded weight: how many rows, samples and coefficients, and in how many bits. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tenreo.sizes import bit_width, packed_size

MOST_MEMORY = 8  # of a trellis: 256 states
MOST_VALUES = 4096  # samples of a curve of one row, which is a table of values
CODED_HEADER = 5  # bytes before coded positions; where coding gains nothing, packed bits follow
_BAND = 64  # coefficients that share a scale, at least
_MOST_BANDS = 16  # scales per row, at most


class Positions(StrEnum):
    """How positions lie in a file: as int32, as packed bits, or entropy-coded."""

    INT32 = "int32"
    PACKED = "packed"
    CODED = "coded"


class Precision(StrEnum):
    """The number format of coefficients in a file."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT6 = "int6"

    @property
    def bits(self) -> int:
        """Bits of one coefficient, without its share of a scale."""
        return {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int6": 6}[self]

    @property
    def is_integer(self) -> bool:
        """Whether coefficients are integers with scales."""
        return self in (Precision.INT8, Precision.INT6)


@dataclass(frozen=True)
class CurveShape:
    """The numbers that an encoded weight consists of; the columns are those of its weight.

    >>> shape = CurveShape(groups=4, length=4096, coefficients_per_row=256, precision=Precision.INT8)
    >>> shape.columns(64 * 64 * 9), shape.position_bits, shape.bytes(64 * 64 * 9)
    (9216, 12, 14880)

    Attributes:
        groups: rows of the reshaped weight, the paper's g.
        length: samples on the curve, the paper's n.
        coefficients_per_row: low frequencies that are kept, the paper's n / r.
        precision: number format of the coefficients in a file.
        memory: of the trellis that the positions are a path of (`tenreo.codec.trellis`); 0 where they are free.
    """

    groups: int
    length: int
    coefficients_per_row: int
    precision: Precision = Precision.FLOAT32
    memory: int = 0

    @property
    def coefficients(self) -> int:
        """Coefficients of all rows."""
        return self.groups * self.coefficients_per_row

    @property
    def bands(self) -> int:
        """Scales per row of integer coefficients."""
        return bands(self.coefficients_per_row)

    @property
    def scales(self) -> int:
        """Scales of all rows; 0 for floating-point coefficients."""
        return self.groups * self.bands if self.precision.is_integer else 0

    @property
    def position_bits(self) -> int:
        """Bits of one packed position."""
        return bit_width(self.length)

    def columns(self, numel: int) -> int:
        """Columns of a weight of `numel` elements, each with a position."""
        return numel // self.groups

    def bytes(self, numel: int, itemsize: int = 4) -> int:
        """Bytes of packed positions, coefficients and scales in a file.

        Args:
            numel: elements of the weight.
            itemsize: bytes of one of its elements, which coefficients in full precision take as well.
        """
        return packed_size(self.columns(numel), self.position_bits) + self.coefficient_bytes(itemsize)

    def coefficient_bytes(self, itemsize: int = 4) -> int:
        """Bytes of coefficients and scales in a file.

        Args:
            itemsize: bytes of a coefficient in full precision.
        """
        bits = 8 * itemsize if self.precision == Precision.FLOAT32 else self.precision.bits
        return packed_size(self.coefficients, bits) + 2 * self.scales


def bands(coefficients_per_row: int) -> int:
    """Bands of neighboring frequencies that have a scale of their own.

    >>> bands(63), bands(200), bands(10_000)
    (1, 3, 16)
    """
    return max(1, min(_MOST_BANDS, coefficients_per_row // _BAND))
