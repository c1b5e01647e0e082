"""The layers of a model: which are to be compressed, and what happens to each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenreo.codec.shape import CurveShape
from tenreo.errors import TenreoError
from tenreo.files.records import LayerRecord
from tenreo.planning.recipe import Recipe
from tenreo.planning.rules import Rule


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer.

    Attributes:
        name: of the module that holds the weight.
        shape: of its weight.
        curve: the shape of its encoding; None where the layer is left dense.
        why_dense: the reason, empty where it is compressed.
    """

    name: str
    shape: tuple[int, ...]
    curve: CurveShape | None = None
    why_dense: str = ""

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


def find_layers(recipe: Recipe, model: nn.Module, rule: Rule) -> dict[str, LayerPlan]:
    """Every Conv2d and Linear of a model; those to be left dense whatever the rate say why.

    Raises:
        TenreoError: when a pattern matches no layer, a chosen weight is shared with another layer, or the model
            is compressed already.
    """
    layers = dict(_layers(model))
    _check_patterns(recipe, layers)
    first = next((name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)), None)

    def why_dense(name: str, layer: nn.Module) -> str:
        weight = weight_of(layer)
        if matches(name, recipe.exclude):
            return "excluded"
        if recipe.include and not matches(name, recipe.include):
            return "not included"
        if not recipe.include and not rule.takes(name, layer, name == first):
            return f"not in the {rule.name} rule"
        if not weight.is_floating_point():
            return f"{weight.dtype} is not floating point"
        return ""

    plans = {
        name: LayerPlan(name, tuple(weight_of(layer).shape), why_dense=why_dense(name, layer))
        for name, layer in layers.items()
    }
    _check_shared(model, plans)
    return plans


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer that has one."""
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight")
    return weight


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a layer's name matches one of some patterns.

    >>> matches("layer1.0.conv1", ["layer1.*"])
    True
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def importance(name: str, recipe: Recipe) -> float:
    """The weight of a layer's relative error; that of the last pattern that matches its name."""
    found = (w for pattern, w in reversed(recipe.importance.items()) if matches(name, [pattern]))
    return next(found, 1.0)


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            if parametrize.is_parametrized(layer, "weight"):
                kind = type(layer.parametrizations["weight"][0]).__name__  # type: ignore[index]
                raise TenreoError(
                    f"plan: the weight of {name or 'the model'} is already parametrized ({kind}); "
                    "call tenreo.expand_(model) or remove the parametrization first"
                )
            if isinstance(layer.weight, nn.parameter.UninitializedParameter):
                raise TenreoError(f"plan: {name} is lazy; run the model once so that it has its shape")
            yield name, layer


def _check_patterns(recipe: Recipe, layers: dict[str, nn.Module]) -> None:
    for option in ("include", "exclude", "importance"):
        for pattern in getattr(recipe, option):
            if not any(fnmatchcase(name, pattern) for name in layers):
                examples = ", ".join(list(layers)[-3:])
                raise TenreoError(
                    f"{option}: pattern {pattern!r} matches no Conv2d or Linear layer; names look like {examples}"
                )


def _check_shared(model: nn.Module, plans: dict[str, LayerPlan]) -> None:
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for name, plan in plans.items():
        if plan.why_dense:
            continue
        shared = owners[id(model.get_submodule(name).weight)]
        if len(shared) > 1:
            raise TenreoError(
                f"plan: {shared[0]} and {shared[1]} are one tensor, which can not be compressed; "
                f"leave it dense with exclude {name!r}, or untie the two"
            )
