"""Recipe and model to one decision per layer; every check is made here, nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from tenreo import target
from tenreo.errors import TenreoError
from tenreo.layers import LayerPlan, candidates, matches
from tenreo.rates import Progressive, TargetParameters, TargetSize, Uniform
from tenreo.recipe import Recipe
from tenreo.report import Counts, count
from tenreo.rules import Rule, rule_for

__all__ = ["LayerPlan", "Plan", "arranged", "file_size", "resolve"]


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
            "layers": [{**vars(layer), "columns": layer.columns} for layer in self.layers],
        }


def resolve(recipe: Recipe, model: nn.Module) -> Plan:
    """Decide for every Conv2d and Linear of a model; change nothing.

    Args:
        recipe: what was asked for.
        model: any module; tensors may be on the meta device.

    Returns:
        The plan; where the recipe asks for a total of parameters, the plan's has the growth that was found.

    Raises:
        TenreoError: when a pattern matches no layer, a chosen weight is shared with another layer
            or the model is compressed already, when nothing is left to compress, and when a target is out of reach.
    """
    rule = rule_for(model)
    plans = candidates(recipe, model, rule)
    if recipe.chooses:
        return _of_size(recipe, model, plans)
    if isinstance(recipe.rate, (TargetSize, TargetParameters)):
        return _of_total(recipe, model, plans, rule)
    return _of_rate(recipe, model, plans, rule)


def arranged(recipe: Recipe, model: nn.Module, layers: Iterable[LayerPlan]) -> Plan:
    """A plan of given decisions, counted.

    Raises:
        TenreoError: when no layer is to be compressed.
    """
    layers = tuple(layers)
    if all(layer.why_dense for layer in layers):
        reasons = sorted({layer.why_dense for layer in layers}) or ["no Conv2d or Linear in the model"]
        raise TenreoError(
            f"plan: nothing is left to compress ({'; '.join(reasons[:3])}); "
            "choose other groups, or name layers with include"
        )
    return Plan(recipe, layers, *_counts(recipe, model, layers))


def _of_rate(recipe: Recipe, model: nn.Module, plans: dict[str, LayerPlan], rule: Rule) -> Plan:
    def decide(plan: LayerPlan) -> LayerPlan:
        assert recipe.groups is not None and isinstance(recipe.rate, (Uniform, Progressive))
        if plan.why_dense:
            return plan
        if plan.numel == 0 or plan.numel % recipe.groups:
            return replace(plan, why_dense=f"{recipe.groups} groups do not divide {plan.numel} elements")
        columns = plan.numel // recipe.groups
        length = min(columns, 2**recipe.position_bits) if recipe.position_bits else columns
        kept = min(length, max(1, int(columns / recipe.rate.of(plan.numel, rule.reference_numel))))
        return replace(
            plan, groups=recipe.groups, length=length, kept=kept, precision=recipe.coefficients or "float32"
        )

    return arranged(recipe, model, map(decide, plans.values()))


def _of_total(recipe: Recipe, model: nn.Module, plans: dict[str, LayerPlan], rule: Rule) -> Plan:
    """The smallest progressive growth that reaches a total of parameters or bytes."""
    size = isinstance(recipe.rate, TargetSize)

    def plan(growth: float) -> Plan:
        return _of_rate(replace(recipe, rate=Progressive(growth)), model, plans, rule)

    def total(growth: float) -> int:
        found = plan(growth)
        return file_size(found, model) if size else found.after.parameters

    growth = target.smallest_growth(lambda growth: total(growth) <= recipe.strength)
    if growth is None:
        raise _out_of_reach(recipe, total(target.LARGEST))
    return plan(growth)


def _of_size(recipe: Recipe, model: nn.Module, plans: dict[str, LayerPlan]) -> Plan:
    """The curves with the smallest expected error in a file of at most so many bytes."""
    wanted = [plan for plan in plans.values() if not plan.why_dense]
    options = [target.options(plan.numel, recipe) for plan in wanted]
    for plan, offered in zip(wanted, options, strict=True):
        if not offered:
            plans[plan.name] = replace(plan, why_dense=f"no choice of groups divides {plan.numel} elements")
    sized = [(plan, offered) for plan, offered in zip(wanted, options, strict=True) if offered]

    def curves(choices: Iterable[target.Option]) -> Plan:
        chosen = {
            plan.name: replace(plan, groups=c.groups, length=c.length, kept=c.kept, precision=c.precision)
            for (plan, _), c in zip(sized, choices, strict=True)
        }
        return arranged(recipe, model, (chosen.get(name, plan) for name, plan in plans.items()))

    least = curves(min(offered, key=lambda option: option.bytes) for _, offered in sized)
    room = int(recipe.strength) - file_size(least, model) + least.after.weight_bytes
    weights = [importance(plan.name, recipe) for plan, _ in sized]
    while room >= least.after.weight_bytes:
        found = curves(target.spread([offered for _, offered in sized], weights, room))
        excess = file_size(found, model) - int(recipe.strength)
        if excess <= 0:
            return found
        room -= excess  # the header grew with the numbers in it
    if file_size(least, model) > recipe.strength:
        raise _out_of_reach(recipe, file_size(least, model))
    return least


def importance(name: str, recipe: Recipe) -> float:
    """The weight of a layer's relative error; that of the last pattern which matches its name."""
    return next((w for p, w in reversed(recipe.importance.items()) if matches(name, [p])), 1.0)


