"""Weights to curves and back: `encode` and `decode` (section 2 of arXiv 2010.12110)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tenreo.codec.chain import chain
from tenreo.codec.cosine import dct
from tenreo.codec.decoding import decode_columns, folded_index
from tenreo.codec.distortion import energy
from tenreo.codec.precision import fake_quantize
from tenreo.codec.refine import assign, columns_of, fit, refine
from tenreo.codec.shape import CurveShape, Precision
from tenreo.errors import TenreoError


@dataclass(frozen=True)
class EncodedWeight:
    """A weight as a smooth curve and the position of every column on it.

    Attributes:
        coefficients: (groups, coefficients_per_row) low frequencies of the curve, orthonormal DCT-II.
        positions: (columns,) int32 in [0, length): the sample that each column takes.
        length: samples on the curve.
        shape: of the weight; its elements are groups * columns.
        memory: of the trellis that the positions are a path of; 0 where they are free.
    """

    coefficients: Tensor
    positions: Tensor
    length: int
    shape: tuple[int, ...]
    memory: int = 0


def encode(
    weight: Tensor,
    groups: int,
    coefficients_per_row: int,
    refine: int = 0,
    *,
    length: int | None = None,
    precision: str = "float32",
    order: Tensor | None = None,
) -> EncodedWeight:
    """Order the columns of a weight along a short path and keep the low frequencies of the curve.

    >>> encoded = encode(torch.randn(64, 32, 3, 3), groups=4, coefficients_per_row=512)
    >>> encoded.coefficients.shape, encoded.positions.shape, encoded.length
    (torch.Size([4, 512]), torch.Size([4608]), 4608)

    Args:
        weight: any shape, floating point, finite; the order is found in float32 on the CPU.
        groups: rows of the reshaped matrix; divides the number of elements.
        coefficients_per_row: in [1, length].
        refine: rounds of `refined`; 0 is the paper's encoding.
        length: samples on the curve, in [1, columns]; None takes as many as columns, as the paper does.
        precision: of the coefficients, one of `Precision`; they are rounded to what a file gives back.
        order: what `nearest_neighbor_order` found for this weight, where it is known.

    Returns:
        The encoded weight; coefficients have the weight's dtype and device.

    Raises:
        TenreoError: when groups, length, coefficients_per_row or precision do not fit the weight, or it is not
            finite.
    """
    shape = _check(weight, groups, coefficients_per_row, length, precision)
    order = nearest_neighbor_order(weight, groups) if order is None else order
    unrefined = _along(weight, order, shape)
    better = refined(weight, unrefined, refine)
    encoded = quantize(weight, better, shape.precision, reassign=refine > 0)
    if not torch.isfinite(decode(encoded)).all():
        raise TenreoError(
            f"encode: given values up to {weight.abs().max():.3g}, whose curve leaves the range of {weight.dtype}; "
            "convert the weight to a wider dtype, or scale it"
        )
    return encoded


def _check(weight: Tensor, groups: int, coefficients_per_row: int, length: int | None, precision: str) -> CurveShape:
    columns = _columns(weight, groups)
    length = columns if length is None else length
    if not 1 <= length <= columns:
        raise TenreoError(f"encode: given length={length}, needs 1 to {columns} (columns of the matrix)")
    if not 1 <= coefficients_per_row <= length:
        raise TenreoError(
            f"encode: given coefficients_per_row={coefficients_per_row}, needs 1 to {length} (samples on the curve)"
        )
    if precision not in list(Precision):
        raise TenreoError(f"encode: given precision {precision!r}, needs one of {', '.join(Precision)}")
    return CurveShape(groups, length, coefficients_per_row, Precision(precision))


def _along(weight: Tensor, order: Tensor, shape: CurveShape) -> EncodedWeight:
    """The paper's encoding: columns spread evenly along the curve, in order."""
    columns = len(order)
    along = torch.arange(columns, device=weight.device) * shape.length // columns
    positions = torch.empty_like(order)
    positions[order.long()] = along.to(torch.int32)
    # The same curve with fewer samples has the same low frequencies, but for the norm.
    coefficients = spectrum(weight, order, shape.groups, shape.coefficients_per_row)
    coefficients = coefficients * math.sqrt(shape.length / columns)
    return EncodedWeight(coefficients.to(weight.dtype), positions, shape.length, tuple(weight.shape))


def _matrix(weight: Tensor, groups: int) -> tuple[Tensor, float]:
    """The reshaped weight (groups, columns) in float32 at least, times a power of two, and that power.

    Its largest magnitude is then between 1/2 and 1, so that squares neither overflow nor vanish, and nothing is
    rounded.
    """
    matrix = weight.detach().reshape(groups, _columns(weight, groups))
    matrix = matrix.to(torch.promote_types(weight.dtype, torch.float32))
    most = 126 if matrix.dtype == torch.float32 else 1000
    exponent = math.frexp(matrix.abs().max().item())[1]
    scale = 2.0 ** -max(-most, min(most, exponent))
    if matrix.device.type != "cpu":
        return matrix * scale, scale
    columns = matrix.new_empty(matrix.shape[::-1])  # side by side in memory, as all that is compiled takes them
    return torch.mul(matrix, scale, out=columns.T), scale


def nearest_neighbor_order(weight: Tensor, groups: int) -> Tensor:
    """The columns of a weight in the order of the nearest-neighbor chain, which depends on `groups` alone.

    >>> nearest_neighbor_order(torch.tensor([[0.0, 5.0, 1.0, 4.0]]), groups=1)
    tensor([1, 3, 2, 0], dtype=torch.int32)

    Args:
        weight: any shape, floating point, finite.
        groups: rows of the reshaped matrix; divides the number of elements.

    Returns:
        (columns,) int32, on the weight's device.

    Raises:
        TenreoError: when groups do not divide the elements, or the weight is not finite.
    """
    order = chain(_matrix(weight, groups)[0].to("cpu", torch.float32).numpy())
    return torch.from_numpy(order).to(weight.device)


