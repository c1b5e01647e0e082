"""Files of a given size: the search for the price per bit at which the file has that size.

Some weights, such as uniformly distributed ones, have no encodings of certain sizes: at a slightly lower price, they
are encoded with far more bits. Then a part of every weight gets a lower price.
"""

import math
from collections.abc import Callable

from tenreo.errors import TenreoError

_TRIALS, _PART_TRIALS = 12, 8
_MAX_FLATTENING = 4.0  # a slope is assumed to be at most this factor flatter than the previous one
_MAX_LOG_STEP = 40.0  # of a step between two prices: 29 bits per weight
_MIN_CHANGE = 0.001  # of the size: with a smaller one, the file is the smallest or the largest possible at both prices
_PRICE_PER_BIT = 4.0  # one bit per weight divides the squared error, and so the price, by four (6.02 dB)


def search_price(
    encode: Callable[[float], int], limit: int, weights: int, price: float, within: float = 0.008
) -> float:
    """Find a price per bit at which a file is at most as large as a limit, and only slightly smaller.

    This is the secant method on the logarithm of the price, because encoding is slow and bytes fall almost linearly
    with it; if the secant leaves the bracket of known prices, the bracket is halved.

    Args:
        encode: function that encodes all layers at a price and returns the bytes of the file, which fall as the price
            rises.
        limit: maximum size in bytes.
        weights: number of elements of all layers.
        price: first price to try.
        within: accepted distance below the limit, as a fraction of it.

    Raises:
        TenreoError: when the file is larger than the limit at every price.
    """
    target = limit * (1 - within / 2)
    low, high = 0.0, math.inf  # the highest price known to be too low, and the lowest known to fit
    slope = -weights / 8 / math.log(_PRICE_PER_BIT)  # bytes per unit of the logarithm of the price
    tried, before = price, None
    for _ in range(_TRIALS):
        tried, size = price, encode(price)
        if limit * (1 - within) <= size <= limit:
            return tried
        step = 0.0 if before is None else math.log(tried / before[0])
        grows = before is None or abs(size - before[1]) > _MIN_CHANGE * size
        if not grows and size <= limit and step < -_MAX_LOG_STEP / 2:
            return tried  # the layers are as precise as they can be
        if size > limit:
            low = max(low, tried)
        else:
            high = min(high, tried)
        if not grows:
            slope /= _MAX_FLATTENING
        elif before is not None:
            slope = min((size - before[1]) / step, slope / _MAX_FLATTENING)
        before = tried, size
        price = tried * math.exp(max(-_MAX_LOG_STEP, min((target - size) / slope, _MAX_LOG_STEP)))
        if not low < price < high:
            price = math.sqrt(low) * math.sqrt(high) if low > 0 and high < math.inf else (2 * low or high / 2)
    if high == math.inf:
        raise TenreoError(f"target_size: no price leads to {limit:,} bytes; allow more bytes, or include more layers")
    return high


def search_part(encode: Callable[[float], int], limit: int, sizes: tuple[int, int], within: float = 0.008) -> None:
    """Find the part of the weights that gets a lower price, so that a file is only slightly smaller than a limit.

    This is false position (regula falsi) with bounded steps.

    Args:
        encode: function that encodes a part, in [0, 1], at the lower price and the rest at the higher one, and returns
            the bytes of the file.
        limit: maximum size in bytes.
        sizes: bytes without and with the lower price. If both are at most the limit, there is nothing to search for.
        within: accepted distance below the limit, as a fraction of it.
    """
    low, high = 0.0, 1.0
    small, large = sizes
    if large <= limit:
        return
    for _ in range(_PART_TRIALS):
        relative = (limit * (1 - within / 2) - small) / (large - small)
        part = low + min(max(relative, 0.1), 0.9) * (high - low)
        size = encode(part)
        if limit * (1 - within) <= size <= limit:
            return
        if size > limit:
            high, large = part, size
        else:
            low, small = part, size
