"""Files of a given size: the price of a bit at which all layers together take so many bytes."""

from __future__ import annotations

import math
from collections.abc import Callable

from tenreo.errors import TenreoError

WITHIN = 0.01  # of the size that was asked for, from below
_TRIALS = 12
_HALVING = 4.0  # a bit per weight costs a factor of four in squared error, 6.02 dB, and so in the price


def search_price(
    encode: Callable[[float], int], limit: int, weights: int, price: float, within: float = WITHIN
) -> float:
    """Find the price of a bit at which a file has at most so many bytes, and hardly fewer.

    Args:
        encode: encodes all layers at a price and returns the bytes of the file; they fall as the price rises. Its last
            call is at the price that is returned.
        limit: bytes at most.
        weights: elements of all layers.
        price: where to begin.
        within: how far below the limit is near enough, as a share of it.

    Raises:
        TenreoError: when no price leads to so few bytes.
    """
    target = limit * (1 - within / 2)
    low, high = 0.0, math.inf  # prices that are too low, and low enough
    tried = price
    for _ in range(_TRIALS):
        tried = price
        size = encode(tried)
        if limit * (1 - within) <= size <= limit:
            return tried
        if size > limit:
            low = max(low, tried)
        else:
            high = min(high, tried)
        price = tried * _HALVING ** ((size - target) * 8 / weights)
        if not low < price < high:  # the rule of thumb has left what is known
            price = math.sqrt(low * high) if low > 0 and high < math.inf else (2 * low or high / 2)
    if high == math.inf:
        raise TenreoError(f"target_size: no price leads to {limit:,} bytes; give more, or include more layers")
    if tried != high:
        encode(high)
    return high
