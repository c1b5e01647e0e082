"""Compressing a model: orders, coefficients and positions of all layers, several layers at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tenreo.codec.encode import spectrum
from tenreo.compression.layer_encoding import Encoded, Orders, at_price, by_rate, order, weight_of
from tenreo.compression.layer_pool import LayerPool
from tenreo.compression.parametrization import parametrize_
from tenreo.compression.price_search import search_price
from tenreo.compression.report import Report
from tenreo.errors import TenreoError
from tenreo.modules.weights import find_weights, parameter_names, why_incompressible
from tenreo.modules.wrappers import require_replaceable
from tenreo.planning.allocation import allocate
from tenreo.planning.file_estimate import FileEstimate
from tenreo.planning.layers import LayerPlan
from tenreo.planning.plan import Plan, resolve
from tenreo.planning.rates import OutputTarget, TargetSize
from tenreo.planning.recipe import Recipe, Strategy


def compress_(
    model: nn.Module,
    recipe: Recipe | Plan,
    *,
    jobs: int | None = None,
    progress: Callable[[LayerPlan], None] | None = None,
    within: Callable[[LayerPlan, float], None] | None = None,
    orders: Orders | None = None,
) -> Report:
    """Compress a model in place.

    >>> from tenreo import Uniform
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    >>> report = compress_(model, Recipe(groups=4, rate=Uniform(2.0)))
    >>> [(layer.name, layer.curve.coefficients_per_row) for layer in report.layers], model[0].weight.shape
    ([('0', 512)], torch.Size([64, 64]))

    Args:
        model: any module, also compiled or in DataParallel; its layers stay of the classes that they are.
        recipe: what was asked for, or the plan that `resolve` made of it.
        jobs: layers encoded at a time, by default one per core; neither this nor torch's number of threads changes
            the result.
        progress: called twice with every layer, once its columns are in order and once it is encoded, from the
            calling thread.
        within: called now and then with a layer and the share of its present step that is done, between 0 and 1, from
            the calling thread.
        orders: the order of the columns of (layer, groups), where it is known already; those that are found are
            added, for callers that compress the same weights again.

    Returns:
        Error, bytes and seconds of every layer, and the counts.

    Raises:
        TenreoError: as `resolve`, when a weight is not finite, and when the model is in DistributedDataParallel; the
            model is then as before.
    """
    if isinstance(recipe, Recipe) and isinstance(recipe.rate, OutputTarget):
        raise TenreoError("target: what a model puts out is found by running it; call tenreo.compress_to_ instead")
    model = require_replaceable(model)
    plan = recipe if isinstance(recipe, Plan) else resolve(recipe, model)
    _check_fit(model, plan)
    if jobs is not None and jobs < 1:
        raise TenreoError(f"jobs: given {jobs}, needs at least 1")
    with LayerPool(model, jobs, progress, within) as pool:
        if plan.strategy is Strategy.PRICE:
            return _apply(model, plan, _at_one_price(pool, plan), {})
        orders = {} if orders is None else orders
        seconds = pool.each(order, plan.compressed, orders)
        if plan.recipe.allocate:
            plan = pool.once(_allocated, model, plan, orders)
        return _apply(model, plan, pool.each(by_rate, plan.compressed, orders, plan.recipe), seconds)


def _at_one_price(pool: LayerPool, plan: Plan) -> dict[str, Encoded]:
    """All layers at the plan's price of a bit, or at that which leads to a file of the recipe's size."""
    counting = FileEstimate(plan.recipe, pool.model, plan.class_names)
    found: dict[str, Encoded] = {}

    def encode(price: float) -> int:
        found.update(pool.each(at_price, plan.compressed, price, plan.recipe))
        return counting.file_size(_as_encoded(plan, found))

    if isinstance(plan.recipe.rate, TargetSize):
        weights = sum(layer.numel for layer in plan.compressed)
        search_price(encode, plan.recipe.rate.bytes, weights, plan.price)
    else:
        encode(plan.price)
    return found


def _as_encoded(plan: Plan, encoded: dict[str, Encoded]) -> list[LayerPlan]:
    """The layers of a plan as they became."""
    return [encoded[layer.name].plan if layer.name in encoded else layer for layer in plan.layers]


def _check_fit(model: nn.Module, plan: Plan) -> None:
    """Raise unless a plan is one of this model, and there are weights to compress."""
    weights, names = find_weights(model), parameter_names(model)
    for layer in plan.compressed:
        weight, name = weights.get(layer.name), layer.name or "the model"
        if weight is None or weight.shape != layer.shape:
            given = list(weight.shape) if weight else "no such layer"
            raise TenreoError(
                f"plan: {name} has a weight of {list(layer.shape)} in the plan, the model has {given}; "
                "resolve the recipe for this model"
            )
        if why := why_incompressible(weight, names):
            raise TenreoError(f"plan: {name} can not be compressed: {why}; resolve the recipe anew")
        if weight.value.is_meta:
            raise TenreoError(f"{name}: the weight is on the meta device, without values; load weights first")


def _apply(model: nn.Module, plan: Plan, encoded: dict[str, Encoded], seconds: dict[str, float]) -> Report:
    """Put the encoded weights into the model's layers; seconds are those spent on their orders."""
    after = FileEstimate(plan.recipe, model, plan.class_names).after(_as_encoded(plan, encoded))
    reports = []
    weights = find_weights(model)
    for layer in plan.compressed:
        weight, _, report = encoded[layer.name]
        parametrize_(weights[layer.name], weight, report.curve.precision, report.errors)
        reports.append(replace(report, seconds=report.seconds + seconds.get(layer.name, 0.0)))
    return Report(tuple(reports), plan.before, after)


def _allocated(model: nn.Module, plan: Plan, orders: Orders) -> Plan:
    """The plan with its coefficients where they lower the layers' relative errors most."""
    layers = plan.compressed

    def energies(layer: LayerPlan) -> NDArray[np.float64]:
        weight, groups = weight_of(model, layer), layer.encoding.groups
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
    chosen = tuple(changed.get(layer.name, layer) for layer in plan.layers)
    return replace(plan, layers=chosen, after=FileEstimate(plan.recipe, model).after(chosen))
