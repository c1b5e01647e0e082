"""Compressed layers as torch parametrizations, and models in which they are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenreo.codec.decoding import (
    SortedColumns,
    decode_columns,
    folded_index,
    is_tracing,
    sort_columns,
    unfolded_positions,
)
from tenreo.codec.encode import EncodedWeight, project
from tenreo.codec.precision import fake_quantize
from tenreo.codec.shape import CurveShape, Precision
from tenreo.compression.decoded_weight import DecodedWeight
from tenreo.errors import TenreoError
from tenreo.files.records import LayerErrors, LayerRecord
from tenreo.modules.weights import Weight
from tenreo.modules.wrappers import require_replaceable

_POSITIONS = "positions"  # in a state dict


class CurveWeight(nn.Module):
    """Parametrization of a weight by the coefficients of a curve, at fixed positions.

    `forward` decodes; `right_inverse` fits the curve to a weight's columns by least squares, so that
    forward(right_inverse(forward(c))) == forward(c).

    Positions are no buffer, although they are in the state dict: averages over a model's buffers, or over the values
    of its state dict, would change integers that mean places.

    Args:
        encoded: the weight; its coefficients are those that registration gives to the layer.
        precision: of the coefficients in a file; in memory they keep their dtype.
        errors: against the dense weight, where they are known.
    """

    def __init__(
        self,
        encoded: EncodedWeight,
        precision: Precision = Precision.FLOAT32,
        errors: LayerErrors = LayerErrors(),
    ) -> None:
        super().__init__()
        groups, per_row = encoded.coefficients.shape
        self.curve = CurveShape(groups, encoded.length, per_row, precision, encoded.memory)
        self.shape = encoded.shape
        self.errors = errors
        self._index = folded_index(encoded.positions, encoded.length)  # (columns,)
        self._sorted: SortedColumns | None = None
        self._lent: Tensor | None = None
        self._initial: Tensor | None = encoded.coefficients

    @property
    def positions(self) -> Tensor:
        """(columns,) int32 in [0, length): a copy."""
        return unfolded_positions(self._index, self.curve.length)

    def forward(self, coefficients: Tensor) -> Tensor:
        """(groups, coefficients_per_row) -> weight of `shape`."""
        compiling = torch.compiler.is_compiling()
        if not compiling:
            self._prepare(coefficients)
        columns = decode_columns(coefficients, self._index, self.curve.length, self._sorted)  # (groups, columns)
        weight = columns.reshape(self.shape)
        return weight if compiling or is_tracing() else weight.as_subclass(DecodedWeight)

    def _prepare(self, coefficients: Tensor) -> None:
        """What tracing can not do: follow the coefficients to their device, and sort for a backward pass there."""
        if self._lent is not None:
            self._check_lent(self._lent)
        if self._index.device != coefficients.device:
            self._set_index(self._index.to(coefficients.device))
        if self._sorted is None and self._index.is_cuda and coefficients.requires_grad and torch.is_grad_enabled():
            self._sorted = sort_columns(self._index, self.curve.length)

    def _check_lent(self, lent: Tensor) -> None:
        """Refuse positions that were written into a state dict, which gives copies of them."""
        self._lent = None
        # Averages of equal positions come back rounded down.
        if lent._version and bool(((lent - self.positions.to(lent.device)).abs() > 1).any()):
            raise TenreoError(
                "positions: other ones were written into the state dict of a compressed model, which does not "
                "change it; use load_state_dict"
            )

    def _set_index(self, index: Tensor) -> None:
        self._index, self._sorted, self._lent = index, None, None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CurveWeight:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._set_index(fn(self._index))
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self._lent = destination[prefix + _POSITIONS] = self.positions

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
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
            self._set_index(folded_index(given.to(device), length))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sorted": None, "_lent": None}

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Weight of `shape` -> (groups, coefficients_per_row)."""
        if self._initial is not None:  # torch asks once while registering, before forward
            initial, self._initial = self._initial, None
            return initial
        return project(weight, self.positions, self.curve)


