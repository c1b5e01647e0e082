"""The layers of a model: which are to be compressed, and what happens to each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenreo.codec.shape import CurveShape
from tenreo.errors import TenreoError
from tenreo.files.records import LayerRecord
from tenreo.planning.recipe import Recipe
from tenreo.planning.rules import Rule

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


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
        TenreoError: when a pattern matches no layer, or one of `include` names a layer that can not be compressed.
    """
    layers = {n: layer for n, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    _check_patterns(recipe, layers)
    first = next((name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)), None)
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)

    def why_dense(name: str, layer: nn.Module) -> str:
        if matches(name, recipe.exclude):
            return "excluded"
        if recipe.include and not matches(name, recipe.include):
            return "not included"
        obstacle = _obstacle(layer, owners)
        if obstacle and recipe.include:
            raise TenreoError(f"include: {name or 'the model'} can not be compressed: {obstacle}")
        if not obstacle and not recipe.include and not rule.takes(name, layer, name == first):
            return f"not in the {rule.name} rule"
        return obstacle

    return {name: LayerPlan(name, _shape(layer), why_dense=why_dense(name, layer)) for name, layer in layers.items()}


def _obstacle(layer: nn.Module, owners: Mapping[int, list[str]]) -> str:
    """Why a layer's weight can not be replaced by a curve; empty where it can.

    Args:
        layer: a Conv2d or Linear.
        owners: identity of a parameter -> its names.
    """
    if parametrize.is_parametrized(layer, "weight"):
        kind = type(layer.get_submodule("parametrizations.weight.0")).__name__
        return f"its weight is parametrized already ({kind}); tenreo.expand_ or remove_parametrizations undoes that"
    weight = layer._parameters.get("weight")
    if weight is None:
        return "its weight is computed by a hook, as pruning and weight_norm do; remove that first"
    if isinstance(weight, nn.parameter.UninitializedParameter):
        return "its weight is not initialized yet; run the model once"
    if type(weight.data) is not Tensor:
        return f"its weight is a {type(weight.data).__name__}, no plain tensor"
    if weight.dtype not in _DTYPES:
        return f"its weight is {weight.dtype}, not one of {', '.join(str(dtype) for dtype in _DTYPES)}"
    names = owners[id(weight)]
    return f"its weight is shared: {' and '.join(names[:3])} are one tensor" if len(names) > 1 else ""


def _shape(layer: nn.Module) -> tuple[int, ...]:
    """Of a layer's weight; () where there is none yet."""
    weight = layer.weight
    if not isinstance(weight, Tensor) or isinstance(weight, nn.parameter.UninitializedParameter):
        return ()
    return tuple(weight.shape)


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer that has one."""
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight")
    return weight


def norm(layer: nn.Module) -> float:
    """The Euclidean norm of a layer's weight; 1 where it has no values that could say."""
    weight = weight_of(layer).detach()
    value = 1.0 if weight.is_meta else weight.double().norm().item()
    return value if math.isfinite(value) and value > 0 else 1.0


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


def _check_patterns(recipe: Recipe, layers: Mapping[str, nn.Module]) -> None:
    for option in ("include", "exclude", "importance"):
        for pattern in getattr(recipe, option):
            if not any(fnmatchcase(name, pattern) for name in layers):
                examples = ", ".join(list(layers)[-3:])
                raise TenreoError(
                    f"{option}: pattern {pattern!r} matches no Conv2d or Linear layer; names look like {examples}"
                )
