"""The shape of an encoded weight and its size in a file. This module does not import torch."""

from dataclasses import dataclass
from enum import StrEnum

from tenreo.sizes import bit_width, packed_size

MOST_MEMORY = 8  # bits of a trellis: 256 states
MOST_VALUES = 4096  # samples of a curve of cosines of one row, which is a table of values
MOST_LEVELS = 1 << 24  # samples of a ramp: float32 represents the levels exactly
RAMP_COEFFICIENTS = 3
CODED_HEADER = 5  # bytes before coded positions
_BAND = 64  # minimum number of coefficients that share a scale
_MOST_BANDS = 16  # maximum number of scales per row


class Positions(StrEnum):
    """The storage of positions in a file: int32, packed bits, or an entropy-coded stream."""

    INT32 = "int32"
    PACKED = "packed"
    CODED = "coded"


class Basis(StrEnum):
    """The functions whose sum is a curve: the lowest cosines, or the three functions of `tenreo.codec.ramp`."""

    COSINE = "cosine"
    RAMP = "ramp"


class Precision(StrEnum):
    """The number format of coefficients in a file."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT6 = "int6"

    @property
    def bits(self) -> int:
        """Bits per coefficient, not counting scales."""
        return {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int6": 6}[self]

    @property
    def is_integer(self) -> bool:
        """Whether coefficients are integers with scales."""
        return self in (Precision.INT8, Precision.INT6)


@dataclass(frozen=True)
class CurveShape:
    """The shape and precision of an encoded weight; its number of columns depends on the weight.

    >>> shape = CurveShape(groups=4, length=4096, coefficients_per_row=256, precision=Precision.INT8)
    >>> shape.columns(64 * 64 * 9), shape.position_bits, shape.bytes(64 * 64 * 9)
    (9216, 12, 14880)
    """

    groups: int  # rows of the reshaped weight (g in the paper)
    length: int  # samples on the curve (n in the paper)
    coefficients_per_row: int  # low frequencies per row (n / r in the paper)
    precision: Precision = Precision.FLOAT32  # number format of the coefficients in a file
    memory: int = (
        0  # bits of memory of the trellis (`tenreo.codec.trellis`) whose path the positions are; 0: no trellis
    )
    basis: Basis = Basis.COSINE  # functions of the curve

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
        """Return the number of columns, and of positions, of a weight with `numel` elements."""
        return numel // self.groups

    def bytes(self, numel: int, itemsize: int = 4) -> int:
        """Return the bytes of packed positions, coefficients and scales in a file.

        Args:
            numel: number of elements of the weight.
            itemsize: bytes per element; coefficients of precision float32 have the dtype of the weight.
        """
        return packed_size(self.columns(numel), self.position_bits) + self.coefficient_bytes(itemsize)

    def coefficient_bytes(self, itemsize: int = 4) -> int:
        """Return the bytes of coefficients and scales in a file, given the bytes per element of the weight."""
        bits = 8 * itemsize if self.precision == Precision.FLOAT32 else self.precision.bits
        return packed_size(self.coefficients, bits) + 2 * self.scales


def bands(coefficients_per_row: int) -> int:
    """Return the number of scales, each for a band of neighboring frequencies, per row of integer coefficients.

    >>> bands(63), bands(200), bands(10_000)
    (1, 3, 16)
    """
    return max(1, min(_MOST_BANDS, coefficients_per_row // _BAND))
