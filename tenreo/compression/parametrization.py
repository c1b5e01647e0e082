"""Compressed layers as torch parametrizations, and models in which they are found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenreo.codec.codec import EncodedWeight, decode, project
from tenreo.codec.decoding import GatherIndex, gather_index
from tenreo.codec.precision import fake_quantize
from tenreo.codec.shape import CurveShape, Precision
from tenreo.files.records import LayerErrors, LayerRecord


class CurveWeight(nn.Module):
    """Parametrization of a weight by the coefficients of a curve, at fixed positions.

    `forward` decodes; `right_inverse` fits the curve to a weight's columns by least squares, so that
    forward(right_inverse(forward(c))) == forward(c).

    Args:
        encoded: the weight; its coefficients are those that registration gives to the layer.
        precision: of the coefficients in a file; in memory they keep their dtype.
        errors: against the dense weight, where they are known.
    """

    positions: Tensor
    samples: Tensor
    order: Tensor
    starts: Tensor

    def __init__(
        self,
        encoded: EncodedWeight,
        precision: Precision = Precision.FLOAT32,
        errors: LayerErrors = LayerErrors(),
    ) -> None:
        super().__init__()
        groups, per_row = encoded.coefficients.shape
        self.curve = CurveShape(groups, encoded.length, per_row, precision)
        self.shape = encoded.shape
        self.errors = errors
        self.register_buffer("positions", encoded.positions)
        self._update_index()
        self.register_load_state_dict_post_hook(CurveWeight._update_index)  # type: ignore[no-untyped-call]
        self._initial: Tensor | None = encoded.coefficients

    def forward(self, coefficients: Tensor) -> Tensor:
        """(groups, coefficients_per_row) -> weight of `shape`."""
        encoded = EncodedWeight(coefficients, self.positions, self.curve.length, self.shape)
        return decode(encoded, GatherIndex(self.samples, self.order, self.starts))

    def _update_index(self, _: object = None) -> None:
        """Follow the positions, which come from a constructor or a state dict, and never change otherwise."""
        for name, value in gather_index(self.positions, self.curve.length)._asdict().items():
            self.register_buffer(name, value, persistent=False)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Weight of `shape` -> (groups, coefficients_per_row)."""
        if self._initial is not None:  # torch asks once while registering, before forward
            initial, self._initial = self._initial, None
            return initial
        return project(weight, self.positions, self.curve)


class Curve(NamedTuple):
    """A compressed layer of a model.

    Attributes:
        name: of the layer, "" where the model is the layer.
        layer: the module, still an `nn.Conv2d` or `nn.Linear`.
        weight: the parametrization of its weight.
        coefficients: the trainable parameter, (groups, coefficients_per_row).
    """

    name: str
    layer: nn.Module
    weight: CurveWeight
    coefficients: nn.Parameter

    @property
    def record(self) -> LayerRecord:
        """The layer as a file describes it."""
        return LayerRecord(self.weight.shape, self.weight.curve, self.weight.errors)


def curves(model: nn.Module) -> Iterator[Curve]:
    """Every compressed layer of a model."""
    for name, layer in model.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrizations = layer.get_submodule("parametrizations.weight")
            weight = parametrizations.get_submodule("0")
            if isinstance(weight, CurveWeight):
                yield Curve(name, layer, weight, parametrizations.get_parameter("original"))


def parametrize_(layer: nn.Module, encoded: EncodedWeight, precision: Precision, errors: LayerErrors) -> None:
    """Replace a layer's weight by an encoded one, in place.

    Args:
        layer: with a `weight` of the encoded shape.
        encoded: the weight.
        precision: of the coefficients in a file.
        errors: against the dense weight.
    """
    requires_grad = layer.get_parameter("weight").requires_grad
    parametrize.register_parametrization(layer, "weight", CurveWeight(encoded, precision, errors))
    layer.get_parameter("parametrizations.weight.original").requires_grad_(requires_grad)


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
    """
    for curve in list(curves(model)):
        parametrize.remove_parametrizations(curve.layer, "weight", leave_parametrized=True)
    return model
