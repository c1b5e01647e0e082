"""Compressed layers as torch parametrizations: registration, lookup in a model, pickling, and removal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenreo.codec.encode import EncodedWeight
from tenreo.codec.precision import fake_quantize
from tenreo.codec.shape import Precision
from tenreo.compression.curve_weight import CurveWeight
from tenreo.devices import public_function
from tenreo.errors import TenreoError
from tenreo.files.records import LayerErrors, LayerRecord
from tenreo.modules.inference_tensors import make_trainable_
from tenreo.modules.ties import check_has_values
from tenreo.modules.weights import Weight
from tenreo.modules.wrappers import require_replaceable, unwrapped
from tenreo.planning.recipe import Recipe


class Curve(NamedTuple):
    """A compressed weight of a model."""

    name: str  # name of the layer, as in `Weight.name`; "" if the model itself is the layer
    layer: nn.Module
    tensor: str  # attribute of the layer, usually "weight"
    parameter: str  # name of the weight in the dense model's state dict
    weight: CurveWeight
    coefficients: nn.Parameter  # (groups, coefficients_per_row)

    @property
    def record(self) -> LayerRecord:
        """The layer's record in a file."""
        return LayerRecord(self.weight.shape, self.weight.curve, self.weight.errors)

    @property
    def encoded(self) -> EncodedWeight:
        """The weight as it is encoded."""
        shape = self.weight.curve
        return EncodedWeight(
            self.coefficients, self.weight.positions, shape.length, self.weight.shape, shape.memory, shape.basis
        )


def curves(model: nn.Module) -> Iterator[Curve]:
    """Yield every compressed weight of a model."""
    for path, layer in model.named_modules():
        if not parametrize.is_parametrized(layer):
            continue
        for tensor, parametrizations in layer.get_submodule("parametrizations").named_children():
            curve = parametrizations.get_submodule("0")
            if isinstance(curve, CurveWeight):
                named = Weight(layer, tensor, path)
                coefficients = parametrizations.get_parameter("original")
                yield Curve(named.name, layer, tensor, named.parameter, curve, coefficients)


def remember_(model: nn.Module, recipe: Recipe | None, digest: str) -> None:
    """Store the recipe and the origin of a compressed model in its compressed layers, so that copies keep them, too."""
    for curve in curves(model):
        curve.weight.recipe, curve.weight.digest = recipe, digest


def remembered_recipe(model: nn.Module) -> Recipe | None:
    """Return the recipe that a model was compressed with; None if it is dense, or its layers have different recipes."""
    recipes = [curve.weight.recipe for curve in curves(model)]
    return recipes[0] if recipes and all(recipe == recipes[0] for recipe in recipes) else None


def remembered_digest(model: nn.Module) -> str:
    """Return the digest of the dense model that a model was compressed from; empty if unknown."""
    return next((curve.weight.digest for curve in curves(model) if curve.weight.digest), "")


def parametrize_(weight: Weight, encoded: EncodedWeight, precision: Precision, errors: LayerErrors) -> CurveWeight:
    """Replace a layer's dense weight by an encoded one of the same shape, in place; return its parametrization."""
    layer, tensor = weight.module, weight.tensor
    dense = layer.get_parameter(tensor)
    requires_grad = dense.requires_grad
    curve = CurveWeight(encoded.to(dense.device), precision, errors)
    if not dense.is_contiguous() and dense.is_contiguous(memory_format=torch.channels_last):
        curve.to(memory_format=torch.channels_last)
    _register(layer, tensor, curve)
    layer.get_parameter(f"parametrizations.{tensor}.original").requires_grad_(requires_grad)
    return curve


def _register(layer: nn.Module, tensor: str, curve: CurveWeight) -> None:
    # unsafe=True skips torch's check of the shape, which would decode every weight once.
    parametrize.register_parametrization(layer, tensor, curve, unsafe=True)
    # Torch creates a class for every parametrized layer, and pickle cannot import it by name.
    setattr(type(layer), "__reduce_ex__", _reduce)  # noqa: B010
    decoded = getattr(type(layer), tensor)

    def get(module: Any) -> Any:
        each = module._modules["parametrizations"]._modules[tensor]
        coefficients, own = each._parameters["original"], each._modules["0"]
        if len(each._modules) == 1 and own.keeps(coefficients):
            return own.kept(coefficients)  # the calls of torch's property would take longer than a small layer
        return decoded.fget(module)

    setattr(type(layer), tensor, property(get, decoded.fset))


