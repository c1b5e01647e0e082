"""Squared errors in float64, and signal-to-noise ratios in dB: 10 log10(|W|^2 / |W - decoded|^2).

This module does not import torch, because the code that reads file headers uses it without torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tenreo.codec.pieces import pieces

if TYPE_CHECKING:
    from torch import Tensor


def decibels(squared_norm: float, squared_error: float) -> float:
    """Return the signal-to-noise ratio in dB; infinity if the error is 0, `finite` makes it a value for JSON.

    >>> decibels(100.0, 1.0), decibels(1.0, 0.0)
    (20.0, inf)
    """
    if squared_error == 0:
        return math.inf
    ratio = squared_norm / squared_error
    return 10 * math.log10(ratio) if ratio > 0 else -math.inf


def total_decibels(layers: Iterable[tuple[float | None, float | None]]) -> float | None:
    """Return the signal-to-noise ratio of several layers together, in dB.

    >>> total_decibels([(100.0, 20.0), (100.0, 20.0)])
    20.0

    Args:
        layers: squared norm and ratio of each layer; the norm is None if unknown, the ratio None if the error is 0.

    Returns:
        The ratio, or None if a squared norm is unknown.
    """
    pairs = list(layers)
    if not pairs or any(norm is None for norm, _ in pairs):
        return None
    error = sum((norm or 0) * 10 ** (-snr / 10) for norm, snr in pairs if snr is not None)
    return decibels(sum(norm or 0 for norm, _ in pairs), error)


def finite(value: float | None) -> float | None:
    """Return the value, or None if it is None, infinite or NaN, which JSON cannot represent.

    >>> finite(1.5), finite(math.inf)
    (1.5, None)
    """
    return value if value is not None and math.isfinite(value) else None


def energy(values: Tensor, others: Tensor | None = None) -> float:
    """Return the squared norm of a tensor, or of its difference from another of the same shape, in float64.

    >>> import torch
    >>> energy(torch.tensor([3.0, 4.0])), energy(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0]))
    (25.0, 1.0)
    """
    left, right = values.detach().reshape(-1), None if others is None else others.detach().reshape(-1)
    total = 0.0
    for part in pieces(len(left)):  # only these are converted to float64
        difference = left[part].cpu().double()
        if right is not None:
            difference = difference - right[part].cpu().double()
        total += difference.square().sum().item()
    return total
