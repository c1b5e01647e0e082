"""Files of a given size: the price of a bit at which all layers together take so many bytes."""

from __future__ import annotations

import math
from collections.abc import Callable

from tenreo.errors import TenreoError

WITHIN = 0.01  # of the size that was asked for, from below
_TRIALS = 12
_STEEPER = 4.0  # slopes that are flatter by more than this are not believed
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
    slope = -weights / 8 / math.log(_HALVING)  # of bytes by the logarithm of the price
    tried, before = price, None
    for _ in range(_TRIALS):
        tried, size = price, encode(price)
        if limit * (1 - within) <= size <= limit:
            return tried
        if size > limit:
            low = max(low, tried)
        else:
            high = min(high, tried)
        if before is not None and before[1] != size:
            slope = min((size - before[1]) / math.log(tried / before[0]), slope / _STEEPER)
        before = tried, size
        price = tried * math.exp((target - size) / slope)
        if not low < price < high:  # the line has left what is known
            price = math.sqrt(low * high) if low > 0 and high < math.inf else (2 * low or high / 2)
    if high == math.inf:
        raise TenreoError(f"target_size: no price leads to {limit:,} bytes; give more, or include more layers")
    if tried != high:
        encode(high)
    return high
