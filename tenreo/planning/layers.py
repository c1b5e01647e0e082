"""The layers of a model: which of them a recipe compresses, and the decision for each."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from tenreo.codec.shape import CurveShape
from tenreo.errors import TenreoError
from tenreo.files.records import LayerErrors, LayerRecord
from tenreo.planning.recipe import DENSE, Recipe
from tenreo.planning.rules import Rule, Traits

# Reasons to leave a layer dense that the recipe states itself.
NOT_IN_RULE = "not in the"  # followed by the name of the rule
EXCLUDED, NOT_INCLUDED, DENSE_IN_RECIPE = "excluded", "not included", "dense in the recipe"


@dataclass(frozen=True)
class LayerPlan:
    """The decision for one layer.

    Attributes:
        name: name of the module that has the weight, followed by the name of the tensor unless that is "weight".
        shape: shape of the weight.
        curve: shape of the encoding; None if the layer is left dense or its curve is not chosen yet.
        why_dense: the reason to leave the layer dense; empty if it is compressed.
        parameter: name of the weight in the state dict of the dense model.
        importance: factor of the layer's error when bits are distributed.
        own: the recipe's settings for this layer alone.
        position_bytes: bytes of the positions in a file, exact or estimated; None stands for the maximum.
        errors: distortion of the compressed weight, exact or estimated; empty if it is unknown.
    """

    name: str
    shape: tuple[int, ...]
    curve: CurveShape | None = None
    why_dense: str = ""
    parameter: str = ""
    importance: float = 1.0
    own: Mapping[str, Any] = field(default_factory=dict)
    position_bytes: int | None = None
    errors: LayerErrors = LayerErrors()

    @property
    def numel(self) -> int:
        """Number of elements of the weight."""
        return math.prod(self.shape)

    @property
    def columns(self) -> int:
        """Columns of the reshaped weight; 0 if the layer has no curve."""
        return self.curve.columns(self.numel) if self.curve else 0

    @property
    def record(self) -> LayerRecord:
        """The layer's record in a file's header, without its errors."""
        return LayerRecord(self.shape, self.encoding)

    @property
    def encoding(self) -> CurveShape:
        """The curve of a layer that is compressed.

        Raises:
            ValueError: when the layer has none.
        """
        if self.curve is None:
            raise ValueError(f"{self.name} is left dense")
        return self.curve

    def to_dict(self) -> dict[str, Any]:
        """Return the layer as values that JSON can represent."""
        curve = vars(self.curve) if self.curve else {}
        return {
            "name": self.name, "shape": list(self.shape), **curve, "columns": self.columns, "why_dense": self.why_dense,
        }  # fmt: skip


def find_layers(recipe: Recipe, weights: Sequence[Traits], rule: Rule) -> list[LayerPlan]:
    """Return a decision without a curve for every weight of a model or file: its settings, or why it is left dense.

    A pattern of `include` may match weights that cannot be compressed, which are then left dense; a name may not.

    Args:
        recipe: how to compress.
        weights: all weights.
        rule: choice of weights unless the recipe includes some.

    Raises:
        TenreoError: when a pattern matches no weight, or `include` names a weight that cannot be compressed.
    """
    _check_patterns(recipe, weights)

    def why_dense(weight: Traits) -> str:
        """Return why the recipe leaves a weight dense; an empty text if it does not."""
        if matches(weight, recipe.exclude):
            return EXCLUDED
        if recipe.include and not matches(weight, recipe.include):
            return NOT_INCLUDED
        why = weight.why_incompressible
        if why:
            check_not_named(weight, recipe, why)
        if not why and not recipe.include and not rule.compresses(weight):
            return f"{NOT_IN_RULE} {rule.name} rule"
        return why

    def plan(weight: Traits) -> LayerPlan:
        """Return the plan of a weight without a curve."""
        own = _last_match(weight, recipe.layers, {})
        why = DENSE_IN_RECIPE if own == DENSE else why_dense(weight)
        return LayerPlan(
            weight.name, weight.shape, why_dense=why, parameter=weight.parameter,
            importance=_last_match(weight, recipe.importance, 1.0), own={} if own == DENSE else own,
        )  # fmt: skip

    return [plan(weight) for weight in weights]


def check_not_named(weight: Traits | LayerPlan, recipe: Recipe, why: str) -> None:
    """Raise TenreoError if `include` contains the name, not only a pattern, of a weight that cannot be compressed."""
    if {weight.name, weight.parameter} & {*recipe.include}:
        raise TenreoError(f"include: {weight.name} cannot be compressed: {why}")


def require_compressed(layers: Sequence[LayerPlan]) -> None:
    """Check that a layer has a curve.

    Raises:
        TenreoError: with the reasons to leave the layers dense.
    """
    if not any(layer.curve for layer in layers):
        reasons = sorted({layer.why_dense for layer in layers}) or ["the model has no weight of two dimensions or more"]
        raise TenreoError(
            f"plan: nothing is left to compress ({'; '.join(reasons[:3])}); "
            "choose other groups, or name layers with include"
        )


def matches(weight: Traits, patterns: Iterable[str]) -> bool:
    """Whether a pattern matches the name of a layer or of its parameter in a state dict."""
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in (weight.name, weight.parameter))


def _last_match(weight: Traits, values: Mapping[str, Any], default: Any) -> Any:
    """Return the value of the last pattern that matches a layer."""
    return next((values[p] for p in reversed(list(values)) if matches(weight, [p])), default)


def _check_patterns(recipe: Recipe, weights: Sequence[Traits]) -> None:
    for option in ("include", "exclude", "importance", "layers"):
        for pattern in getattr(recipe, option):
            if not any(matches(weight, [pattern]) for weight in weights):
                examples = ", ".join(weight.name for weight in weights[-3:]) or "nothing: the model has no weights"
                raise TenreoError(
                    f"{option}: pattern {pattern!r} matches no weight of the model; names look like {examples}"
                )
