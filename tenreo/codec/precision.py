"""Quantization of coefficients: 16-bit floats, or integers with a scale per row and band of frequencies.

A band is a range of neighboring frequencies; all bands have the same width. The spectrum falls with the frequency, so
each band has a scale of its own. Among a few candidates, up to the one that represents the band's largest value, it is
the scale with the smallest error. Scales are bfloat16, so the product of code and scale is exact in float32, and
quantizing twice changes nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tenreo.codec.curve_values import integer_codes
from tenreo.codec.integer_coding import encode_integers
from tenreo.codec.packing import pack
from tenreo.codec.shape import CurveShape, Precision, bands
from tenreo.errors import TenreoError

# Values of the largest code, as fractions of the band's largest value.
_CLIPS = torch.linspace(1.0, 0.5, 21, dtype=torch.float32, device="cpu")


class StoredCoefficients(NamedTuple):
    """Coefficients as a file stores them, on the CPU."""

    values: Tensor  # (groups, coefficients_per_row) floating point, or (bytes,) uint8: packed or coded integers
    scales: Tensor | None = None  # (groups, bands) bfloat16 for integers
    coded: bool = False  # whether integers are entropy-coded (`tenreo.codec.integer_coding`)


def pack_coefficients(coefficients: Tensor, precision: Precision, code: bool = False) -> StoredCoefficients:
    """Quantize coefficients and pack them for a file.

    Args:
        coefficients: (groups, coefficients_per_row) floating point.
        precision: number format; FLOAT32 keeps the dtype.
        code: whether integers are entropy-coded if that is shorter.

    Returns:
        The values and, for integers, their scales.

    Raises:
        TenreoError: if a coefficient is too large for the number format.
    """
    coefficients = coefficients.detach().cpu()
    if not precision.is_integer:
        return StoredCoefficients(_cast(coefficients, precision))
    codes, scales = quantize_bands(coefficients.float(), precision.bits)
    packed = pack(codes.reshape(-1) + (1 << (precision.bits - 1)), precision.bits)
    stream = encode_integers(codes.reshape(-1).to(torch.int64).numpy()) if code else None
    if stream is None or len(stream) >= len(packed):
        return StoredCoefficients(packed, scales)
    return StoredCoefficients(torch.from_numpy(stream), scales, coded=True)


def unpack_coefficients(stored: StoredCoefficients, shape: CurveShape) -> Tensor:
    """Unpack the result of `pack_coefficients`.

    Returns:
        (groups, coefficients_per_row); float32 if the coefficients were integers.

    Raises:
        TenreoError: if coded integers are damaged.
    """
    values, scales, coded = stored
    if scales is None:
        return values
    codes = torch.from_numpy(integer_codes(values.numpy(), shape, coded))
    return dequantize_bands(codes.reshape(shape.groups, shape.coefficients_per_row), scales)


def fake_quantize(coefficients: Tensor, precision: Precision) -> Tensor:
    """Round coefficients to a number format; the result has their own dtype and device.

    Raises:
        TenreoError: if a coefficient is too large for the number format.
    """
    if not precision.is_integer:
        return _cast(coefficients, precision).to(coefficients.dtype)
    restored = dequantize_bands(*quantize_bands(coefficients.float(), precision.bits))
    if not torch.isfinite(restored).all():
        raise TenreoError(f"coefficients: {coefficients.abs().max():.3g} is too large for {precision}")
    return restored.to(coefficients.dtype)


def _cast(coefficients: Tensor, precision: Precision) -> Tensor:
    if precision == Precision.FLOAT32:
        return coefficients
    cast = coefficients.to(getattr(torch, precision))
    if not torch.isfinite(cast).all():
        raise TenreoError(
            f"coefficients: {coefficients.abs().max():.3g} does not fit into {precision}; choose bfloat16"
        )
    return cast


def quantize_bands(coefficients: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Round coefficients to symmetric integers.

    Args:
        coefficients: (groups, coefficients_per_row) float32.
        bits: bits per integer; the range is +-(2^(bits - 1) - 1).

    Returns:
        Codes (groups, coefficients_per_row), integers as float32, and scales (groups, bands) bfloat16.
    """
    top = 2.0 ** (bits - 1) - 1
    codes, scales = zip(*(_quantize_band(band, top) for band in _split_bands(coefficients)), strict=True)
    return torch.cat(codes, 1), torch.cat(scales, 1).bfloat16()


def _quantize_band(band: Tensor, top: float) -> tuple[Tensor, Tensor]:
    """Quantize (groups, width) coefficients to codes (groups, width) and scales (groups, 1), both float32."""
    largest = band.abs().amax(1)
    trials = (_CLIPS.to(band)[:, None] * largest / top).bfloat16().float()[:, :, None]  # (clips, groups, 1)
    codes = torch.where(trials > 0, band / trials, 0.0).round().clamp(-top, top)  # (clips, groups, width)
    # Scaled by a power of two, which rounds nothing, the squares neither overflow nor vanish.
    exponents = torch.frexp(largest).exponent.clamp(-126, 126)[:, None]
    best = torch.ldexp(band - codes * trials, -exponents).square().sum(2).argmin(0)  # (groups,)
    groups = torch.arange(len(band), device=band.device)
    return codes[best, groups], trials[best, groups]


def dequantize_bands(codes: Tensor, scales: Tensor) -> Tensor:
    """Return the (groups, count) float32 coefficients of codes (groups, count) and scales (groups, bands)."""
    pairs = zip(_split_bands(codes.float()), scales.float().unbind(1), strict=True)
    return torch.cat([band * scale[:, None] for band, scale in pairs], 1)


def _split_bands(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.tensor_split(bands(rows.shape[1]), dim=1)
