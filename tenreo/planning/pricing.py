"""One price per bit for all layers: each layer's curve and estimated bits, for a requested file size.

With entropy-coded positions on curves of one row, the squared error of a layer of n weights of variance s falls with
its bits b per weight as D = c s 4^-b. At a price p, in squared error per bit, every layer has the slope dD/db = -p, so
D = p / (2 ln 2) and b = log2(c s 2 ln 2 / p) / 2: all layers have the same error, and each gets the bits that this
takes (reverse water-filling; T. Cover and J. Thomas, "Elements of Information Theory", section 10.3). In a sparse
weight, only the elements that are not zero have an error, and which ones they are takes the entropy of this choice.
Below a lowest price the samples do not get denser. The exact size at a price is known only after encoding:
`tenreo.compression.price_search`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tenreo.codec.rate_distortion import MEMORY, finest_step, length_for, price_of, step_for
from tenreo.codec.shape import CODED_HEADER, RAMP_COEFFICIENTS, Basis, CurveShape, Precision
from tenreo.files.records import LayerErrors
from tenreo.modules.weights import Weight
from tenreo.planning.bisection import bisect
from tenreo.planning.file_estimate import FileEstimate
from tenreo.planning.layers import LayerPlan, require_compressed
from tenreo.planning.rates import TargetSize
from tenreo.planning.recipe import Recipe, target_out_of_reach

_LOSS = 0.95  # c for Laplace-distributed weights: Shannon's bound is 1 / 1.156, and the trellis is 0.4 dB above it
_DEVIATIONS = 6  # assumed width, in standard deviations, of a layer on the meta device
_MOST_VARIANCE = 1e300
_DENSE_ROUNDS = 3  # corrections of the room for positions, since coded dense tensors need more bits at a lower price
_FIRST_BITS = 3.0  # bits per weight at which the search for an output target begins


@dataclass(frozen=True)
class Spread:
    """The distribution of the elements of a weight, and the factor of their squared error."""

    numel: int
    variance: float  # a curve represents the mean without positions
    width: float  # largest magnitude of an element
    importance: float
    used: float = 1.0  # fraction of the elements that differ from the most frequent value, such as the zeros of pruning


def curves_by_price(
    recipe: Recipe, layers: Iterable[LayerPlan], weights: Mapping[str, Weight], estimate: FileEstimate
) -> tuple[float, list[LayerPlan]]:
    """Choose the curves at the price per bit that is estimated to reach the recipe's `TargetSize`.

    For `TargetKl` and `TargetAgreement`, the price is only the first one of the search for the target.

    Returns:
        The price, and the layers with their curves and estimated bytes.

    Raises:
        TenreoError: when no layer can be compressed, or the size is not reached without any positions.
    """
    layers = list(layers)
    spreads = {x.name: spread_of(weights[x.name], x.importance) for x in layers if not x.why_dense}

    def curves(price: float, position_bytes: Callable[[Spread], int]) -> list[LayerPlan]:
        """Return all layers with their curves at a price."""

        def curve(layer: LayerPlan) -> LayerPlan:
            spread, precision = spreads[layer.name], recipe.of_layer(layer.own).precision or Precision.FLOAT32
            shape = curve_for(spread, price, precision)
            errors = LayerErrors(_decibels(spread, price), None, spread.numel * spread.variance)
            return replace(layer, curve=shape, position_bytes=position_bytes(spread), errors=errors)

        return [curve(layer) if layer.name in spreads else layer for layer in layers]

    def at_price(price: float) -> list[LayerPlan]:
        return curves(price, lambda spread: CODED_HEADER + int(spread.numel * bits_per_weight(spread, price) / 8))

    room = _FIRST_BITS / 8 * sum(spread.numel for spread in spreads.values())
    if not isinstance(recipe.rate, TargetSize):
        price = price_for(list(spreads.values()), room)
        return price, at_price(price)
    smallest = curves(math.inf, lambda spread: CODED_HEADER)
    require_compressed(smallest)
    least = estimate.file_size(smallest)
    room = recipe.rate.bytes - least
    if room <= 0:
        raise target_out_of_reach(recipe, least)
    price = price_for(list(spreads.values()), room)
    for _ in range(_DENSE_ROUNDS):
        excess = estimate.file_size(at_price(price)) - recipe.rate.bytes
        room = max(1.0, room - excess)
        price = price_for(list(spreads.values()), room)
    return price, at_price(price)


def spread_of(weight: Weight, importance: float) -> Spread:
    """Return the spread of a weight; on the meta device, that of an initialization with variance 1 / inputs."""
    value = weight.value
    numel = value.numel()
    if value.is_meta:
        variance = 1 / max(1, numel // max(1, weight.shape[0]))
        return Spread(numel, variance, _DEVIATIONS * math.sqrt(variance), importance)
    value = value.cpu().double()
    variance = min(value.var(correction=0).item(), _MOST_VARIANCE)
    used = (value != value.median()).double().mean().item()
    return Spread(numel, variance, value.abs().max().item(), importance, used)


def _price_of_no_bits(variance: float) -> float:
    """Return the lowest price at which a weight of an importance of 1 is estimated to take no bits."""
    return _LOSS * 2 * math.log(2) * variance if variance > 0 else 0.0  # 0 also if the variance is not a number


def _lowest_price(spread: Spread) -> float:
    """Return the price below which the samples of a weight do not get denser."""
    return spread.importance * price_of(finest_step(spread.width, math.sqrt(max(0.0, spread.variance))))


def _bits_of_used(spread: Spread, price: float, used: float) -> float:
    """Estimate the bits of one of a fraction of elements that have all of the variance."""
    highest = _price_of_no_bits(spread.variance / used) * spread.importance
    return max(0.0, math.log2(highest) - math.log2(max(price, _lowest_price(spread)))) / 2 if highest > 0 else 0.0


def bits_per_weight(spread: Spread, price: float) -> float:
    """Estimate the bits per element of a weight at a price."""
    used, dense = spread.used, _bits_of_used(spread, price, 1.0)
    if not 0 < used < 1:
        return dense
    places = -used * math.log2(used) - (1 - used) * math.log2(1 - used)
    return min(dense, places + used * _bits_of_used(spread, price, used))


def _decibels(spread: Spread, price: float) -> float:
    """Estimate the SNR of a weight in dB at a price."""
    if bits_per_weight(spread, price) == 0:
        return 0.0
    return 20 * math.log10(2) * _bits_of_used(spread, price, spread.used or 1.0)


def price_for(spreads: Sequence[Spread], bytes: float) -> float:
    """Return the lowest price at which the positions of all weights are estimated to fit into a number of bytes."""

    def fits(log2_price: float) -> bool:
        price = float(2**log2_price)
        return sum(each.numel * bits_per_weight(each, price) for each in spreads) / 8 <= bytes

    highest = max((_price_of_no_bits(each.variance) * each.importance for each in spreads), default=0.0)
    if highest == 0:
        return 1.0  # every weight is constant
    lowest = min(price for each in spreads if (price := _lowest_price(each)) > 0)
    return float(2.0 ** bisect(fits, math.log2(lowest), math.log2(highest), steps=80))


def curve_for(spread: Spread, price: float, precision: Precision) -> CurveShape:
    """Return the curve of a weight at a price: a ramp whose step follows from the price."""
    length = length_for(spread.width, step_for(price / spread.importance))
    return CurveShape(1, length, RAMP_COEFFICIENTS, precision, MEMORY, Basis.RAMP)
