"""Compression of all layers of a model, several layers at a time."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tenreo.codec.encode import spectrum
from tenreo.codec.shape import Positions
from tenreo.compression.layer_encoding import (
    EncodedLayer,
    Orders,
    add_order,
    dense_weight,
    encode_at_price,
    encode_with_rate,
)
from tenreo.compression.layer_pool import LayerPool
from tenreo.compression.parametrization import parametrize_, remember_, remembered_digest
from tenreo.compression.report import Report
from tenreo.compression.serialization import dense_digest, round_dense_, written_size
from tenreo.compression.target_size import encode_to_size, encoded_plans
from tenreo.devices import public_function
from tenreo.errors import TenreoError
from tenreo.files.records import ModelInfo
from tenreo.modules.inference_tensors import make_trainable_
from tenreo.modules.weights import find_weights, parameter_names, why_incompressible
from tenreo.modules.wrappers import require_replaceable
from tenreo.planning.allocation import allocate
from tenreo.planning.dense_storage import check_storable
from tenreo.planning.file_estimate import FileEstimate
from tenreo.planning.layers import LayerPlan
from tenreo.planning.plan import Plan, resolve
from tenreo.planning.rates import OutputTarget, TargetSize
from tenreo.planning.recipe import Recipe, Strategy


@public_function()
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
        model: any module, also compiled or in DataParallel; its layers keep their classes.
        recipe: recipe, or the plan that `resolve` made from it.
        jobs: number of layers encoded at the same time, by default one per core; neither this nor torch's number of
            threads changes the result.
        progress: function that is called with every layer, in the calling thread, after its columns are ordered and
            after it is encoded.
        within: function that is called at intervals, in the calling thread, with a layer and the completed fraction of
            its current step, in [0, 1].
        orders: known column orders by (layer name, groups); new ones are added, for callers that compress the same
            weights again.

    Returns:
        Error, bytes and seconds of every layer, and the counts of the whole model.

    Raises:
        TenreoError: as for `resolve`, and if a weight is not finite, or the model is in DistributedDataParallel; the
            model is then unchanged.
    """
    if isinstance(recipe, Recipe) and isinstance(recipe.rate, OutputTarget):
        raise TenreoError("target: this target needs runs of the model on images; call tenreo.compress_to_ instead")
    model = require_replaceable(model)
    make_trainable_(model)
    plan = recipe if isinstance(recipe, Plan) else resolve(recipe, model)
    _check_plan(model, plan)
    digest = remembered_digest(model) or dense_digest(model)
    if jobs is not None and jobs < 1:
        raise TenreoError(f"jobs: given {jobs}, needs at least 1")
    with LayerPool(partial(dense_weight, model), jobs, progress, within) as pool:
        if plan.strategy is Strategy.PRICE:
            return _parametrize_layers_(model, plan, _encode_at_one_price(pool, plan, model), {}, digest)
        orders = {} if orders is None else orders
        seconds = pool.each(add_order, plan.compressed, orders)
        if plan.recipe.allocate:
            plan = pool.once(_allocate_coefficients, model, plan, orders)
        encoded = pool.each(encode_with_rate, plan.compressed, orders, plan.recipe)
        return _parametrize_layers_(model, plan, encoded, seconds, digest)


def _encode_at_one_price(pool: LayerPool, plan: Plan, model: nn.Module) -> dict[str, EncodedLayer]:
    """Encode all layers at the plan's price, or at the price that reaches the recipe's file size."""
    if isinstance(plan.recipe.rate, TargetSize):
        return encode_to_size(pool, plan, FileEstimate(plan.recipe, model, plan.info), plan.recipe.rate.bytes)
    return pool.each(encode_at_price, plan.compressed, plan.price, plan.recipe)


def _check_plan(model: nn.Module, plan: Plan) -> None:
    """Raise an error unless the plan fits the model, which has values that a file can store."""
    weights, names = find_weights(model), parameter_names(model)
    for layer in plan.compressed:
        weight, name = weights.get(layer.name), layer.name
        if weight is None or weight.shape != layer.shape:
            given = list(weight.shape) if weight else "no such layer"
            raise TenreoError(
                f"plan: {name} has a weight of {list(layer.shape)} in the plan, the model has {given}; "
                "resolve the recipe for this model"
            )
        if why := why_incompressible(weight, names):
            raise TenreoError(f"plan: {name} cannot be compressed: {why}; resolve the recipe again")
        if weight.value.is_meta:
            raise TenreoError(f"{name}: the weight is on the meta device, without values; load weights first")
    # The plan may have been made before the model had values.
    check_storable(model, plan.recipe.dense_dtype, {layer.parameter for layer in plan.compressed})


def _parametrize_layers_(
    model: nn.Module, plan: Plan, encoded: dict[str, EncodedLayer], order_seconds: dict[str, float], digest: str
) -> Report:
    """Replace the layers' weights by encoded ones; order_seconds is the time spent on ordering each layer's columns."""
    after = FileEstimate(plan.recipe, model, plan.info).after(encoded_plans(plan, encoded))
    reports = []
    weights = find_weights(model)
    for layer in plan.compressed:
        weight, _, report, stored = encoded[layer.name]
        curve = parametrize_(weights[layer.name], weight, report.curve.precision, report.errors)
        if plan.recipe.positions is Positions.CODED:
            curve.coded = stored
        reports.append(replace(report, seconds=report.seconds + order_seconds.get(layer.name, 0.0)))
    remember_(model, plan.recipe, digest)
    round_dense_(model)
    return Report(tuple(reports), plan.before, replace(after, bytes=written_size(model, plan.info or ModelInfo())))


def _allocate_coefficients(model: nn.Module, plan: Plan, orders: Orders) -> Plan:
    """Distribute the plan's coefficients over the layers so that the weighted sum of relative errors is smallest."""
    layers = plan.compressed

    def energies(layer: LayerPlan) -> NDArray[np.float64]:
        weight, groups = dense_weight(model, layer), layer.encoding.groups
        energy = spectrum(weight, orders[layer.name, groups], groups).double().square().sum(0)  # (columns,)
        relative = energy / energy.sum().clamp_min(1e-300) * layer.importance
        return relative.numpy()

    counts = allocate(
        [energies(layer) for layer in layers],
        [layer.encoding.coefficients_per_row for layer in layers],
        [layer.encoding.length for layer in layers],
    )
    allocated = {
        layer.name: replace(layer, curve=replace(layer.encoding, coefficients_per_row=n))
        for layer, n in zip(layers, counts, strict=True)
    }
    updated = tuple(allocated.get(layer.name, layer) for layer in plan.layers)
    return replace(plan, layers=updated, after=FileEstimate(plan.recipe, model, plan.info).after(updated))
