"""Where coefficients go: to the layers whose spectra say that they buy most.

A coefficient of frequency k takes the energy of that frequency off the error, so with equal slopes every layer keeps
the frequencies above one threshold. Spectra fall, but not steadily: each is replaced by the concave hull of its
cumulative energy. What refinement gains on top is not in the spectrum, least of all where that is flat: so no
layer gets less than an eighth, or more than eight times, of what the rate gives it (docs/research/statistics.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tenreo.codec.jit import compiled

_BOUND = 8


def allocate(spectra: Sequence[NDArray[np.float64]], requested: Sequence[int], limits: Sequence[int]) -> list[int]:
    """Distribute coefficients over layers.

    >>> steep, flat = np.exp(-np.arange(400) / 50), np.exp(-np.arange(400) / 200) / 4
    >>> allocate([steep, flat], requested=[100, 100], limits=[400, 400])
    [96, 104]


    Args:
        spectra: per layer the energy of every frequency, (columns,), in units that compare between layers.
        requested: per layer, how many frequencies a rate would keep; their sum is distributed.
        limits: per layer, how many it can keep at most.

    Returns:
        Per layer, how many to keep: at least 1, and as many in all as were requested.
    """
    gains = [-_falling(spectrum) for spectrum in spectra]  # rising, for searchsorted
    least = [max(1, -(-n // _BOUND)) for n in requested]
    most = [min(n * _BOUND, limit) for n, limit in zip(requested, limits, strict=True)]

    def counts_above(threshold: float) -> list[int]:
        above = (int(np.searchsorted(gain, -threshold, side="right")) for gain in gains)
        return [min(max(n, low), high) for n, low, high in zip(above, least, most, strict=True)]

    low, high = 0.0, max(-gain[0] for gain in gains)
    counts = least
    for _ in range(60):
        middle = (low + high) / 2
        trial = counts_above(middle)
        if sum(trial) <= sum(requested):
            counts, high = trial, middle
        else:
            low = middle
    return _distribute_rest(counts, gains, most, sum(requested))


def _distribute_rest(counts: list[int], gains: list[NDArray[np.float64]], most: list[int], total: int) -> list[int]:
    """Give what is left, as thresholds take whole plateaus, to the next best."""
    counts = list(counts)
    left = total - sum(counts)
    for i in sorted(range(len(counts)), key=lambda i: gains[i][min(counts[i], len(gains[i]) - 1)]):
        more = min(left, most[i] - counts[i])
        counts[i] += more
        left -= more
    return counts


@compiled
def _falling(values):
    """The slopes of the concave hull of a cumulative sum: neighbors that rise are averaged."""
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