def spectrum(weight: Tensor, order: Tensor, groups: int, coefficients_per_row: int | None = None) -> Tensor:
    """The orthonormal DCT-II of every row along a path through all columns.

    Args:
        weight: groups * columns elements.
        order: (columns,) of `nearest_neighbor_order`.
        groups: rows of the reshaped matrix.
        coefficients_per_row: frequencies to return; all of them without it.

    Returns:
        (groups, coefficients_per_row), float32 at least.
    """
    matrix, scale = _matrix(weight, groups)
    return dct(matrix.index_select(1, order), coefficients_per_row) / scale


def _columns(weight: Tensor, groups: int) -> int:
    numel = weight.numel()
    if groups < 1 or numel == 0 or numel % groups:
        raise TenreoError(
            f"encode: given groups={groups} for a weight of {numel} elements, "
            "needs a divisor of that number; choose other groups"
        )
    return numel // groups


def refined(weight: Tensor, encoded: EncodedWeight, rounds: int) -> EncodedWeight:
    """Lower the error of an encoded weight at the same counts; positions become many-to-one.

    The steps are those of `tenreo.codec.refine`, done on the weight's device, in float32 at least.

    >>> weight = torch.randn(64, 64)
    >>> paper = encode(weight, groups=4, coefficients_per_row=128)
    >>> better = refined(weight, paper, rounds=4)
    >>> bool((weight - decode(better)).norm() < (weight - decode(paper)).norm())
    True

    Args:
        weight: what was encoded.
        encoded: its encoding.
        rounds: at most so many.

    Returns:
        An encoding whose squared error is not larger, in the weight's own dtype; the given one for 0 rounds.

    Raises:
        TenreoError: when rounds is negative.
    """
    if rounds < 0:
        raise TenreoError(f"refine: given {rounds} rounds, needs at least 0 (0 is the paper's encoding)")
    if rounds == 0:
        return encoded
    matrix, scale = _matrix(weight, len(encoded.coefficients))  # (groups, columns)
    start = encoded.coefficients.to(matrix.dtype) * scale
    columns, dtype = columns_of(matrix), matrix.dtype
    del matrix  # of a large layer, one copy less
    positions, coefficients = refine(columns, encoded.positions, start, encoded.length, rounds)
    better = replace(encoded, positions=positions, coefficients=(coefficients / scale).to(weight.dtype))
    if weight.dtype == dtype:
        return better
    # Rounding to 16 bits can cost more than refinement gained.
    better = _reassigned(weight, better)
    return better if squared_error(weight, better) < squared_error(weight, encoded) else encoded


def _reassigned(weight: Tensor, encoded: EncodedWeight) -> EncodedWeight:
    """Every column at the sample of the curve that is nearest to it."""
    matrix, scale = _matrix(weight, len(encoded.coefficients))  # (groups, columns)
    coefficients = encoded.coefficients.to(matrix.dtype) * scale
    return replace(encoded, positions=assign(matrix, coefficients, encoded.length, encoded.positions))


def squared_error(weight: Tensor, encoded: EncodedWeight) -> float:
    """The squared distance of a decoded weight from the weight, in float64."""
    return energy(weight, decode(encoded))


def quantize(weight: Tensor, encoded: EncodedWeight, precision: Precision, reassign: bool = True) -> EncodedWeight:
    """Round the coefficients of an encoded weight to what a file of that precision holds.

    Args:
        weight: what was encoded.
        encoded: its encoding.
        precision: number format of the coefficients in a file.
        reassign: move every column to the nearest sample of the rounded curve; False keeps the positions.

    Raises:
        TenreoError: when a coefficient does not fit into float16.
    """
    if precision == Precision.FLOAT32:
        return encoded
    rounded = replace(encoded, coefficients=fake_quantize(encoded.coefficients, precision))
    return _reassigned(weight, rounded) if reassign else rounded


def decode(encoded: EncodedWeight) -> Tensor:
    """Return the weight that a curve and its positions stand for; differentiable, twice and more, in both modes.

    >>> weight = torch.randn(16, 16)
    >>> encoded = encode(weight, groups=4, coefficients_per_row=64)  # every frequency: nothing is lost
    >>> torch.allclose(decode(encoded), weight, atol=1e-5)
    True

    Args:
        encoded: coefficients (groups, coefficients_per_row), positions (columns,), each in [0, length).

    Returns:
        A tensor of `encoded.shape`, of the coefficients' dtype.

    Raises:
        TenreoError: when there are more coefficients than samples.
    """
    index = folded_index(encoded.positions, encoded.length)
    columns = decode_columns(encoded.coefficients, index, encoded.length)  # (groups, columns)
    return columns.reshape(encoded.shape)


def project(weight: Tensor, positions: Tensor, shape: CurveShape) -> Tensor:
    """Return the coefficients whose decoding is closest to a weight, the positions being given.

    Args:
        weight: groups * columns elements.
        positions: (columns,) in [0, length).
        shape: of the curve.

    Returns:
        (groups, coefficients_per_row) coefficients; least squares, to the precision of 100 conjugate gradients.
    """
    matrix, scale = _matrix(weight, shape.groups)
    start = matrix.new_zeros(shape.groups, shape.coefficients_per_row)
    return (fit(matrix, positions, start, shape.length, iterations=100) / scale).to(weight.dtype)
