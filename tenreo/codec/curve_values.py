"""Decoding of curves with NumPy: the values of all columns, as `tenreo.codec.encode.decode` returns them.

This module does not import torch, so that files can be read without it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenreo.codec.bit_packing import unpack_integers
from tenreo.codec.integer_coding import decode_integers
from tenreo.codec.jit import compiled
from tenreo.codec.shape import Basis, CurveShape


def decode_curve(coefficients: NDArray[Any], positions: NDArray[Any], curve: CurveShape) -> NDArray[Any]:
    """Return the samples of a curve at given positions.

    >>> ramp = CurveShape(1, 5, 3, basis=Basis.RAMP)
    >>> decode_curve(np.array([[0, 2, 0]], np.float32), np.array([0, 2, 3]), ramp)
    array([[-2.,  0.,  1.]], dtype=float32)

    Args:
        coefficients: (groups, coefficients_per_row) float32 or float64.
        positions: (columns,) integers in [0, length).
        curve: shape of the curve.

    Returns:
        (groups, columns) of the dtype of the coefficients.
    """
    if curve.basis is Basis.RAMP:
        values = np.empty((1, len(positions)), coefficients.dtype)
        offset, end, jump = coefficients[0]
        most = (curve.length - 1) // 2
        _ramp(positions, curve.length, offset, end / coefficients.dtype.type(most), jump, values[0])
        return values
    samples: NDArray[Any] = _inverse_cosine_transform(coefficients, curve.length).astype(coefficients.dtype)
    return samples[:, positions]


@compiled
def _ramp(positions: Any, length: int, offset: Any, step: Any, jump: Any, values: Any) -> None:
    """Write the values of a ramp; the order of the operations is that of `tenreo.codec.ramp.decode_ramp`."""
    for i in range(len(positions)):
        twice = 2 * np.int64(positions[i]) - (length - 1)
        level = twice // 2 if twice >= 0 else -((-twice) // 2)
        # Without the intermediate values, a machine could round the sum only once.
        value = offset + step * values.dtype.type(level)
        values[i] = value + jump if level > 0 else value - jump if level < 0 else value


def _inverse_cosine_transform(coefficients: NDArray[Any], length: int) -> NDArray[np.float64]:
    """Return the inverse orthonormal DCT-II of every row, padded to `length`, by one Fourier transform."""
    frequencies = np.arange(coefficients.shape[1])
    scales = np.where(frequencies == 0, np.sqrt(1 / length), np.sqrt(2 / length))
    rotated = coefficients.astype(np.float64) * scales * np.exp(1j * np.pi * frequencies / (2 * length))
    return np.asarray(np.fft.ifft(rotated, 2 * length)[:, :length].real * (2 * length))


def integer_codes(stored: NDArray[np.uint8], curve: CurveShape, coded: bool) -> NDArray[np.int64]:
    """Return the integers of a curve whose precision is an integer.

    Args:
        stored: (bytes,) as in a file.
        curve: shape of the curve.
        coded: whether the integers are entropy-coded instead of packed.

    Returns:
        (groups * coefficients_per_row,).

    Raises:
        TenreoError: if coded integers are damaged.
    """
    if coded:
        return decode_integers(stored, curve.coefficients, "coefficients")
    bits = curve.precision.bits
    return np.asarray(unpack_integers(stored, bits, curve.coefficients) - (1 << (bits - 1)), np.int64)


def dequantize(codes: NDArray[np.int64], scales: NDArray[np.float32], curve: CurveShape) -> NDArray[np.float32]:
    """Return the (groups, coefficients_per_row) coefficients of `integer_codes` and the (groups, bands) scales."""
    rows = codes.astype(np.float32).reshape(curve.groups, curve.coefficients_per_row)
    bands = np.array_split(rows, curve.bands, axis=1)
    return np.concatenate([band * scales[:, i : i + 1] for i, band in enumerate(bands)], axis=1)
