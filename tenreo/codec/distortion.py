"""Squared errors in float64, and signal-to-noise ratios in dB: 10 log10(|W|^2 / |W - decoded|^2).

This module does not import torch, since the header of a file is read without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_PIECE = 1 << 20  # elements that are converted at a time


def decibels(squared_norm: float, squared_error: float) -> float:
    """The signal-to-noise ratio in dB; infinite where nothing is lost.

    >>> decibels(100.0, 1.0), decibels(1.0, 0.0)
    (20.0, inf)
    """
    if squared_error == 0:
        return math.inf
    return 10 * math.log10(squared_norm / squared_error) if squared_norm > 0 else -math.inf


def total_decibels(layers: Iterable[tuple[float | None, float | None]]) -> float | None:
    """The ratio in dB of several layers together, each given as (squared norm, its ratio in dB or None).

    >>> total_decibels([(100.0, 20.0), (100.0, 20.0)])
    20.0

    Returns:
        None where a squared norm is not known; a layer without a ratio has lost nothing.
    """
    pairs = list(layers)
    if not pairs or any(norm is None for norm, _ in pairs):
        return None
    error = sum((norm or 0) * 10 ** (-snr / 10) for norm, snr in pairs if snr is not None)
    return decibels(sum(norm or 0 for norm, _ in pairs), error)


def finite(value: float) -> float | None:
    """The value, or None where JSON has no number for it.

    >>> finite(1.5), finite(math.inf)
    (1.5, None)
    """
    return value if math.isfinite(value) else None


def energy(values: Tensor, others: Tensor | None = None) -> float:
    """The squared norm of a tensor, or of its difference from another of the same shape, in float64.

    >>> import torch
    >>> energy(torch.tensor([3.0, 4.0])), energy(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0]))
    (25.0, 1.0)
    """
    left, right = values.detach().reshape(-1), None if others is None else others.detach().reshape(-1)
    total = 0.0
    for first in range(0, len(left), _PIECE):
        piece = left[first : first + _PIECE].double()
        if right is not None:
            piece = piece - right[first : first + _PIECE].double()
        total += piece.square().sum().item()
    return total
