"""Curves for a file of a given size, chosen for every layer among candidates by their predicted errors.

The error of a curve is predicted from its shape alone. A codebook of K points in g dimensions has an error of about
K^(-2/g) (P. Zador, "Asymptotic quantization error of continuous signals and the quantization dimension", 1982).
Fitting t coefficients to n columns multiplies it by (1 - t/n)^2, and every halving of t at the same number of samples
costs 0.4 dB. The constants are fitted to Laplace-distributed weights: for the shapes that a target size chooses, the
prediction is 0.5 dB off on average (docs/research/size.md).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tenreo.codec.shape import CurveShape, Precision
from tenreo.modules.weights import Weight
from tenreo.planning.bisection import bisect
from tenreo.planning.file_estimate import FileEstimate
from tenreo.planning.layers import LayerPlan, require_compressed
from tenreo.planning.recipe import Recipe, target_out_of_reach

SINGLE_SAMPLE_SNR = {2: -5.2, 4: -1.95, 8: -0.35}  # SNR in dB of a curve with a single sample, by groups
# Relative squared error that rounding the coefficients adds.
ROUNDING_ERROR = {Precision.INT6: 1e-3, Precision.INT8: 6e-5, Precision.FLOAT32: 0.0}
_BITS = range(4, 32)
_SAMPLES_PER_COEFFICIENT = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Candidate:
    """A curve that a layer may have."""

    curve: CurveShape
    bytes: int  # of the layer in a file
    error: float  # expected squared error, relative to the squared norm of the weight


def curves_by_candidates(
    recipe: Recipe, layers: Iterable[LayerPlan], weights: Mapping[str, Weight], estimate: FileEstimate
) -> list[LayerPlan]:
    """Choose the curves with the smallest predicted error in a file of at most the recipe's `TargetSize`.

    The relative error of a layer is weighted by the norm of its weight (docs/research/statistics.md, section 6).

    Raises:
        TenreoError: when no layer can be compressed, or the smallest candidates do not fit.
    """
    layers = list(layers)
    offered = {x.name: candidates(x.numel, recipe.of_layer(x.own)) for x in layers if not x.why_dense}
    layers = [
        replace(x, why_dense=f"no choice of groups divides {x.numel} elements") if offered.get(x.name) == [] else x
        for x in layers
    ]
    factors = [x.importance * weights[x.name].norm for x in layers if not x.why_dense]
    offered = {name: each for name, each in offered.items() if each}

    def curves(chosen: Iterable[Candidate]) -> list[LayerPlan]:
        by_name = dict(zip(offered, chosen, strict=True))
        return [replace(x, curve=by_name[x.name].curve) if x.name in by_name else x for x in layers]

    smallest = curves(min(each, key=lambda c: c.bytes) for each in offered.values())
    require_compressed(smallest)
    limit, least = int(recipe.rate.number), estimate.file_size(smallest)
    if least > limit:
        raise target_out_of_reach(recipe, least)
    smallest_weights = estimate.after(smallest).weight_bytes
    room = limit - least + smallest_weights
    while room >= smallest_weights:
        chosen = curves(choose(list(offered.values()), factors, room))
        excess = estimate.file_size(chosen) - limit
        if excess <= 0:
            return chosen
        room -= excess  # the header grows with the digits of the numbers in it
    return smallest


def candidates(numel: int, recipe: Recipe) -> list[Candidate]:
    """Return the curves that a recipe allows for a layer of `numel` elements; none if no groups divide it."""
    groups = [recipe.groups] if recipe.groups else list(SINGLE_SAMPLE_SNR)
    precisions = [recipe.precision] if recipe.precision else list(ROUNDING_ERROR)
    allowed = {
        (g, min(numel // g, 2**bits), ratio, precision)
        for g in groups
        if numel % g == 0
        for bits in ([recipe.position_bits] if recipe.position_bits else _BITS)
        for ratio in _SAMPLES_PER_COEFFICIENT
        for precision in precisions
    }
    shapes = (CurveShape(g, n, n // ratio, precision) for g, n, ratio, precision in sorted(allowed) if n >= ratio)
    return [Candidate(shape, shape.bytes(numel), predicted_error(shape, numel)) for shape in shapes]


def predicted_error(shape: CurveShape, numel: int) -> float:
    """Return the expected squared error of a refined curve for `numel` elements, relative to their squared norm.

    >>> round(predicted_error(CurveShape(4, 8192, 4096), 589_824), 4)
    0.0179
    """
    base = SINGLE_SAMPLE_SNR.get(shape.groups, 0.0)  # the same for all candidates if the recipe gives other groups
    ratio = shape.length // shape.coefficients_per_row
    snr = base + 6.02 * math.log2(shape.length) / shape.groups - 0.4 * math.log2(ratio)
    learned = shape.coefficients_per_row / shape.columns(numel)
    return 10 ** (-snr / 10) * max(1 - learned, 0.0) ** 2 + ROUNDING_ERROR.get(shape.precision, 0.0)


def choose(offered: Sequence[Sequence[Candidate]], weights: Sequence[float], room: int) -> list[Candidate]:
    """Choose one candidate per layer so that the weighted sum of errors is smallest in `room` bytes.

    At a price per byte, every layer takes the candidate with the smallest sum of weighted error and price, so that the
    slopes are equal; the price is the lowest that fits. The remaining bytes go to the layers with the largest errors.
    The smallest candidates of all layers must fit. Only the ratios of the weights matter.
    """
    largest = max(weights)
    weights = [weight / largest for weight in weights]

    def at_price(log_price: float) -> list[Candidate]:
        price = math.exp(log_price)
        return [
            min(each, key=lambda c: (weight * c.error + price * c.bytes, c.bytes))
            for each, weight in zip(offered, weights, strict=True)
        ]

    def fits(chosen: Sequence[Candidate]) -> bool:
        return sum(candidate.bytes for candidate in chosen) <= room

    chosen = at_price(bisect(lambda log_price: fits(at_price(log_price)), -60.0, 20.0))
    if not fits(chosen):
        chosen = [min(each, key=lambda candidate: candidate.bytes) for each in offered]
    left = room - sum(candidate.bytes for candidate in chosen)
    for i in sorted(range(len(chosen)), key=lambda i: -weights[i] * chosen[i].error):
        fitting = [c for c in offered[i] if c.bytes - chosen[i].bytes <= left]
        best = min(fitting, key=lambda c: (c.error, c.bytes))
        left -= best.bytes - chosen[i].bytes
        chosen[i] = best
    return chosen
