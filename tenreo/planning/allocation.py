"""Allocation of coefficients to the layers in which they lower the error most.

Keeping the coefficients of frequency k lowers the squared error by the energy of that frequency, so at equal slopes
every layer keeps the frequencies whose energy exceeds one threshold. Spectra do not fall monotonically, so each is
replaced by the slopes of the concave hull of its cumulative energy. The spectrum does not show the gain of refinement,
which is largest for flat spectra; so every layer gets at least an eighth and at most eight times the coefficients that
the rate gives it (docs/research/statistics.md).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tenreo.codec.jit import compiled
from tenreo.planning.bisection import bisect

_BOUND = 8


def allocate(spectra: Sequence[NDArray[np.float64]], requested: Sequence[int], limits: Sequence[int]) -> list[int]:
    """Distribute a number of coefficients over layers.

    >>> steep, flat = np.exp(-np.arange(400) / 50), np.exp(-np.arange(400) / 200) / 4
    >>> allocate([steep, flat], requested=[100, 100], limits=[400, 400])
    [96, 104]

    Args:
        spectra: energy of every frequency of each layer, (columns,), in the same unit for all layers.
        requested: number of frequencies that the rate gives to each layer; their sum is distributed.
        limits: maximum number of frequencies of each layer.

    Returns:
        The number of frequencies that each layer keeps: at least 1, and in total the sum of `requested`, unless the
        bounds are in the way.
    """
    gains = [-concave_slopes(spectrum) for spectrum in spectra]  # ascending, for searchsorted
    least = [max(1, -(-n // _BOUND)) for n in requested]
    most = [min(n * _BOUND, limit) for n, limit in zip(requested, limits, strict=True)]
    total = sum(requested)

    def counts_above(threshold: float) -> list[int]:
        above = (int(np.searchsorted(gain, -threshold, side="right")) for gain in gains)
        return [min(max(n, low), high) for n, low, high in zip(above, least, most, strict=True)]

    highest = max(-gain[0] for gain in gains)
    counts = counts_above(bisect(lambda threshold: sum(counts_above(threshold)) <= total, 0.0, highest))
    counts = counts if sum(counts) <= total else least
    left = total - sum(counts)  # a threshold keeps or drops equal energies together
    for i in sorted(range(len(counts)), key=lambda i: gains[i][min(counts[i], len(gains[i]) - 1)]):
        more = min(left, most[i] - counts[i])
        counts[i] += more
        left -= more
    return counts


@compiled
def concave_slopes(values):
    """Return the slopes of the concave hull of a cumulative sum, found by averaging neighbors that rise."""
    means = np.empty(len(values))
    sizes = np.empty(len(values), np.int64)
    count = 0
    for value in values:
        means[count] = value
        sizes[count] = 1
        count += 1
        while count > 1 and means[count - 2] < means[count - 1]:
            size = sizes[count - 2] + sizes[count - 1]
            means[count - 2] += (means[count - 1] - means[count - 2]) * sizes[count - 1] / size
            sizes[count - 2] = size
            count -= 1
    return np.repeat(means[:count], sizes[:count])
