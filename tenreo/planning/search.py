"""Searching for a target: the growth for a total, and for a size the best curve for every layer.

The error of a curve is predicted from its shape alone. A codebook of K points in g dimensions has an error of about
K^(-2/g) (P. Zador, "Asymptotic quantization error of continuous signals and the quantization dimension", 1982);
what t free coefficients learn of n columns lowers it by (1 - t/n)^2, and every halving of t against the samples
costs 0.4 dB. The constants are fitted to Laplace-distributed weights (docs/research/size.md): for
the shapes that a target size chooses, 0.5 dB off on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tenreo.codec.shape import CurveShape, Precision
from tenreo.planning.recipe import Recipe

LARGEST = 1e6  # growth that is tried
_SMALLEST = 1e-4
_BASE = {2: -5.2, 4: -1.95, 8: -0.35}  # dB of a curve with a single sample, by groups
# Relative squared error that the precision of coefficients adds.
_ROUNDING = {Precision.INT6: 1e-3, Precision.INT8: 6e-5, Precision.FLOAT32: 0.0}
_BITS = range(4, 32)
_SHARES = (1, 2, 4, 8, 16)  # samples per coefficient


@dataclass(frozen=True)
class Candidate:
    """A curve that a layer may have.

    Attributes:
        curve: its shape.
        bytes: of the layer in a file.
        error: expected squared error, relative to the weight's squared norm.
    """

    curve: CurveShape
    bytes: int
    error: float


def smallest_growth(fits: Callable[[float], bool]) -> float | None:
    """The smallest progressive growth that fits, rounded up to four digits.

    Args:
        fits: true from some growth on.

    Returns:
        None when not even `LARGEST` fits.
    """
    if not fits(LARGEST):
        return None
    low, high = math.log(_SMALLEST), math.log(LARGEST)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(math.exp(middle)) else (middle, high)
    unit = 10 ** (math.floor(high / math.log(10)) - 3)
    growth = float(f"{math.ceil(math.exp(high) / unit) * unit:.4g}")
    return growth if fits(growth) else float(f"{growth + unit:.4g}")


def candidates(numel: int, recipe: Recipe) -> list[Candidate]:
    """The curves that a recipe lets a layer of `numel` elements have; none when no groups divide it."""
    groups = [recipe.groups] if recipe.groups else list(_BASE)
    precisions = [recipe.precision] if recipe.precision else list(_ROUNDING)
    found = {
        (g, min(numel // g, 2**bits), share, precision)
        for g in groups
        if numel and numel % g == 0
        for bits in ([recipe.position_bits] if recipe.position_bits else _BITS)
        for share in _SHARES
        for precision in precisions
    }
    shapes = (CurveShape(g, n, n // share, precision) for g, n, share, precision in sorted(found) if n >= share)
    return [Candidate(shape, shape.bytes(numel), predicted_error(shape, numel)) for shape in shapes]


def predicted_error(shape: CurveShape, numel: int) -> float:
    """The expected squared error of a refined curve, relative to the squared norm of its weight.

    >>> round(predicted_error(CurveShape(4, 8192, 4096), 589_824), 4)
    0.0179

    Args:
        shape: of the curve.
        numel: elements of the weight.
    """
    base = _BASE.get(shape.groups, 0.0)  # of no consequence when the groups are given
    share = shape.length // shape.coefficients_per_row
    snr = base + 6.02 * math.log2(shape.length) / shape.groups - 0.4 * math.log2(share)
    learned = shape.coefficients_per_row / shape.columns(numel)
    return 10 ** (-snr / 10) * max(1 - learned, 0.0) ** 2 + _ROUNDING.get(shape.precision, 0.0)


def choose(offered: Sequence[Sequence[Candidate]], weights: Sequence[float], room: int) -> list[Candidate]:
    """Choose one candidate per layer with the smallest weighted sum of errors in so many bytes.

    The slopes are equalized: for a price of a byte, every layer takes the candidate of the smallest weighted error
    plus price; the price is the lowest that fits. What is left over goes to the best steps that still fit.

    Args:
        offered: the candidates of every layer.
        weights: of every layer's error.
        room: bytes in all; the smallest candidates together fit.
    """
    low, high = -60.0, 20.0  # log of the price
    chosen = [min(each, key=lambda candidate: candidate.bytes) for each in offered]
    for _ in range(60):
        price = math.exp((low + high) / 2)
        trial = [_cheapest(each, weight, price) for each, weight in zip(offered, weights, strict=True)]
        if sum(candidate.bytes for candidate in trial) <= room:
            chosen, high = trial, (low + high) / 2
        else:
            low = (low + high) / 2
    return _fill(chosen, offered, weights, room)


def _cheapest(offered: Sequence[Candidate], weight: float, price: float) -> Candidate:
    return min(offered, key=lambda c: (weight * c.error + price * c.bytes, c.bytes))


def _fill(
    chosen: list[Candidate], offered: Sequence[Sequence[Candidate]], weights: Sequence[float], room: int
) -> list[Candidate]:
    """Give what is left of the room to the layers of the largest errors."""
    left = room - sum(candidate.bytes for candidate in chosen)
    for i in sorted(range(len(chosen)), key=lambda i: -weights[i] * chosen[i].error):
        fitting = [c for c in offered[i] if c.bytes - chosen[i].bytes <= left]
        best = min(fitting, key=lambda c: (c.error, c.bytes))
        left -= best.bytes - chosen[i].bytes
        chosen[i] = best
    return chosen
