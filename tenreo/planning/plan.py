"""Recipe and model to one decision per layer; every check is made here, nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenreo.codec.position_coding import even_bytes
from tenreo.codec.shape import CODED_HEADER, CurveShape, Precision
from tenreo.errors import TenreoError
from tenreo.files.counts import Counts, count
from tenreo.files.header import metadata
from tenreo.files.layout import POSITIONS, TensorRecord, file_size, layer_tensors
from tenreo.files.records import Correction, LayerErrors, LayerRecord, ModelInfo
from tenreo.files.safetensors import record
from tenreo.modules.ties import stored_state
from tenreo.modules.weights import Weight, find_weights
from tenreo.modules.wrappers import unwrapped
from tenreo.planning import search
from tenreo.planning.layers import LayerPlan, find_layers
from tenreo.planning.pricing import Spread, bits_per_weight, curve_for, price_for, spread_of
from tenreo.planning.rates import Progressive, TargetParameters, TargetSize, Uniform, rate_name, rate_number
from tenreo.planning.recipe import DenseDtype, Pack, Recipe
from tenreo.planning.rules import choice_for

# Stand for what a plan does not know yet: numbers and words as long as they get.
_ERRORS = LayerErrors(*[-1.2345678901234567e-100] * 3)
_INFO = ModelInfo("a" * 32, 100_000, "w" * 64, corrections=(Correction("s" * 128, 10**6, 10**4, 10**4),))
_FIRST_BITS = 3.0  # per weight, where the search for an accuracy begins
_HALF = {DenseDtype.FLOAT16: "F16", DenseDtype.BFLOAT16: "BF16"}


@dataclass(frozen=True)
class Plan:
    """The decisions for a whole model, and the counts before and after, which follow from them.

    Attributes:
        recipe: what was asked for; with the growth that was found, where that was a total.
        layers: all of them.
        before: of the dense model.
        after: at most, where positions are entropy-coded, and about, where a size is reached by a price.
        class_names: that the file will hold.
        price: of a bit, in units of squared error, where one leads to the size that was asked for; about.
    """

    recipe: Recipe
    layers: tuple[LayerPlan, ...]
    before: Counts
    after: Counts
    class_names: tuple[str, ...] = ()
    price: float = 0.0

    @property
    def coverage(self) -> float:
        """The share of the model's parameters that lie in weights to be compressed."""
        return self.after.weights / max(1, self.before.dense_parameters)

    @property
    def compressed(self) -> tuple[LayerPlan, ...]:
        """The layers that will be compressed."""
        return tuple(layer for layer in self.layers if layer.curve)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON can hold it."""
        return {
            "recipe": self.recipe.to_dict(),
            "coverage": self.coverage,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "layers": [layer.to_dict() for layer in self.layers],
        }


def resolve(recipe: Recipe, model: nn.Module, class_names: tuple[str, ...] = ()) -> Plan:
    """Decide for every weight of a model; change nothing.

    >>> from tenreo import Uniform
    >>> plan = resolve(Recipe(4, Uniform(2.0)), nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10)))
    >>> [(layer.name, layer.columns, layer.why_dense) for layer in plan.layers]
    [('0', 1024, ''), ('1', 0, 'not in the general rule')]

    Args:
        recipe: what was asked for.
        model: any module, also in DataParallel and its kind; tensors may be on the meta device.
        class_names: that the file will hold.

    Returns:
        The plan; where the recipe asks for a total of parameters, the plan's has the growth that was found.

    Raises:
        TenreoError: when a pattern matches no layer, or includes one that can not be compressed, when nothing is left
            to compress, and when a target is out of reach.
    """
    model = unwrapped(model)
    found = find_layers(recipe, model)
    counting = FileEstimate(recipe, model, class_names)
    if recipe.prices:
        return _of_price(recipe, found, counting, find_weights(model))
    if recipe.chooses:
        norms = {name: weight.norm for name, weight in find_weights(model).items() if not found[name].why_dense}
        return _of_size(recipe, found, counting, norms)
    reference = choice_for(model).rule.reference_numel
    if isinstance(recipe.rate, (TargetSize, TargetParameters)):
        return _of_total(recipe, found, counting, reference)
    return make_plan(recipe, _of_rate(recipe, found, reference), counting)


class FileEstimate:
    """The tensors of the file that a plan leads to, and their counts; what is fixed is counted once.

    Args:
        recipe: says in which number format tensors that are left dense are written.
        model: before it is compressed.
        class_names: that the file will hold.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, class_names: tuple[str, ...] = ()) -> None:
        self.recipe, self.class_names = recipe, class_names
        self.info = replace(_INFO, class_names=class_names)
        state = {name: tensor for name, tensor in stored_state(model).items() if ".parametrizations." not in f".{name}"}
        self.dense = {name: record(tensor) for name, tensor in state.items()}
        self.stored = {name: _stored(tensor, recipe.dense_dtype) for name, tensor in state.items()}
        self.records: dict[str, LayerRecord] = {}  # of layers that were compressed before
        for name, weight in find_weights(model).items():
            if parametrize.is_parametrized(weight.module, weight.tensor):
                self._add_parametrized(name, weight)
        self.before = count(self.dense)
        self._alone = {name: count({name: tensor}) for name, tensor in self.stored.items()}
        self._stored_counts = count(self.stored, self.records)

    def _add_parametrized(self, name: str, weight: Weight) -> None:
        """Count a weight as the dense tensor that it stands for, and as it will be stored."""
        parameter, curve = weight.parameter, weight.curve
        self.dense[parameter] = record(weight.value)
        if curve is None:
            self.stored[parameter] = _stored(weight.value, self.recipe.dense_dtype)
            return
        self.records[name] = LayerRecord(weight.shape, curve, positions=self.recipe.positions)
        tensors = layer_tensors(self.records[name], self.dense[parameter].dtype)
        self.stored |= {parameter + suffix: tensor for suffix, tensor in tensors.items()}

    def after(self, layers: Iterable[LayerPlan]) -> Counts:
        """The counts of the model with some layers compressed."""
        total = self._stored_counts
        for layer in layers:
            if layer.curve:
                total += count(self._tensors(layer), {layer.name: self._record(layer)})
                total -= self._alone[layer.parameter]
        return total

    def file_size(self, layers: Iterable[LayerPlan]) -> int:
        """The bytes of the file, what is not known yet being as long as it gets."""
        tensors = dict(self.stored)
        records = {n: replace(layer, errors=_ERRORS) for n, layer in self.records.items()}
        for layer in layers:
            if layer.curve:
                tensors.pop(layer.parameter)
                tensors |= self._tensors(layer)
                records[layer.name] = self._record(layer)
        return file_size(tensors, metadata(self.info, self.recipe.to_dict(), records))

    def _tensors(self, layer: LayerPlan) -> dict[str, TensorRecord]:
        tensors = layer_tensors(self._record(layer), self.dense[layer.parameter].dtype)
        if layer.position_bytes is not None:
            tensors[POSITIONS] = replace(tensors[POSITIONS], shape=(layer.position_bytes,))
        return {layer.parameter + suffix: tensor for suffix, tensor in tensors.items()}

    def _record(self, layer: LayerPlan) -> LayerRecord:
        return LayerRecord(layer.shape, layer.encoding, _ERRORS, self.recipe.positions)


