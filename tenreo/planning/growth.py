"""Curves that follow from a rate, and the smallest progressive growth that reaches a total."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from tenreo.codec.position_coding import even_bytes
from tenreo.codec.shape import CurveShape, Precision
from tenreo.planning.bisection import bisect
from tenreo.planning.file_estimate import FileEstimate
from tenreo.planning.layers import LayerPlan, check_not_named, require_compressed
from tenreo.planning.rates import Progressive, TargetSize, Uniform
from tenreo.planning.recipe import Pack, Recipe, target_out_of_reach

_MAX_GROWTH, _MIN_GROWTH = 1e6, 1e-4


def curves_by_rate(recipe: Recipe, layers: Iterable[LayerPlan], reference_numel: int) -> Iterator[LayerPlan]:
    """Yield the layers with the curves that follow from their groups and their `Uniform` or `Progressive` rates."""
    for layer in layers:
        if layer.why_dense:
            yield layer
            continue
        own = recipe.of_layer(layer.own)
        groups, rate = own.groups, own.rate
        if groups is None or not isinstance(rate, (Uniform, Progressive)):
            raise ValueError(f"{own} has no rate for a layer")
        if layer.numel % groups:
            why = f"{groups} groups do not divide {layer.numel} elements"
            check_not_named(layer, recipe, why)
            yield replace(layer, why_dense=why)
            continue
        columns = layer.numel // groups
        length = min(columns, 2**own.position_bits) if own.position_bits else columns
        per_row = min(length, max(1, int(columns / rate.of(layer.numel, reference_numel))))
        curve = CurveShape(groups, length, per_row, own.precision or Precision.FLOAT32)
        # Without refinement every sample has equally many columns, so the size of coded positions is known.
        known = own.refine == 0 and own.pack == Pack.ENTROPY
        yield replace(layer, curve=curve, position_bytes=even_bytes(columns, length) if known else None)


def curves_by_growth(
    recipe: Recipe, layers: Iterable[LayerPlan], reference_numel: int, estimate: FileEstimate
) -> tuple[float, list[LayerPlan]]:
    """Find the smallest progressive growth that reaches the recipe's `TargetParameters` or `TargetSize`.

    Returns:
        The growth, and the layers with their curves.

    Raises:
        TenreoError: when no layer can be compressed, or the largest growth does not reach the total.
    """
    layers = list(layers)

    def curves(growth: float) -> list[LayerPlan]:
        return list(curves_by_rate(replace(recipe, rate=Progressive(growth)), layers, reference_numel))

    def total(growth: float) -> int:
        if isinstance(recipe.rate, TargetSize):
            return estimate.file_size(curves(growth))
        return estimate.after(curves(growth)).parameters

    require_compressed(curves(_MAX_GROWTH))
    growth = smallest_growth(lambda growth: total(growth) <= recipe.rate.number)
    if growth is None:
        raise target_out_of_reach(recipe, total(_MAX_GROWTH))
    return growth, curves(growth)


def smallest_growth(fits: Callable[[float], bool]) -> float | None:
    """Return the smallest progressive growth that fits, rounded up to four digits; None if none fits."""
    if not fits(_MAX_GROWTH):
        return None
    smallest = bisect(lambda log: fits(math.exp(log)), math.log(_MIN_GROWTH), math.log(_MAX_GROWTH), steps=50)
    unit = 10 ** (math.floor(smallest / math.log(10)) - 3)
    growth = float(f"{math.ceil(math.exp(smallest) / unit) * unit:.4g}")
    return growth if fits(growth) else float(f"{growth + unit:.4g}")
