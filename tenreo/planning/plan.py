"""Plans: the decision for every layer of a model, checked before anything is changed."""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from tenreo.devices import public_function
from tenreo.errors import counted
from tenreo.files.counts import Counts
from tenreo.files.records import ModelInfo
from tenreo.modules.weights import find_weights
from tenreo.modules.wrappers import unwrapped
from tenreo.planning.candidates import curves_by_candidates
from tenreo.planning.dense_storage import check_storable
from tenreo.planning.file_estimate import FileEstimate
from tenreo.planning.growth import curves_by_growth, curves_by_rate
from tenreo.planning.layers import (
    DENSE_IN_RECIPE,
    EXCLUDED,
    NOT_IN_RULE,
    NOT_INCLUDED,
    LayerPlan,
    find_layers,
    require_compressed,
)
from tenreo.planning.pricing import curves_by_price
from tenreo.planning.rates import Progressive, RelativeSize
from tenreo.planning.recipe import Recipe, Strategy, check_recipe
from tenreo.planning.rules import rule_for, traits_of_model
from tenreo.planning.summary import Summarized
from tenreo.sizes import byte_count


@dataclass(frozen=True, repr=False)
class Plan(Summarized):
    """The decisions for a whole model, and its counts before and after compression.

    Attributes:
        recipe: the recipe; a target that a growth reaches is replaced by that progressive rate.
        layers: all layers, compressed or dense.
        before: counts of the dense model.
        after: counts of the compressed model, and size of its file: upper bounds with entropy-coded positions,
            estimates with a price.
        strategy: how the curves were chosen.
        info: description of the model that the file will contain; None if it is unknown.
        price: estimated Lagrange multiplier (squared error per bit) that reaches the target; 0 if unused.
    """

    recipe: Recipe
    layers: tuple[LayerPlan, ...]
    before: Counts
    after: Counts
    strategy: Strategy = field(compare=False)  # a growth that was searched for equals the same growth that was given
    info: ModelInfo | None = None
    price: float = 0.0

    @property
    def coverage(self) -> float:
        """The fraction of the model's parameters that are elements of compressed weights."""
        return self.after.weights / max(1, self.before.dense_parameters)

    @property
    def compressed(self) -> tuple[LayerPlan, ...]:
        """The layers that will be compressed."""
        return tuple(layer for layer in self.layers if layer.curve)

    @property
    def skipped(self) -> tuple[LayerPlan, ...]:
        """The layers that the recipe includes but that cannot be compressed."""
        stated = ("", EXCLUDED, NOT_INCLUDED, DENSE_IN_RECIPE)
        return tuple(layer for layer in self.layers if self.recipe.include and layer.why_dense not in stated)

    @property
    def left_by_rule(self) -> tuple[LayerPlan, ...]:
        """The layers that could be compressed, but that the rule leaves dense."""
        return tuple(layer for layer in self.layers if layer.why_dense.startswith(NOT_IN_RULE))

    def __str__(self) -> str:
        compressed = f"{counted(len(self.compressed), 'layer')} of {len(self.layers):,} compressed"
        return (
            f"Plan: {byte_count(self.before.bytes)} -> about {byte_count(self.after.bytes)}\n"
            f"{compressed}, {100 * self.coverage:.1f} % of the parameters; curves: {self.strategy}\n"
            f"recipe: {self.recipe}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as values that JSON can represent."""
        return {
            "recipe": self.recipe.to_dict(),
            "strategy": self.strategy,
            "coverage": self.coverage,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "layers": [layer.to_dict() for layer in self.layers],
        }


@public_function()
def resolve(recipe: Recipe, model: nn.Module, info: ModelInfo | None = None) -> Plan:
    """Decide for every weight of a model how it is compressed; the model is not changed.

    >>> from tenreo import Uniform
    >>> plan = resolve(Recipe(4, Uniform(2.0)), nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10)))
    >>> [(layer.name, layer.columns, layer.why_dense) for layer in plan.layers]
    [('0', 1024, ''), ('1', 0, 'not in the general rule')]

    Args:
        recipe: how to compress.
        model: any module, also wrapped in DataParallel or the like; its tensors may be on the meta device.
        info: description of the model that the file will contain. Its header counts towards a target size.

    Returns:
        The plan. If a growth was searched for, the recipe of the plan has this growth as its rate.

    Raises:
        TenreoError: when a pattern matches no layer or includes one that cannot be compressed, when no layer is left
            to compress, when a target is out of reach, and when a file cannot store a tensor of the model.
    """
    model = unwrapped(model)
    check_recipe(recipe)
    rule, weights = rule_for(model), find_weights(model)
    layers, reference_numel = find_layers(recipe, traits_of_model(model), rule), rule.reference_numel
    estimate = FileEstimate(recipe, model, info)
    if isinstance(recipe.rate, RelativeSize):
        before = estimate.before
        recipe = replace(recipe, rate=recipe.rate.size(before.parameters, before.bytes))
        estimate = FileEstimate(recipe, model, info)
    strategy, price = recipe.strategy, 0.0
    if strategy is Strategy.RATE:
        layers = list(curves_by_rate(recipe, layers, reference_numel))
    elif strategy is Strategy.GROWTH:
        growth, layers = curves_by_growth(recipe, layers, reference_numel, estimate)
        recipe = replace(recipe, rate=Progressive(growth))
        estimate = FileEstimate(recipe, model, info)
    elif strategy is Strategy.CANDIDATES:
        layers = curves_by_candidates(recipe, layers, weights, estimate)
    else:
        price, layers = curves_by_price(recipe, layers, weights, estimate)
    require_compressed(layers)
    check_storable(model, recipe.dense_dtype, {layer.parameter for layer in layers if layer.curve})
    estimate.check_header(layers)
    return Plan(recipe, tuple(layers), estimate.before, estimate.after(layers), strategy, info, price)
