"""Encoding one layer of a plan: by its rate, or at a price of a bit; and several layers at a time."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tenreo.codec.distortion import energy
from tenreo.codec.encode import EncodedWeight, encode, nearest_neighbor_order, quantize, refined, squared_error
from tenreo.codec.rate_distortion import quantize_uniformly, trellis_quantize
from tenreo.codec.shape import CurveShape, Positions
from tenreo.codec.threads import Task
from tenreo.compression.report import LayerReport
from tenreo.compression.serialization import stored_positions
from tenreo.errors import TenreoError
from tenreo.files.records import LayerRecord
from tenreo.planning.layers import LayerPlan
from tenreo.planning.recipe import Recipe

Orders = dict[tuple[str, int], Tensor]  # (layer, groups) -> (columns,) int32, the order of its columns


class Encoded(NamedTuple):
    """An encoded layer.

    Attributes:
        weight: its encoding.
        plan: the layer as it became.
        report: what was lost.
    """

    weight: EncodedWeight
    plan: LayerPlan
    report: LayerReport


def weight_of(model: nn.Module, layer: LayerPlan) -> Tensor:
    """The dense weight of a layer of a plan, detached.

    Raises:
        TenreoError: when it is not finite.
    """
    path, _, tensor = layer.parameter.rpartition(".")
    weight = model.get_submodule(path).get_parameter(tensor).detach()
    if not torch.isfinite(weight).all():
        raise TenreoError(f"{layer.name}: the weight holds NaN or infinity and can not be compressed")
    return weight


def order(model: nn.Module, layer: LayerPlan, task: Task, orders: Orders) -> float:
    """Find the order of a layer's columns, unless it is known; return the seconds it took."""
    start = time.perf_counter()
    groups = layer.encoding.groups
    weight = weight_of(model, layer)
    if (layer.name, groups) not in orders:
        orders[layer.name, groups] = nearest_neighbor_order(weight, groups, task)
    return time.perf_counter() - start


def by_rate(model: nn.Module, layer: LayerPlan, task: Task, orders: Orders, recipe: Recipe) -> Encoded:
    """Encode a layer with the curve of its plan, and refine it."""
    start, rounds = time.perf_counter(), recipe.of_layer(layer.own).refine
    weight, curve = weight_of(model, layer), layer.encoding
    try:
        unrefined = encode(
            weight, curve.groups, curve.coefficients_per_row, length=curve.length,
            order=orders[layer.name, curve.groups],
        )  # fmt: skip
        encoded = quantize(weight, refined(weight, unrefined, rounds, task), curve.precision, reassign=rounds > 0)
    except TenreoError as error:
        raise TenreoError(f"{layer.name}: {error}") from error
    return _reported(layer, weight, unrefined, encoded, recipe.positions, start)


def at_price(model: nn.Module, layer: LayerPlan, task: Task, price: float, recipe: Recipe) -> Encoded:
    """Encode a layer along a trellis on a curve of one row.

    Args:
        model: that has the layer.
        layer: of the plan; its curve says precision and trellis.
        task: checked for cancellation.
        price: squared error that is worth one bit, of a layer of importance 1.
        recipe: says how positions lie in the file.
    """
    start = time.perf_counter()
    weight, curve = weight_of(model, layer), layer.encoding
    price = price / layer.importance
    try:
        first = quantize_uniformly(weight, price, curve.memory)
        encoded = trellis_quantize(weight, first, price, curve.precision, task)
    except TenreoError as error:
        raise TenreoError(f"{layer.name}: {error}") from error
    return _reported(layer, weight, first, encoded, recipe.positions, start)


def _reported(
    layer: LayerPlan, weight: Tensor, first: EncodedWeight, encoded: EncodedWeight, positions: Positions, start: float
) -> Encoded:
    """An encoded layer and its report; start is the time at which the work on it began."""
    lost, norm = squared_error(weight, encoded), energy(weight)
    if not math.isfinite(lost) or not math.isfinite(norm):
        raise TenreoError(
            f"{layer.name}: the weight has values up to {weight.abs().max():.3g}, and its curve exceeds the range of "
            f"{weight.dtype}; exclude the layer, or scale it"
        )
    groups, per_row = encoded.coefficients.shape
    curve = CurveShape(groups, encoded.length, per_row, layer.encoding.precision, encoded.memory)
    record = LayerRecord(layer.shape, curve, positions=positions)
    stored = len(stored_positions(encoded.positions.cpu(), record, positions))
    report = LayerReport(
        name=layer.name,
        shape=layer.shape,
        curve=curve,
        squared_norm=norm,
        squared_error=lost,
        squared_error_unrefined=squared_error(weight, first),
        seconds=time.perf_counter() - start,
        bytes_before=weight.numel() * weight.element_size(),
        bytes_after=curve.coefficient_bytes(weight.element_size()) + stored,
    )
    return Encoded(encoded, replace(layer, curve=curve, position_bytes=stored), report)
