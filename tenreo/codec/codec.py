"""Weights to curves and back: `encode` and `decode` (section 2 of arXiv 2010.12110)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tenreo.codec.chain import chain
from tenreo.codec.cosine import dct, idct
from tenreo.codec.decoding import GatherIndex, decode_columns, gather_index
from tenreo.codec.precision import fake_quantize
from tenreo.codec.refine import assign, fit, refine
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
    """

    coefficients: Tensor
    positions: Tensor
    length: int
    shape: tuple[int, ...]


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
    return quantize(weight, better, shape.precision, reassign=refine > 0)


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
    return EncodedWeight(coefficients, positions, shape.length, tuple(weight.shape))


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
    matrix = weight.detach().reshape(groups, _columns(weight, groups))
    return torch.from_numpy(chain(matrix.to("cpu", torch.float32).numpy())).to(weight.device)


def spectrum(weight: Tensor, order: Tensor, groups: int, coefficients_per_row: int | None = None) -> Tensor:
    """The orthonormal DCT-II of every row along a path through all columns.

    Args:
        weight: groups * columns elements.
        order: (columns,) of `nearest_neighbor_order`.
        groups: rows of the reshaped matrix.
        coefficients_per_row: frequencies to return; all of them without it.

    Returns:
        (groups, coefficients_per_row).
    """
    matrix = weight.detach().reshape(groups, -1)  # (groups, columns)
    return dct(matrix.index_select(1, order), coefficients_per_row)


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
        An encoding whose squared error is not larger; the given one for 0 rounds.

    Raises:
        TenreoError: when rounds is negative.
    """
    if rounds < 0:
        raise TenreoError(f"refine: given {rounds} rounds, needs at least 0 (0 is the paper's encoding)")
    if rounds == 0:
        return encoded
    dtype = torch.promote_types(weight.dtype, torch.float32)
    matrix = weight.detach().reshape(len(encoded.coefficients), -1).to(dtype)  # (groups, columns)
    positions, coefficients = refine(matrix, encoded.positions, encoded.coefficients.to(dtype), encoded.length, rounds)
    return replace(encoded, positions=positions, coefficients=coefficients.to(weight.dtype))


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
    coefficients = fake_quantize(encoded.coefficients, precision)
    positions = encoded.positions
    if reassign:
        dtype = torch.promote_types(weight.dtype, torch.float32)
        matrix = weight.detach().reshape(len(coefficients), -1).to(dtype)  # (groups, columns)
        positions = assign(matrix, idct(coefficients.to(dtype), encoded.length), positions)
    return replace(encoded, positions=positions, coefficients=coefficients)


def decode(encoded: EncodedWeight, index: GatherIndex | None = None) -> Tensor:
    """Return the weight that a curve and its positions stand for; differentiable, twice and more.

    >>> weight = torch.randn(16, 16)
    >>> encoded = encode(weight, groups=4, coefficients_per_row=64)  # every frequency: nothing is lost
    >>> torch.allclose(decode(encoded), weight, atol=1e-5)
    True

    Args:
        encoded: coefficients (groups, coefficients_per_row), positions (columns,), each in [0, length).
        index: the `gather_index` of the positions, for callers that decode them often.

    Returns:
        A tensor of `encoded.shape`, of the coefficients' dtype.

    Raises:
        TenreoError: when there are more coefficients than samples.
    """
    index = index or gather_index(encoded.positions, encoded.length)
    weight: Tensor = decode_columns(encoded.coefficients, *index, encoded.length)  # (groups, columns)
    return weight.reshape(encoded.shape)


def project(weight: Tensor, positions: Tensor, shape: CurveShape) -> Tensor:
    """Return the coefficients whose decoding is closest to a weight, the positions being given.

    Args:
        weight: groups * columns elements.
        positions: (columns,) in [0, length).
        shape: of the curve.

    Returns:
        (groups, coefficients_per_row) coefficients; least squares, to the precision of 100 conjugate gradients.
    """
    matrix = weight.reshape(shape.groups, -1)  # (groups, columns)
    start = matrix.new_zeros(shape.groups, shape.coefficients_per_row)
    return fit(matrix, positions, start, shape.length, iterations=100)
