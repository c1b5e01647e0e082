"""What reaches a target: the growth for a total, and for a size the best curve for every layer.

A curve's error is predicted from its shape alone. A codebook of K points in g dimensions has an error of about
K^(-2/g) (P. Zador, "Asymptotic quantization error of continuous signals and the quantization dimension", 1982);
what t free coefficients learn of n columns lowers it by (1 - t/n)^2, and every halving of t against the samples
costs 0.4 dB. The constants are fitted to Laplace-distributed weights (docs/size.md): 0.3 dB off on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tenreo.recipe import Recipe
from tenreo.sizes import FLOATS, PRECISIONS, bands_of, packed_size, width_of

LARGEST = 1e6  # growth that is tried
_SMALLEST = 1e-4
_BASE = {2: -5.2, 4: -1.95, 8: -0.35}  # dB of a curve with a single sample, by groups
# Relative error of coefficients that precision brings.
_ROUNDING = {"int6": 1e-3, "int8": 6e-5, "float32": 0.0}
_BITS = range(4, 32)
_SHARES = (1, 2, 4, 8, 16)  # samples per coefficient


@dataclass(frozen=True)
class Option:
    """A curve that a layer may have.

    Attributes:
        groups: rows.
        length: samples on the curve.
        kept: coefficients per row.
        precision: of the coefficients in a file.
        bytes: of the layer in a file.
        error: expected squared error, relative to the weight's squared norm.
    """

    groups: int
    length: int
    kept: int
    precision: str
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


def options(numel: int, recipe: Recipe) -> list[Option]:
    """The curves that a recipe lets a layer of `numel` elements have; none when no groups divide it."""
    groups = [recipe.groups] if recipe.groups else list(_BASE)
    precisions = [recipe.coefficients] if recipe.coefficients else list(_ROUNDING)
    found = {
        (g, min(numel // g, 2**bits), share, precision)
        for g in groups
        if numel and numel % g == 0
        for bits in ([recipe.position_bits] if recipe.position_bits else _BITS)
        for share in _SHARES
        for precision in precisions
    }
    return [_option(numel, *each) for each in sorted(found) if each[1] >= each[2]]


def _option(numel: int, groups: int, length: int, share: int, precision: str) -> Option:
    columns, kept = numel // groups, length // share
    scales = 0 if precision in FLOATS else 2 * groups * bands_of(kept)
    size = packed_size(columns, width_of(length)) + packed_size(groups * kept, PRECISIONS[precision]) + scales
    base = _BASE.get(groups, 0.0)  # of no consequence when the groups are given
    snr = base + 6.02 * math.log2(length) / groups - 0.4 * math.log2(share)
    error = 10 ** (-snr / 10) * max(1 - kept / columns, 0.0) ** 2
    return Option(groups, length, kept, precision, size, error + _ROUNDING.get(precision, 0.0))


def spread(offered: Sequence[Sequence[Option]], weights: Sequence[float], room: int) -> list[Option]:
    """Choose one option per layer with the smallest weighted sum of errors in so many bytes.

    The slopes are equalised: for a price of a byte, every layer takes the option of the smallest weighted error plus
    price; the price is the lowest that fits. What is left over goes to the best steps that still fit.

    Args:
        offered: the options of every layer.
        weights: of every layer's error.
        room: bytes in all; the smallest options together fit.
    """
    low, high = -60.0, 20.0  # log of the price
    chosen = [min(each, key=lambda option: option.bytes) for each in offered]
    for _ in range(60):
        price = math.exp((low + high) / 2)
        trial = [
            min(each, key=lambda o, w=weight: (w * o.error + price * o.bytes, o.bytes))  # type: ignore[misc]
            for each, weight in zip(offered, weights, strict=True)
        ]
        if sum(option.bytes for option in trial) <= room:
            chosen, high = trial, (low + high) / 2
        else:
            low = (low + high) / 2
    return _filled(chosen, offered, weights, room)


def _filled(
    chosen: list[Option], offered: Sequence[Sequence[Option]], weights: Sequence[float], room: int
) -> list[Option]:
    left = room - sum(option.bytes for option in chosen)
    for i in sorted(range(len(chosen)), key=lambda i: -weights[i] * chosen[i].error):
        fitting = [o for o in offered[i] if o.bytes - chosen[i].bytes <= left]
        best = min(fitting, key=lambda o: (o.error, o.bytes))
        left -= best.bytes - chosen[i].bytes
        chosen[i] = best
    return chosen
