"""Signal-to-noise ratios in dB: 10 log10(|W|^2 / |W - decoded|^2). No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable


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