def _stored(tensor: Tensor, dtype: DenseDtype) -> TensorRecord:
    known = record(tensor)
    return replace(known, dtype=_HALF[dtype]) if known.is_floating and dtype in _HALF else known


def make_plan(recipe: Recipe, layers: Iterable[LayerPlan], counting: FileEstimate) -> Plan:
    """A plan of given decisions, counted.

    Raises:
        TenreoError: when no layer is to be compressed.
    """
    layers = tuple(layers)
    if not any(layer.curve for layer in layers):
        reasons = sorted({layer.why_dense for layer in layers}) or ["no weight of two dimensions in the model"]
        raise TenreoError(
            f"plan: nothing is left to compress ({'; '.join(reasons[:3])}); "
            "choose other groups, or name layers with include"
        )
    return Plan(recipe, layers, counting.before, counting.after(layers), counting.class_names)


def _of_rate(recipe: Recipe, found: Mapping[str, LayerPlan], reference: int) -> Iterator[LayerPlan]:
    """The layers with the curves that follow from rates and groups.

    Args:
        recipe: of all layers but what they have of their own.
        found: the layers.
        reference: elements of the layer that progressive rates refer to.
    """
    for layer in found.values():
        if layer.why_dense:
            yield layer
            continue
        own = recipe.of_layer(layer.own)
        groups, rate = own.groups, own.rate
        if groups is None or not isinstance(rate, (Uniform, Progressive)):
            raise ValueError(f"{own} has no rate for a layer")
        if layer.numel == 0 or layer.numel % groups:
            yield replace(layer, why_dense=f"{groups} groups do not divide {layer.numel} elements")
        else:
            columns = layer.numel // groups
            length = min(columns, 2**own.position_bits) if own.position_bits else columns
            per_row = min(length, max(1, int(columns / rate.of(layer.numel, reference))))
            curve = CurveShape(groups, length, per_row, own.precision or Precision.FLOAT32)
            even = own.refine == 0 and own.pack == Pack.ENTROPY  # frequencies are known
            yield replace(layer, curve=curve, position_bytes=even_bytes(columns, length) if even else None)


