"""Compressing a model: orders, coefficients and positions of all layers, several layers at a time."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenreo.codec.codec import (
    EncodedWeight,
    encode,
    nearest_neighbor_order,
    quantize,
    refined,
    spectrum,
    squared_error,
)
from tenreo.compression.parametrization import parametrize_
from tenreo.compression.report import LayerReport, Report
from tenreo.errors import TenreoError
from tenreo.planning.allocation import allocate
from tenreo.planning.layers import LayerPlan
from tenreo.planning.plan import FileEstimate, Plan, make_plan, resolve
from tenreo.planning.recipe import Recipe
from tenreo.planning.weights import find_weights, obstacle, owners

Orders = dict[tuple[str, int], Tensor]  # (layer, groups) -> (columns,) int32, the order of its columns


def compress_(
    model: nn.Module,
    recipe: Recipe | Plan,
    *,
    jobs: int | None = None,
    progress: Callable[[LayerPlan], None] | None = None,
    orders: Orders | None = None,
) -> Report:
    """Compress a model in place.

    >>> from tenreo import Uniform
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    >>> report = compress_(model, Recipe(groups=4, rate=Uniform(2.0)))
    >>> [(layer.name, layer.curve.coefficients_per_row) for layer in report.layers], model[0].weight.shape
    ([('0', 512)], torch.Size([64, 64]))

    Args:
        model: any module; its Conv2d and Linear layers stay what they are.
        recipe: what was asked for, or the plan that `resolve` made of it.
        jobs: layers encoded at a time, by default one per core; neither this nor torch's number of threads changes
            the result.
        progress: called twice with every layer, once its columns are in order and once it is encoded, from the
            calling thread.
        orders: the order of the columns of (layer, groups), where it is known already; those that are found are
            added, for callers that compress the same weights again.

    Returns:
        Error, bytes and seconds of every layer, and the counts.

    Raises:
        TenreoError: as `resolve`, and when a weight is not finite; the model is then as before.
    """
    plan = recipe if isinstance(recipe, Plan) else resolve(recipe, model)
    _check_fit(model, plan)
    if jobs is not None and jobs < 1:
        raise TenreoError(f"jobs: given {jobs}, needs at least 1")
    orders = {} if orders is None else orders
    # With several threads FFTs and sums add in another order, so what is written would depend on their number.
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(jobs or os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))

    def for_each_layer(task: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        # Largest first: the last layer to finish is then a small one.
        layers = sorted(plan.compressed, key=lambda layer: -layer.columns)
        tasks = {pool.submit(task, model, layer, *arguments): layer for layer in layers}
        for done in as_completed(tasks):
            done.result()
            if progress is not None:
                progress(tasks[done])
        return {layer.name: done.result() for done, layer in tasks.items()}

    try:
        seconds = for_each_layer(_order, orders)
        if plan.recipe.allocate:
            plan = pool.submit(_allocated, model, plan, orders).result()
        encoded = for_each_layer(_encode, orders, plan.recipe)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(threads)  # of threads that start later: each has a number of its own
    return _apply(model, plan, encoded, seconds)


def _check_fit(model: nn.Module, plan: Plan) -> None:
    """Raise unless a plan is one of this model, and there are weights to compress."""
    weights, names = find_weights(model), owners(model)
    for layer in plan.compressed:
        weight, name = weights.get(layer.name), layer.name or "the model"
        if weight is None or weight.shape != layer.shape:
            given = list(weight.shape) if weight else "no such layer"
            raise TenreoError(
                f"plan: {name} has a weight of {list(layer.shape)} in the plan, the model has {given}; "
                "resolve the recipe for this model"
            )
        if why := obstacle(weight, names):
            raise TenreoError(f"plan: {name} can not be compressed: {why}; resolve the recipe anew")
        if weight.value.is_meta:
            raise TenreoError(f"{name}: the weight is on the meta device, without values; load weights first")


def _apply(
    model: nn.Module,
    plan: Plan,
    encoded: dict[str, tuple[EncodedWeight, LayerReport]],
    seconds: dict[str, float],
) -> Report:
    """Put the encoded weights into the model's layers; seconds are those spent on their orders."""
    reports = []
    weights = find_weights(model)
    for layer in plan.compressed:
        weight, report = encoded[layer.name]
        parametrize_(weights[layer.name], weight, layer.encoding.precision, report.errors)
        reports.append(replace(report, seconds=report.seconds + seconds[layer.name]))
    return Report(tuple(reports), plan.before, plan.after)


