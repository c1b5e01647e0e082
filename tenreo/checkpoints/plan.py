"""The plan of a compression without a model, from the names, dtypes and shapes of tensors."""

from dataclasses import replace

from tenreo.checkpoints.sources import Source
from tenreo.codec.rate_distortion import MEMORY
from tenreo.codec.shape import RAMP_COEFFICIENTS, Basis, CurveShape, Precision
from tenreo.errors import TenreoError
from tenreo.files.counts import count
from tenreo.files.layout import layer_tensors
from tenreo.planning.growth import curves_by_rate
from tenreo.planning.layers import LayerPlan, find_layers, require_compressed
from tenreo.planning.plan import Plan
from tenreo.planning.rates import RelativeSize
from tenreo.planning.recipe import Recipe, Strategy
from tenreo.planning.rules import GENERAL

_SAMPLES = 9  # of a ramp before its price is known


def resolve_tensors(recipe: Recipe, source: Source) -> Plan:
    """Decide for every tensor how it is compressed.

    Args:
        recipe: a rate, or a size of all files together; other targets need a model that runs.
        source: dense tensors.

    Returns:
        The plan. With a size, its curves are known only after encoding.

    Raises:
        TenreoError: when a pattern matches no tensor, nothing can be compressed, or the recipe needs a model.
    """
    before = count(source.tensors)
    if isinstance(recipe.rate, RelativeSize):
        recipe = replace(recipe, rate=recipe.rate.size(before.parameters, before.bytes))
    if recipe.strategy not in (Strategy.RATE, Strategy.PRICE) or recipe.rate.name in ("target_kl", "target_agreement"):
        raise TenreoError(
            f"{recipe.rate.name}: needs the model's code with these options, since nothing runs here; give a rate, or "
            "a size without groups, refine and pack"
        )
    if recipe.allocate:
        raise TenreoError("allocate: needs all tensors in memory; leave it out, or name the model")
    layers = find_layers(recipe, source.traits, GENERAL)
    if recipe.strategy is Strategy.RATE:
        layers = list(curves_by_rate(recipe, layers, GENERAL.reference_numel))
    else:
        layers = [layer if layer.why_dense else _with_ramp(layer, recipe) for layer in layers]
    require_compressed(layers)
    compressed = {layer.parameter: layer for layer in layers if layer.curve}
    after = count({name: each for name, each in source.tensors.items() if name not in compressed})
    for name, layer in compressed.items():
        stored = layer_tensors(replace(layer.record, positions=recipe.positions), source.tensors[name].dtype)
        after += count({name + suffix: each for suffix, each in stored.items()}, {layer.name: layer.record})
    return Plan(recipe, tuple(layers), before, after, recipe.strategy)


def _with_ramp(layer: LayerPlan, recipe: Recipe) -> LayerPlan:
    precision = recipe.of_layer(layer.own).precision or Precision.FLOAT32
    return replace(layer, curve=CurveShape(1, _SAMPLES, RAMP_COEFFICIENTS, precision, MEMORY, Basis.RAMP))