def _out_of_reach(recipe: Recipe, least: int) -> TenreoError:
    size = isinstance(recipe.rate, TargetSize)
    ways = ["give more"]
    ways += ["choose more groups"] if recipe.groups else []
    ways += ["--other float16"] if size and recipe.other == "float32" else []
    ways += (
        ["let it refine, for shorter curves"]
        if size and not recipe.chooses and not recipe.position_bits
        else []
    )
    return TenreoError(
        f"{recipe.mode}: given {recipe.strength:,}, but the least is {least:,} {'bytes' if size else 'parameters'}; "
        f"{', '.join(ways)}, or leave less dense with --include"
    )


def _stored(
    recipe: Recipe, model: nn.Module, layers: Iterable[LayerPlan]
) -> dict[str, tuple[str, int, int, bool]]:
    """The tensors of the file that a plan leads to, as `count` takes them."""
    tensors = {
        name: (name, t.numel(), t.numel() * _itemsize(t, recipe), t.is_floating_point())
        for name, t in model.state_dict().items()
    }
    for layer in layers:
        if not layer.why_dense:
            prefix = layer.name + "." if layer.name else ""
            del tensors[f"{prefix}weight"]
            itemsize = model.get_submodule(layer.name).weight.element_size()  # type: ignore[operator, union-attr]
            tensors |= {part[0]: part for part in layer.tensors(itemsize)}
    return tensors


def _itemsize(tensor: Tensor, recipe: Recipe) -> int:
    lighter = tensor.is_floating_point() and recipe.other != "float32"
    return 2 if lighter else tensor.element_size()


def _counts(recipe: Recipe, model: nn.Module, layers: tuple[LayerPlan, ...]) -> tuple[Counts, Counts]:
    before = [
        (name, t.numel(), t.numel() * t.element_size(), t.is_floating_point())
        for name, t in model.state_dict().items()
    ]
    weights = sum(layer.numel for layer in layers if not layer.why_dense)
    return count(before), count(_stored(recipe, model, layers).values(), weights)


def file_size(plan: Plan, model: nn.Module) -> int:
    """The size that a plan's file will have, in bytes; a little more, never less.

    Args:
        plan: of the model.
        model: before it is compressed.
    """
    tensors = _stored(plan.recipe, model, plan.layers)
    digits = len(str(plan.after.bytes))
    listed = sum(
        len(name.encode()) + len(str(numel)) + 2 * digits + _LISTED for name, numel, _, _ in tensors.values()
    )
    # JSON within JSON: what is not ASCII is escaped twice.
    described = sum(len(json.dumps(json.dumps(layer.name))) + _DESCRIBED for layer in plan.compressed)
    return plan.after.bytes + listed + described + _HEADER + len(str(plan.recipe.to_dict()))


# Other characters of a file's header at most: per tensor, per compressed layer, and in all, for the model's card.
_LISTED, _DESCRIBED, _HEADER = 56, 290, 1100
