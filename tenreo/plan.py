"""Recipe and model to one decision per layer; every check is made here, nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenreo.errors import TenreoError
from tenreo.recipe import Recipe
from tenreo.report import COEFFICIENTS, POSITIONS, Counts, count
from tenreo.rules import rule_for


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer.

    Attributes:
        name: of the module that holds the weight.
        shape: of its weight.
        groups: rows.
        columns: points on the path.
        kept: coefficients per row; 0 where the layer is left dense.
        why_dense: the reason, empty where it is compressed.
    """

    name: str
    shape: tuple[int, ...]
    groups: int = 0
    columns: int = 0
    kept: int = 0
    why_dense: str = ""


@dataclass(frozen=True)
class Plan:
    """The decisions for a whole model, and the counts before and after, which follow from them."""

    recipe: Recipe
    layers: tuple[LayerPlan, ...]
    before: Counts
    after: Counts

    @property
    def compressed(self) -> tuple[LayerPlan, ...]:
        """The layers that will be compressed."""
        return tuple(layer for layer in self.layers if not layer.why_dense)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON can hold it."""
        return {
            "recipe": self.recipe.to_dict(),
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "layers": [vars(layer) for layer in self.layers],
        }


def resolve(recipe: Recipe, model: nn.Module) -> Plan:
    """Decide for every Conv2d and Linear of a model; change nothing.

    Args:
        recipe: what was asked for.
        model: any module; tensors may be on the meta device.

    Raises:
        TenreoError: when a pattern matches no layer, a chosen weight is shared with another layer
            or the model is compressed already, and when nothing is left to compress.
    """
    layers = dict(_layers(model))
    _check_patterns(recipe, layers)
    rule = rule_for(model)
    first = next((name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)), None)
    plans = []
    for name, layer in layers.items():
        if any(fnmatchcase(name, p) for p in recipe.exclude):
            plans.append(_dense(name, layer, "excluded"))
        elif recipe.include and not any(fnmatchcase(name, p) for p in recipe.include):
            plans.append(_dense(name, layer, "not included"))
        elif not recipe.include and not rule.takes(name, layer, name == first):
            plans.append(_dense(name, layer, f"not in the {rule.name} rule"))
        else:
            plans.append(_decide(name, layer, recipe, rule.reference_numel))
    _check_shared(model, plans)
    if all(plan.why_dense for plan in plans):
        reasons = sorted({plan.why_dense for plan in plans}) or ["no Conv2d or Linear in the model"]
        raise TenreoError(
            f"plan: nothing is left to compress ({'; '.join(reasons[:3])}); "
            "choose other groups, or name layers with include"
        )
    return Plan(recipe, tuple(plans), *_counts(model, plans))


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
    for option in ("include", "exclude"):
        for pattern in getattr(recipe, option):
            if not any(fnmatchcase(name, pattern) for name in layers):
                examples = ", ".join(list(layers)[-3:])
                raise TenreoError(
                    f"{option}: pattern {pattern!r} matches no Conv2d or Linear layer; "
                    f"names look like {examples}"
                )


def _shape(layer: nn.Module) -> tuple[int, ...]:
    return tuple(layer.weight.shape)  # type: ignore[union-attr, arg-type]


def _dense(name: str, layer: nn.Module, why: str) -> LayerPlan:
    return LayerPlan(name, _shape(layer), why_dense=why)


def _decide(name: str, layer: nn.Module, recipe: Recipe, reference_numel: int) -> LayerPlan:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    numel = weight.numel()
    if not weight.is_floating_point():
        return _dense(name, layer, f"{weight.dtype} is not floating point")
    if numel == 0 or numel % recipe.groups:
        return _dense(name, layer, f"{recipe.groups} groups do not divide {numel} elements")
    columns = numel // recipe.groups
    kept = max(1, int(columns / recipe.rate.of(numel, reference_numel)))
    return LayerPlan(name, _shape(layer), recipe.groups, columns, kept)


def _check_shared(model: nn.Module, plans: list[LayerPlan]) -> None:
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for plan in plans:
        if plan.why_dense:
            continue
        shared = owners[id(model.get_submodule(plan.name).weight)]
        if len(shared) > 1:
            raise TenreoError(
                f"plan: {shared[0]} and {shared[1]} are one tensor, which can not be compressed; "
                f"leave it dense with exclude {plan.name!r}, or untie the two"
            )


def _counts(model: nn.Module, plans: list[LayerPlan]) -> tuple[Counts, Counts]:
    before = [
        (name, t.numel(), t.element_size(), t.is_floating_point()) for name, t in model.state_dict().items()
    ]
    after = {name: (name, *rest) for name, *rest in before}
    for plan in plans:
        if not plan.why_dense:
            prefix = plan.name + "." if plan.name else ""
            _, _, itemsize, _ = after.pop(f"{prefix}weight")
            after[plan.name + COEFFICIENTS] = (
                plan.name + COEFFICIENTS,
                plan.groups * plan.kept,
                itemsize,
                True,
            )
            after[plan.name + POSITIONS] = (plan.name + POSITIONS, plan.columns, 4, False)
    return count(before), count(after.values())
