"""The layers of a model: which are to be compressed, and what happens to each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenreo.errors import TenreoError
from tenreo.header import ITEMSIZE, LayerEntry
from tenreo.recipe import Recipe
from tenreo.report import COEFFICIENTS
from tenreo.rules import Rule
from tenreo.sizes import PRECISIONS, width_of


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer.

    Attributes:
        name: of the module that holds the weight.
        shape: of its weight.
        groups: rows.
        length: samples on the curve.
        kept: coefficients per row; 0 where the layer is left dense.
        precision: of the coefficients in a file.
        why_dense: the reason, empty where it is compressed.
    """

    name: str
    shape: tuple[int, ...]
    groups: int = 0
    length: int = 0
    kept: int = 0
    precision: str = ""
    why_dense: str = ""

    @property
    def numel(self) -> int:
        """Elements of the weight."""
        return math.prod(self.shape)

    @property
    def columns(self) -> int:
        """Points on the path; 0 where the layer is left dense."""
        return self.numel // self.groups if self.groups else 0

    def tensors(self, itemsize: int) -> Iterator[tuple[str, int, int, bool]]:
        """What the layer is in a file, as `count` takes it; itemsize is that of the dense weight."""
        entry = LayerEntry(
            self.shape, self.groups, self.length, self.kept,
            position_bits=width_of(self.length), precision=self.precision,
        )  # fmt: skip
        floats = itemsize if self.precision == "float32" else PRECISIONS[self.precision] // 8
        for suffix, (dtypes, shape) in entry.tensors().items():
            size = floats if len(dtypes) > 1 else ITEMSIZE[dtypes[0]]
            yield self.name + suffix, entry.numbers(suffix), math.prod(shape) * size, suffix == COEFFICIENTS

    def bytes(self, itemsize: int) -> int:
        """Of the layer's weight in a file."""
        return sum(size for _, _, size, _ in self.tensors(itemsize))


def candidates(recipe: Recipe, model: nn.Module, rule: Rule) -> dict[str, LayerPlan]:
    """Every Conv2d and Linear of a model; those to be left dense whatever the rate say why.

    Raises:
        TenreoError: when a pattern matches no layer, a chosen weight is shared with another layer, or the model
            is compressed already.
    """
    layers = dict(_layers(model))
    _check_patterns(recipe, layers)
    first = next((name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)), None)

    def why_dense(name: str, layer: nn.Module) -> str:
        weight = layer.weight
        assert isinstance(weight, Tensor)
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
        name: LayerPlan(name, tuple(layer.weight.shape), why_dense=why_dense(name, layer))  # type: ignore[union-attr, arg-type]
        for name, layer in layers.items()
    }
    _check_shared(model, plans)
    return plans


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a layer's name matches one of some patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


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
                    f"{option}: pattern {pattern!r} matches no Conv2d or Linear layer; "
                    f"names look like {examples}"
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