def _of_total(recipe: Recipe, found: Mapping[str, LayerPlan], counting: FileEstimate, reference: int) -> Plan:
    """The smallest progressive growth that reaches a total of parameters or bytes."""

    def layers(growth: float) -> list[LayerPlan]:
        return list(_of_rate(replace(recipe, rate=Progressive(growth)), found, reference))

    def total(growth: float) -> int:
        if isinstance(recipe.rate, TargetSize):
            return counting.file_size(layers(growth))
        return counting.after(layers(growth)).parameters

    make_plan(recipe, layers(search.LARGEST), counting)  # something can be compressed at all
    growth = search.smallest_growth(lambda growth: total(growth) <= rate_number(recipe.rate))
    if growth is None:
        raise _out_of_reach(recipe, total(search.LARGEST))
    return make_plan(replace(recipe, rate=Progressive(growth)), layers(growth), counting)


def _of_price(
    recipe: Recipe, found: Mapping[str, LayerPlan], counting: FileEstimate, weights: Mapping[str, Weight]
) -> Plan:
    """About the curves at the price of a bit that leads to a file of so many bytes."""
    sized = {name: layer for name, layer in found.items() if not layer.why_dense and layer.numel}
    spreads = {name: spread_of(weights[name], layer.importance) for name, layer in sized.items()}

    def plan(price: float, taken: Callable[[Spread], int]) -> Plan:
        layers = (
            replace(
                layer, position_bytes=taken(spreads[name]),
                curve=curve_for(spreads[name], price, recipe.of_layer(layer.own).precision or Precision.FLOAT32),
            ) if name in sized else layer
            for name, layer in found.items()
        )  # fmt: skip
        return make_plan(recipe, layers, counting)

    room = _FIRST_BITS / 8 * sum(spread.numel for spread in spreads.values())
    if isinstance(recipe.rate, TargetSize):
        least = counting.file_size(plan(2.0**60, lambda spread: CODED_HEADER).layers)
        room = recipe.rate.bytes - least
        if room <= 0:
            raise _out_of_reach(recipe, least)
    price = price_for(list(spreads.values()), room)
    chosen = plan(price, lambda spread: CODED_HEADER + int(spread.numel * bits_per_weight(spread, price) / 8))
    return replace(chosen, price=price)


def _of_size(recipe: Recipe, found: dict[str, LayerPlan], counting: FileEstimate, norms: Mapping[str, float]) -> Plan:
    """The curves with the smallest expected error in a file of at most so many bytes.

    A layer's relative error counts by the norm of its weight: docs/research/statistics.md, section 6.
    """
    wanted = {name: search.candidates(x.numel, recipe.of_layer(x.own)) for name, x in found.items() if not x.why_dense}
    for name, offered in wanted.items():
        if not offered:
            why = f"no choice of groups divides {found[name].numel} elements"
            found[name] = replace(found[name], why_dense=why)
    sized = {name: offered for name, offered in wanted.items() if offered}

    def curves(choices: Iterable[search.Candidate]) -> Plan:
        chosen = {name: choice.curve for name, choice in zip(sized, choices, strict=True)}
        layers = (replace(x, curve=chosen.get(name)) for name, x in found.items())
        return make_plan(recipe, layers, counting)

    smallest = curves(min(offered, key=lambda c: c.bytes) for offered in sized.values())
    weights = [found[name].importance * norms[name] for name in sized]
    return _fit(smallest, lambda room: curves(search.choose(list(sized.values()), weights, room)), counting)


def _fit(smallest: Plan, best_in: Callable[[int], Plan], counting: FileEstimate) -> Plan:
    """The best plan whose file has at most the recipe's bytes.

    Args:
        smallest: the plan of the smallest file.
        best_in: the best plan whose compressed weights take at most so many bytes.
        counting: of the model.
    """
    limit = int(rate_number(smallest.recipe.rate))
    least = counting.file_size(smallest.layers)
    if least > limit:
        raise _out_of_reach(smallest.recipe, least)
    room = limit - least + smallest.after.weight_bytes
    while room >= smallest.after.weight_bytes:
        found = best_in(room)
        excess = counting.file_size(found.layers) - limit
        if excess <= 0:
            return found
        room -= excess  # the header grew with the numbers in it
    return smallest


def _out_of_reach(recipe: Recipe, least: int) -> TenreoError:
    size = isinstance(recipe.rate, TargetSize)
    ways = ["give more"]
    ways += ["choose more groups"] if recipe.groups else []
    ways += ["choose dense_dtype float16"] if size and recipe.dense_dtype == DenseDtype.FLOAT32 else []
    if size and not recipe.chooses and not recipe.position_bits:
        ways += ["allow refinement, for shorter curves"]
    return TenreoError(
        f"{rate_name(recipe.rate)}: given {rate_number(recipe.rate):,}, but the least is {least:,} "
        f"{'bytes' if size else 'parameters'}; {', '.join(ways)}, or include more layers"
    )
