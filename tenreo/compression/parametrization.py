"""Compressed layers as torch parametrizations: registration, lookup in a model, pickling, and removal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from tenreo.codec.decoding import (
    SortedColumns,
    curve_index,
    decode_columns,
    is_tracing,
    positions_of_index,
    sort_columns,
)
from tenreo.codec.encode import EncodedWeight, project
from tenreo.codec.precision import fake_quantize
from tenreo.codec.shape import Basis, CurveShape, Precision
from tenreo.compression.decoded_weight import DecodedWeight
from tenreo.devices import public_function
from tenreo.errors import TenreoError
from tenreo.files.records import LayerErrors, LayerRecord
from tenreo.modules.inference_tensors import make_trainable_
from tenreo.modules.ties import check_has_values
from tenreo.modules.weights import Weight
from tenreo.modules.wrappers import require_replaceable, unwrapped
from tenreo.planning.recipe import Recipe

_POSITIONS = "positions"  # key in a state dict


class CurveWeight(nn.Module):
    """Parametrization of a weight by the coefficients of a curve, with fixed positions.

    `forward` decodes; `right_inverse` fits the curve to a weight's columns by least squares, so that
    forward(right_inverse(forward(c))) == forward(c).

    Positions are in the state dict but are not a buffer. Weight averaging changes all buffers and all values of a state
    dict, but an average of positions has no meaning.

    Args:
        encoded: encoded weight; its coefficients become the layer's parameter at registration.
        precision: number format of the coefficients in a file; in memory they keep their dtype.
        errors: errors relative to the dense weight, if known.

    Attributes:
        recipe: recipe that the model was compressed with, which `save` uses if it is given none.
        digest: digest of the model's dense tensors, which files state as their origin; empty if unknown.
    """

    recipe: Recipe | None = None
    digest = ""

    def __init__(self, encoded: EncodedWeight, precision: Precision, errors: LayerErrors) -> None:
        super().__init__()
        groups, per_row = encoded.coefficients.shape
        self.curve = CurveShape(groups, encoded.length, per_row, precision, encoded.memory, encoded.basis)
        self.shape = encoded.shape
        self.errors = errors
        self._index: Tensor  # (columns,)
        self._sorted: SortedColumns | None
        self._lent: Tensor | None  # copy of the positions in the last state dict; changing it is an error
        self._kept: tuple[tuple[int, int, int], Tensor] | None  # state of the coefficients, and the decoded weight
        self._set_index(curve_index(encoded.positions, encoded.length, encoded.basis))
        self._initial: Tensor | None = encoded.coefficients

    @property
    def positions(self) -> Tensor:
        """A copy of the positions, (columns,) int32 in [0, length)."""
        return positions_of_index(self._index, self.curve.length, self.curve.basis)

    def forward(self, coefficients: Tensor) -> Tensor:
        """Decode coefficients, (groups, coefficients_per_row), to a weight of shape `shape`."""
        if torch.compiler.is_compiling() or is_tracing() or _decoded.weights is None:
            return self._decode(coefficients)
        if self not in _decoded.weights:
            _decoded.weights[self] = self._decode(coefficients)
        return _decoded.weights[self]

    def keeps(self, coefficients: Tensor) -> bool:
        """Return whether `kept` may be called: in evaluation mode, without gradients, on plain parameters.

        Transforms of torch.func pass tensors that are not parameters, tensors of inference mode count no changes, and
        tracers and other modes of torch's dispatcher have to see the decoding.
        """
        if self.training or torch.is_grad_enabled() or self._lent is not None:
            return False
        if type(coefficients) is not nn.Parameter or coefficients.is_inference() or is_in_torch_dispatch_mode():
            return False
        return not (torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]

    def kept(self, coefficients: Tensor) -> Tensor:
        """Return the weight of the last call, decoded again if the coefficients have changed since."""
        # Read before decoding, because another thread may change the coefficients meanwhile.
        state = id(coefficients), coefficients._version, coefficients.data_ptr()
        kept = self._kept
        if kept is None or kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():  # so that it can be used outside of inference mode
                kept = self._kept = state, self._decode(coefficients)
        return kept[1]

    def train(self, mode: bool = True) -> CurveWeight:
        """Set the mode, and release the kept weight."""
        self._kept = None
        return super().train(mode)

    def _decode(self, coefficients: Tensor) -> Tensor:
        compiling = torch.compiler.is_compiling()
        if not compiling:  # the compiler cannot trace these steps
            self._prepare(coefficients)
        curve = self.curve
        columns = decode_columns(coefficients, self._index, curve.length, self._sorted, curve.basis)
        weight = columns.reshape(self.shape)
        return weight if compiling or is_tracing() else weight.as_subclass(DecodedWeight)

    def _prepare(self, coefficients: Tensor) -> None:
        """Check the last state dict, move the index to the coefficients' device, and sort it for a backward pass."""
        if self._lent is not None:
            lent, self._lent = self._lent, None
            # Averaging equal positions can round them down by one; such a change is harmless and is ignored.
            if lent._version and bool(((lent - self.positions.to(lent.device)).abs() > 1).any()):
                raise TenreoError(
                    "positions: they were overwritten in the state dict of a compressed model, which does not change "
                    "the model; use load_state_dict"
                )
        if self._index.device != coefficients.device or self._index.is_inference():
            self._set_index(self._index.to(coefficients.device))
        trains = coefficients.requires_grad and torch.is_grad_enabled()
        gathers = self._index.is_cuda and self.curve.basis is Basis.COSINE
        if self._sorted is None and gathers and trains:
            self._sorted = sort_columns(self._index, self.curve.length)

    def _set_index(self, index: Tensor) -> None:
        with torch.inference_mode(False):  # a backward pass cannot use tensors that were made in inference mode
            self._index = index.clone() if index.is_inference() else index
        self._sorted = self._lent = self._kept = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CurveWeight:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._set_index(fn(self._index))
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        with torch.inference_mode(False):  # such a tensor would not count the changes that `_prepare` looks for
            self._lent = destination[prefix + _POSITIONS] = self.positions

    def end_loan(self) -> None:
        """Drop the copy of the positions that the last state dict contains, after a caller that did not change it."""
        self._lent = None

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        name = prefix + _POSITIONS
        unexpected_keys += [key for key in state_dict if strict and key.startswith(prefix) and key != name]
        if name not in state_dict:
            missing_keys += [name] if strict else []
            return
        given, length = state_dict[name], self.curve.length
        if given.is_floating_point() or given.shape != self._index.shape:
            error_msgs.append(f"{name}: given {given.dtype} {list(given.shape)}, needs {len(self._index)} integers")
        elif given.numel() and not 0 <= int(given.min()) <= int(given.max()) < length:
            error_msgs.append(f"{name}: given positions outside [0, {length})")
        else:
            device = given.device if self._index.is_meta else self._index.device
            self._set_index(curve_index(given.to(device), length, self.curve.basis))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sorted": None, "_lent": None, "_kept": None}

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Fit coefficients, (groups, coefficients_per_row), to a weight of shape `shape`."""
        if self._initial is not None:  # registration calls this once, and must get the encoded coefficients unchanged
            initial, self._initial = self._initial, None
            return initial
        return project(weight, self.positions, self.curve)


class _Decoded(threading.local):
    """The weights that this thread has decoded inside `decoded_once`; None outside of it."""

    weights: dict[CurveWeight, Tensor] | None = None


_decoded = _Decoded()


@contextmanager
def decoded_once() -> Iterator[None]:
    """Decode every weight at most once, in this thread, inside the context, which must not change coefficients.

    Torch's `parametrize.cached` also gives the weights to other threads, which may train the same model.
    """
    outer = _decoded.weights
    _decoded.weights = {} if outer is None else outer
    try:
        yield
    finally:
        _decoded.weights = outer


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


def parametrize_(weight: Weight, encoded: EncodedWeight, precision: Precision, errors: LayerErrors) -> None:
    """Replace a layer's dense weight by an encoded one of the same shape, in place."""
    layer, tensor = weight.module, weight.tensor
    dense = layer.get_parameter(tensor)
    requires_grad = dense.requires_grad
    _register(layer, tensor, CurveWeight(encoded.to(dense.device), precision, errors))
    layer.get_parameter(f"parametrizations.{tensor}.original").requires_grad_(requires_grad)


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
        curve._initial = coefficients
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
