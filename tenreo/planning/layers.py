"""The layers of a model: which are to be compressed, and what happens to each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from tenreo.codec.shape import CurveShape
from tenreo.errors import TenreoError
from tenreo.files.records import LayerRecord
from tenreo.modules.weights import Weight, find_weights, obstacle, owners
from tenreo.planning.recipe import DENSE, Recipe
from tenreo.planning.rules import CONVOLUTIONS, choice_for


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer.

    Attributes:
        name: of the module that holds the weight; with that of the tensor, unless it is called weight.
        shape: of its weight.
        curve: the shape of its encoding; None where the layer is left dense.
        why_dense: the reason, empty where it is compressed.
        parameter: the weight's name in a dense model's state dict.
        importance: factor of its error, where bits are distributed.
        own: what the recipe says of this layer alone.
        position_bytes: of its positions in a file, where they were coded or could be estimated; None stands for as
            many as there can be.
    """

    name: str
    shape: tuple[int, ...]
    curve: CurveShape | None = None
    why_dense: str = ""
    parameter: str = ""
    importance: float = 1.0
    own: Mapping[str, Any] = field(default_factory=dict)
    position_bytes: int | None = None

    @property
    def numel(self) -> int:
        """Elements of the weight."""
        return math.prod(self.shape)

    @property
    def columns(self) -> int:
        """Columns of the reshaped weight; 0 where the layer is left dense."""
        return self.curve.columns(self.numel) if self.curve else 0

    @property
    def record(self) -> LayerRecord:
        """The layer as a file will describe it, its errors unknown."""
        return LayerRecord(self.shape, self.encoding)

    @property
    def encoding(self) -> CurveShape:
        """The shape of the encoding of a layer that is compressed."""
        if self.curve is None:
            raise ValueError(f"{self.name} is left dense")
        return self.curve

    def to_dict(self) -> dict[str, Any]:
        """The layer as JSON can hold it."""
        curve = vars(self.curve) if self.curve else {}
        return {
            "name": self.name, "shape": list(self.shape), **curve, "columns": self.columns, "why_dense": self.why_dense,
        }  # fmt: skip


def find_layers(recipe: Recipe, model: nn.Module) -> dict[str, LayerPlan]:
    """Every weight of a model that could be compressed; those to be left dense whatever the rate say why.

    Raises:
        TenreoError: when a pattern matches no weight, or one of `include` names a weight that can not be compressed.
    """
    weights = find_weights(model)
    _check_patterns(recipe, weights)
    choice, names = choice_for(model), owners(model)
    first = next((name for name, weight in weights.items() if isinstance(weight.module, CONVOLUTIONS)), None)

    def why_dense(weight: Weight) -> str:
        if matches(weight, recipe.exclude):
            return "excluded"
        if recipe.include and not matches(weight, recipe.include):
            return "not included"
        why = obstacle(weight, names)
        if why and recipe.include:
            raise TenreoError(f"include: {weight.name or 'the model'} can not be compressed: {why}")
        if not why and not recipe.include and not choice.takes(weight, weight.name == first):
            return f"not in the {choice.rule.name} rule"
        return why

    def plan(weight: Weight) -> LayerPlan:
        own = _last_match(weight, recipe.layers, {})
        why = "dense in the recipe" if own == DENSE else why_dense(weight)
        return LayerPlan(
            weight.name, weight.shape, why_dense=why, parameter=weight.parameter,
            importance=_last_match(weight, recipe.importance, 1.0), own={} if own == DENSE else own,
        )  # fmt: skip

    return {name: plan(weight) for name, weight in weights.items()}


def matches(weight: Weight, patterns: Iterable[str]) -> bool:
    """Whether one of some patterns matches the name of a layer, or of its parameter in a state dict.

    >>> matches(Weight(nn.Linear(4, 4), "weight", "layer1.0.fc"), ["layer1.*"])
    True
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in (weight.name, weight.parameter))


def _last_match(weight: Weight, values: Mapping[str, Any], default: Any) -> Any:
    """The value of the last pattern that matches a layer's name."""
    return next((values[p] for p in reversed(list(values)) if matches(weight, [p])), default)


def _check_patterns(recipe: Recipe, weights: Mapping[str, Weight]) -> None:
    for option in ("include", "exclude", "importance", "layers"):
        for pattern in getattr(recipe, option):
            if not any(matches(weight, [pattern]) for weight in weights.values()):
                examples = ", ".join(list(weights)[-3:]) or "nothing: the model has no weights"
                raise TenreoError(
                    f"{option}: pattern {pattern!r} matches no weight of the model; names look like {examples}"
                )
