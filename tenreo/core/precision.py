"""Coefficients in fewer bits: half floats, or integers with a scale per row and band of frequencies.

A band is a range of neighbouring frequencies, all bands equally wide; the spectrum falls, so each has a scale of
its own: the one, out of a few below the band's largest value, that loses least. Scales are bfloat16, so that code
times scale is exact in float32 and quantising twice changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tenreo.core.packing import pack, unpack
from tenreo.errors import TenreoError
from tenreo.sizes import FLOATS, PRECISIONS, bands_of

_CLIPS = torch.linspace(1.0, 0.5, 21)  # share of a band's largest value that the largest code stands for


def store(coefficients: Tensor, precision: str) -> tuple[Tensor, Tensor | None]:
    """Coefficients as they lie in a file.

    Args:
        coefficients: (groups, kept) floating point.
        precision: of `PRECISIONS`; float32 leaves them as they are.

    Returns:
        Values, (groups, kept) floating point or packed uint8, and for integers the scales
        (groups, bands) bfloat16. On the CPU.

    Raises:
        TenreoError: when a coefficient is too large for float16.
    """
    coefficients = coefficients.detach().cpu()
    if precision in FLOATS:
        return _as_float(coefficients, precision), None
    bits = PRECISIONS[precision]
    codes, scales = quantise(coefficients.float(), bits)
    return pack(codes.reshape(-1) + (1 << (bits - 1)), bits), scales


def restore(values: Tensor, scales: Tensor | None, precision: str, groups: int, kept: int) -> Tensor:
    """The coefficients that `store` wrote: (groups, kept), float32 where they were integers."""
    if scales is None:
        return values
    bits = PRECISIONS[precision]
    codes = unpack(values, bits, groups * kept).reshape(groups, kept) - (1 << (bits - 1))
    return dequantise(codes, scales)


def rounded(coefficients: Tensor, precision: str) -> Tensor:
    """Coefficients after a way through a file, of the same dtype and on the same device.

    Raises:
        TenreoError: when a coefficient is too large for float16.
    """
    if precision in FLOATS:
        return _as_float(coefficients, precision).to(coefficients.dtype)
    whole = dequantise(*quantise(coefficients.float(), PRECISIONS[precision]))
    if not torch.isfinite(whole).all():
        raise TenreoError(f"coefficients: one of {coefficients.abs().max():.3g} is too large for {precision}")
    return whole.to(coefficients.dtype)


def _as_float(coefficients: Tensor, precision: str) -> Tensor:
    if precision == "float32":
        return coefficients
    rounded = coefficients.to(getattr(torch, precision))
    if not torch.isfinite(rounded).all():
        raise TenreoError(
            f"coefficients: one of {coefficients.abs().max():.3g} does not fit into {precision}; say bfloat16"
        )
    return rounded


def quantise(coefficients: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Round coefficients to symmetric integers.

    Args:
        coefficients: (groups, kept) float32.
        bits: of an integer, whose range is +-(2^(bits - 1) - 1).

    Returns:
        Codes (groups, kept) float32, whole numbers, and scales (groups, bands) bfloat16.
    """
    top = 2.0 ** (bits - 1) - 1
    codes, scales = zip(*(_quantise_band(band, top) for band in _bands(coefficients)), strict=True)
    return torch.cat(codes, 1), torch.cat(scales, 1).bfloat16()


def _quantise_band(band: Tensor, top: float) -> tuple[Tensor, Tensor]:
    """(groups, width) -> codes (groups, width) and scales (groups, 1), both float32."""
    largest = band.abs().amax(1)
    trials = (_CLIPS.to(band)[:, None] * largest / top).bfloat16().float()[:, :, None]  # (clips, groups, 1)
    codes = torch.where(trials > 0, band / trials, 0.0).round().clamp(-top, top)  # (clips, groups, width)
    best = (band - codes * trials).square().sum(2).argmin(0)  # (groups,)
    groups = torch.arange(len(band), device=band.device)
    return codes[best, groups], trials[best, groups]


def dequantise(codes: Tensor, scales: Tensor) -> Tensor:
    """Codes (groups, kept) and scales (groups, bands) to coefficients (groups, kept) float32."""
    bands = zip(_bands(codes.float()), scales.float().unbind(1), strict=True)
    return torch.cat([band * scale[:, None] for band, scale in bands], 1)


def _bands(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.tensor_split(bands_of(rows.shape[1]), dim=1)