class Curve(NamedTuple):
    """A compressed weight of a model.

    Attributes:
        name: of the layer, as `Weight` names it; "" where the model is the layer.
        layer: the module that has it.
        tensor: the layer's attribute, mostly `weight`.
        parameter: its name in a dense model's state dict.
        weight: its parametrization.
        coefficients: the trainable parameter, (groups, coefficients_per_row).
    """

    name: str
    layer: nn.Module
    tensor: str
    parameter: str
    weight: CurveWeight
    coefficients: nn.Parameter

    @property
    def record(self) -> LayerRecord:
        """The layer as a file describes it."""
        return LayerRecord(self.weight.shape, self.weight.curve, self.weight.errors)


def curves(model: nn.Module) -> Iterator[Curve]:
    """Every compressed weight of a model."""
    for path, layer in model.named_modules():
        if not parametrize.is_parametrized(layer):
            continue
        for tensor, parametrizations in layer.get_submodule("parametrizations").named_children():
            curve = parametrizations.get_submodule("0")
            if isinstance(curve, CurveWeight):
                named = Weight(layer, tensor, path)
                coefficients = parametrizations.get_parameter("original")
                yield Curve(named.name, layer, tensor, named.parameter, curve, coefficients)


def parametrize_(weight: Weight, encoded: EncodedWeight, precision: Precision, errors: LayerErrors) -> None:
    """Replace a weight by an encoded one, in place.

    Args:
        weight: of the encoded shape.
        encoded: its encoding.
        precision: of the coefficients in a file.
        errors: against the dense weight.
    """
    layer, tensor = weight.module, weight.tensor
    requires_grad = layer.get_parameter(tensor).requires_grad
    _register(layer, tensor, CurveWeight(encoded, precision, errors))
    layer.get_parameter(f"parametrizations.{tensor}.original").requires_grad_(requires_grad)


def _register(layer: nn.Module, tensor: str, curve: CurveWeight) -> None:
    # Unsafe, or torch decodes every weight once to see that its shape is right.
    parametrize.register_parametrization(layer, tensor, curve, unsafe=True)
    # Torch gives every such layer a class of its own, which can not be found again by its name.
    setattr(type(layer), "__reduce_ex__", _reduce)  # noqa: B010


def _reduce(layer: nn.Module, protocol: Any) -> Any:
    """How to pickle a layer whose parametrizations are curves alone."""
    state = {**layer.__dict__, "_modules": dict(layer._modules)}
    parametrizations = state["_modules"].pop("parametrizations")
    own = {}
    for tensor, each in parametrizations.items():
        if len(each) != 1 or not isinstance(each[0], CurveWeight):
            raise TenreoError(f"pickle: {tensor} of a layer has other parametrizations as well; save its state dict")
        own[tensor] = each[0], each.original
    for kept_twice in ("_flat_weights", "_flat_weight_refs"):  # of recurrent layers
        state.pop(kept_twice, None)
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
    """Inside the context, a model's coefficients are rounded to what a file holds of them."""
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


def expand_(model: nn.Module) -> nn.Module:
    """Turn every compressed layer back into a plain dense one, in place, with its decoded weight.

    >>> from tenreo import Recipe, Uniform, compress_
    >>> model = nn.Sequential(nn.Linear(64, 64))
    >>> _ = compress_(model, Recipe(4, Uniform(2.0)))
    >>> type(expand_(model)[0]).__name__
    'Linear'

    Returns:
        The same model.

    Raises:
        TenreoError: when it is in DistributedDataParallel.
    """
    for curve in list(curves(require_replaceable(model))):
        _remove(curve.layer, curve.tensor)
    return model


def _remove(layer: nn.Module, tensor: str) -> None:
    """Make a decoded weight a parameter again.

    `remove_parametrizations` deletes the tensor's property from the layer's class, which copies of the layer share.
    """
    value = getattr(layer, tensor).detach().clone().as_subclass(Tensor)
    requires_grad = layer.get_parameter(f"parametrizations.{tensor}.original").requires_grad
    parametrizations = layer.get_submodule("parametrizations")
    delattr(parametrizations, tensor)
    own = type(layer)
    if any(True for _ in parametrizations.children()):  # of other tensors
        names = {name: value for name, value in vars(own).items() if name not in (tensor, "__dict__", "__weakref__")}
        layer.__class__ = type(own.__name__, own.__bases__, names)
    else:
        del layer.parametrizations
        layer.__class__ = own.__bases__[0]
    layer.register_parameter(tensor, nn.Parameter(value, requires_grad))