def _reduce(layer: nn.Module, protocol: Any) -> Any:
    """Return the pickle form of a layer (`object.__reduce_ex__`); all its parametrizations must be `CurveWeight`."""
    state = {**layer.__dict__, "_modules": dict(layer._modules)}
    parametrizations = state["_modules"].pop("parametrizations")
    own = {}
    for tensor, each in parametrizations.items():
        if len(each) != 1 or not isinstance(each[0], CurveWeight):
            raise TenreoError(f"pickle: {tensor} of a layer also has other parametrizations; save its state dict")
        own[tensor] = each[0], each.original
    for duplicate in ("_flat_weights", "_flat_weight_refs"):  # recurrent layers rebuild them after unpickling
        state.pop(duplicate, None)
    return _unpickle, (type(layer).__bases__[0], state, own)


def _unpickle(
    base: type[nn.Module], state: dict[str, Any], own: Mapping[str, tuple[CurveWeight, nn.Parameter]]
) -> nn.Module:
    layer = base.__new__(base)
    nn.Module.__setstate__(layer, state)  # type: ignore[no-untyped-call]
    for tensor, (curve, coefficients) in own.items():
        layer.register_parameter(tensor, nn.Parameter(coefficients.detach().new_empty(curve.shape)))
        curve.initial = coefficients
        _register(layer, tensor, curve)
        layer.get_submodule(f"parametrizations.{tensor}").original = coefficients
    if isinstance(layer, nn.RNNBase):
        layer._init_flat_weights()
    return layer


@contextmanager
def quantized_coefficients(model: nn.Module) -> Iterator[None]:
    """Round a model's coefficients, inside the context, to the values that a file would store."""
    saved: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for curve in curves(model):
            precision = curve.weight.curve.precision
            if precision != Precision.FLOAT32:
                saved.append((curve.coefficients, curve.coefficients.clone()))
                curve.coefficients.copy_(fake_quantize(curve.coefficients, precision))
    try:
        yield
    finally:
        with torch.no_grad():
            for coefficients, values in saved:
                coefficients.copy_(values)


@public_function()
def expand_(model: nn.Module) -> nn.Module:
    """Replace every compressed layer in place by a dense layer with the decoded weight.

    >>> from tenreo import Recipe, Uniform, compress_
    >>> model = nn.Sequential(nn.Linear(64, 64))
    >>> _ = compress_(model, Recipe(4, Uniform(2.0)))
    >>> type(expand_(model)[0]).__name__
    'Linear'

    Args:
        model: compressed model.

    Returns:
        The same model.

    Raises:
        TenreoError: if it is in DistributedDataParallel.
    """
    check_has_values(require_replaceable(model))
    make_trainable_(unwrapped(model))
    for curve in list(curves(unwrapped(model))):
        _remove(curve.layer, curve.tensor)
    return model


def _remove(layer: nn.Module, tensor: str) -> None:
    """Replace a decoded weight by a plain parameter.

    Torch's `remove_parametrizations` deletes the property of the tensor from the layer's class, but deep copies of the
    layer share that class and would break.
    """
    value = getattr(layer, tensor).detach().clone().as_subclass(Tensor)
    requires_grad = layer.get_parameter(f"parametrizations.{tensor}.original").requires_grad
    parametrizations = layer.get_submodule("parametrizations")
    delattr(parametrizations, tensor)
    own = type(layer)
    if any(True for _ in parametrizations.children()):  # other tensors are still parametrized
        names = {name: value for name, value in vars(own).items() if name not in (tensor, "__dict__", "__weakref__")}
        layer.__class__ = type(own.__name__, own.__bases__, names)
    else:
        del layer.parametrizations
        layer.__class__ = own.__bases__[0]
    layer.register_parameter(tensor, nn.Parameter(value, requires_grad))
