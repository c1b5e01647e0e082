"""Encoding of one layer of a plan, either with the plan's rate or at a price per bit."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tenreo.codec.distortion import energy
from tenreo.codec.encode import EncodedWeight, encode, nearest_neighbor_order, quantize, refined, squared_error
from tenreo.codec.rate_distortion import trellis_quantize
from tenreo.codec.shape import CurveShape, Positions
from tenreo.codec.threads import Task
from tenreo.compression.report import LayerReport
from tenreo.compression.serialization import stored_positions
from tenreo.errors import TenreoError
from tenreo.files.records import LayerRecord
from tenreo.planning.layers import LayerPlan
from tenreo.planning.recipe import Recipe

Orders = dict[tuple[str, int], Tensor]  # (layer name, groups) -> (columns,) int32, order of the columns


class EncodedLayer(NamedTuple):
    """An encoded layer."""

    weight: EncodedWeight
    plan: LayerPlan  # updated with the final curve and the bytes of its positions
    report: LayerReport
    stored: Tensor  # (bytes,) uint8, the positions in a file


def dense_weight(model: nn.Module, layer: LayerPlan) -> Tensor:
    """Return the dense weight of a planned layer, detached and on the CPU, where it is encoded.

    Raises:
        TenreoError: if it contains NaN or infinity.
    """
    path, _, tensor = layer.parameter.rpartition(".")
    return check_finite(layer.name, model.get_submodule(path).get_parameter(tensor).detach().cpu())


def check_finite(name: str, weight: Tensor) -> Tensor:
    """Return the weight of a layer.

    Raises:
        TenreoError: if it contains NaN or infinity.
    """
    if not torch.isfinite(weight).all():
        raise TenreoError(f"{name}: the weight contains NaN or infinity and cannot be compressed")
    return weight


def add_order(weight: Tensor, layer: LayerPlan, task: Task, orders: Orders) -> float:
    """Add the order of a layer's columns to `orders` unless it is already there; return the elapsed seconds."""
    start = time.perf_counter()
    groups = layer.encoding.groups
    if (layer.name, groups) not in orders:
        orders[layer.name, groups] = nearest_neighbor_order(weight, groups, task)
    return time.perf_counter() - start


def encode_with_rate(weight: Tensor, layer: LayerPlan, task: Task, orders: Orders, recipe: Recipe) -> EncodedLayer:
    """Encode a layer with the curve shape of its plan, then refine and quantize it."""
    start, rounds = time.perf_counter(), recipe.of_layer(layer.own).refine
    curve = layer.encoding
    order = orders[layer.name, curve.groups]
    try:
        unrefined = encode(weight, curve.groups, curve.coefficients_per_row, length=curve.length, order=order)
        encoded = quantize(weight, refined(weight, unrefined, rounds, task), curve.precision, reassign=rounds > 0)
    except TenreoError as error:
        raise TenreoError(f"{layer.name}: {error}") from error
    return _with_report(layer, weight, unrefined, encoded, recipe.positions, start)


def encode_at_price(
    weight: Tensor, layer: LayerPlan, task: Task, price: float, recipe: Recipe,
    coarse: Mapping[str, Tensor] | None = None, parts: Mapping[str, float] | None = None,
) -> EncodedLayer:  # fmt: skip
    """Encode a layer on a curve of one row, with positions along a trellis.

    Args:
        weight: dense weight of the layer.
        layer: plan of the layer.
        task: checked for cancellation.
        price: Lagrange multiplier (squared error per bit) for a layer of importance 1.
        recipe: recipe of the compression.
        coarse: weights by layer name as they were decoded at a higher price.
        parts: part of the elements of each layer, in [0, 1], that are encoded. For the others, the coarse weight is
            encoded.
    """
    start = time.perf_counter()
    curve = layer.encoding
    price = price / layer.importance
    source = weight
    if coarse is not None and parts is not None:
        source = _mixed(weight, coarse[layer.name], parts[layer.name])
    try:
        encoded = trellis_quantize(source, price, curve.memory, curve.precision, task)
    except TenreoError as error:
        raise TenreoError(f"{layer.name}: {error}") from error
    return _with_report(layer, weight, None, encoded, recipe.positions, start)


def _mixed(weight: Tensor, coarse: Tensor, part: float) -> Tensor:
    """Return a coarse weight with a part of its elements replaced: those of the rows with the largest errors."""
    fine, mixed = weight.reshape(len(weight), -1), coarse.detach().reshape(len(weight), -1).clone()
    rows = (fine - mixed).square().sum(1).argsort(descending=True, stable=True)
    replaced = round(part * weight.numel())
    whole, left = divmod(replaced, fine.shape[1])
    mixed[rows[:whole]] = fine[rows[:whole]]
    if left:
        mixed[rows[whole], :left] = fine[rows[whole], :left]
    return mixed.reshape(weight.shape)


def _with_report(
    layer: LayerPlan, weight: Tensor, unrefined: EncodedWeight | None, encoded: EncodedWeight, positions: Positions,
    start: float,
) -> EncodedLayer:  # fmt: skip
    """Add the report to an encoded layer.

    Args:
        layer: plan of the layer.
        weight: its dense weight.
        unrefined: the paper's encoding with as many values; None at a price, where no such encoding exists.
        encoded: the final encoding.
        positions: storage of the positions in a file.
        start: `time.perf_counter` value at which the encoding began.
    """
    error, norm = squared_error(weight, encoded), energy(weight)
    if not math.isfinite(error) or not math.isfinite(norm):
        raise TenreoError(
            f"{layer.name}: the weight has values up to {weight.abs().max():.3g}, and its encoding exceeds the range "
            f"of {weight.dtype}; exclude the layer, or scale its weight"
        )
    error_unrefined = None if unrefined is None else squared_error(weight, unrefined)
    groups, per_row = encoded.coefficients.shape
    curve = CurveShape(groups, encoded.length, per_row, layer.encoding.precision, encoded.memory, encoded.basis)
    record = LayerRecord(layer.shape, curve, positions=positions)
    stored = stored_positions(encoded.positions, record)
    position_bytes = len(stored)
    report = LayerReport(
        name=layer.name, shape=layer.shape, curve=curve, squared_norm=norm, squared_error=error,
        squared_error_unrefined=error_unrefined, seconds=time.perf_counter() - start,
        bytes_before=weight.numel() * weight.element_size(),
        bytes_after=curve.coefficient_bytes(weight.element_size()) + position_bytes,
    )  # fmt: skip
    plan = replace(layer, curve=curve, position_bytes=position_bytes, errors=report.errors)
    return EncodedLayer(encoded, plan, report, stored)