def _weight(model: nn.Module, layer: LayerPlan) -> Tensor:
    path, _, tensor = layer.parameter.rpartition(".")
    return model.get_submodule(path).get_parameter(tensor).detach()


def _order(model: nn.Module, layer: LayerPlan, orders: Orders) -> float:
    """Find the order of a layer's columns, unless it is known; return the seconds it took."""
    start = time.perf_counter()
    weight = _weight(model, layer)
    if not torch.isfinite(weight).all():
        raise TenreoError(f"{layer.name}: the weight holds NaN or infinity and can not be compressed")
    groups = layer.encoding.groups
    if (layer.name, groups) not in orders:
        orders[layer.name, groups] = nearest_neighbor_order(weight, groups)
    return time.perf_counter() - start


def _allocated(model: nn.Module, plan: Plan, orders: Orders) -> Plan:
    """The plan with its coefficients where they lower the layers' relative errors most."""
    layers = plan.compressed

    def energies(layer: LayerPlan) -> NDArray[np.float64]:
        weight, groups = _weight(model, layer), layer.encoding.groups
        energy = spectrum(weight, orders[layer.name, groups], groups).double().square().sum(0)  # (columns,)
        share = energy / energy.sum().clamp_min(1e-300) * layer.importance
        return share.cpu().numpy()

    counts = allocate(
        [energies(layer) for layer in layers],
        [layer.encoding.coefficients_per_row for layer in layers],
        [layer.encoding.length for layer in layers],
    )
    changed = {
        layer.name: replace(layer, curve=replace(layer.encoding, coefficients_per_row=n))
        for layer, n in zip(layers, counts, strict=True)
    }
    chosen = (changed.get(layer.name, layer) for layer in plan.layers)
    return make_plan(plan.recipe, chosen, FileEstimate(plan.recipe, model))


def _encode(model: nn.Module, layer: LayerPlan, orders: Orders, recipe: Recipe) -> tuple[EncodedWeight, LayerReport]:
    start, rounds = time.perf_counter(), recipe.of_layer(layer.own).refine
    weight, curve = _weight(model, layer), layer.encoding
    order = orders[layer.name, curve.groups]
    try:
        unrefined = encode(weight, curve.groups, curve.coefficients_per_row, length=curve.length, order=order)
        better = refined(weight, unrefined, rounds)
        encoded = quantize(weight, better, curve.precision, reassign=rounds > 0)
    except TenreoError as error:
        raise TenreoError(f"{layer.name}: {error}") from error
    lost, norm = squared_error(weight, encoded), weight.double().square().sum().item()
    if not math.isfinite(lost) or not math.isfinite(norm):
        raise TenreoError(
            f"{layer.name}: the weight has values up to {weight.abs().max():.3g}, and its curve leaves the range of "
            f"{weight.dtype}; exclude the layer, or scale it"
        )
    report = LayerReport(
        name=layer.name,
        shape=layer.shape,
        curve=curve,
        squared_norm=norm,
        squared_error=lost,
        squared_error_unrefined=squared_error(weight, unrefined),
        seconds=time.perf_counter() - start,
        bytes_before=weight.numel() * weight.element_size(),
        bytes_after=curve.bytes(weight.numel(), weight.element_size()),
    )
    return encoded, report
