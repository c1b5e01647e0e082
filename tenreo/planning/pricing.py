"""One price of a bit for all layers: which curves, and about how many bits, a size leaves to each.

With entropy-coded positions on curves of one row, the squared error of a layer of n weights of variance s falls as
D = c s 4^-b with its bits b per weight. At a price p of a bit, in units of squared error, every layer has the slope
dD/db = -p, so D = p / (2 ln 2), and b = log2(c s 2 ln 2 / p) / 2: the same error for all layers, and the bits that this
takes (reverse water-filling). What a price really gives is known when it is tried: `tenreo.compression.price_search`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tenreo.codec.rate_distortion import COEFFICIENTS, MEMORY
from tenreo.codec.shape import MOST_VALUES, CurveShape, Precision
from tenreo.modules.weights import Weight

_LOSS = 0.95  # c, of Laplace-distributed weights: Shannon's bound is 1 / 1.156, the trellis 0.4 dB above it
_STEP = math.sqrt(1 / 0.12) * 0.55  # between samples, in units of the root of the price
_DEVIATIONS = 12  # between the ends of a layer whose values are not known


@dataclass(frozen=True)
class Spread:
    """How the values of a weight are distributed.

    Attributes:
        numel: elements.
        variance: mean square.
        width: from the smallest to the largest value.
        importance: factor of the squared error.
    """

    numel: int
    variance: float
    width: float
    importance: float = 1.0


def spread_of(weight: Weight, importance: float) -> Spread:
    """The spread of a weight; on the meta device that of an initialization by the number of inputs."""
    value = weight.value
    numel = value.numel()
    if value.is_meta:
        variance = 1 / max(1, numel // max(1, weight.shape[0]))
        return Spread(numel, variance, _DEVIATIONS * math.sqrt(variance), importance)
    low, high = (x.item() for x in value.double().aminmax())
    return Spread(numel, value.double().square().mean().item(), high - low, importance)


def bits_per_weight(spread: Spread, price: float) -> float:
    """About the bits that a price leaves to every element of a weight."""
    gain = _LOSS * spread.variance * spread.importance * 2 * math.log(2) / price
    return max(0.0, math.log2(gain) / 2) if gain > 0 else 0.0


def price_for(spreads: Sequence[Spread], bytes: float) -> float:
    """The price at which the positions of some weights take about so many bytes."""
    low, high = -200.0, 60.0  # log2
    for _ in range(80):
        price = float(2 ** ((low + high) / 2))
        taken = sum(each.numel * bits_per_weight(each, price) for each in spreads) / 8
        low, high = ((low + high) / 2, high) if taken > bytes else (low, (low + high) / 2)
    return float(2.0**high)


def curve_for(spread: Spread, price: float, precision: Precision) -> CurveShape:
    """The curve that a weight gets at a price: a table of values, so close together as the price asks."""
    step = _STEP * math.sqrt(price / spread.importance)
    length = min(MOST_VALUES, max(COEFFICIENTS, math.ceil(spread.width / step) + 6))
    return CurveShape(1, length, COEFFICIENTS, precision, MEMORY)
