"""Weights to curves and back: `encode` and `decode` (section 2 of arXiv 2010.12110)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tenreo.core.chain import chain
from tenreo.core.cosine import dct, idct
from tenreo.errors import TenreoError


@dataclass(frozen=True)
class EncodedWeight:
    """A weight as a smooth curve and the place of every column on it.

    Attributes:
        coefficients: (groups, kept) low frequencies of the curve, orthonormal DCT-II.
        positions: (columns,) int32 in [0, length): the sample that each column takes.
        length: samples on the curve.
        shape: of the weight; its elements are groups * columns.
    """

    coefficients: Tensor
    positions: Tensor
    length: int
    shape: tuple[int, ...]


def encode(weight: Tensor, groups: int, kept: int) -> EncodedWeight:
    """Thread a short path through the columns of a weight and keep its low frequencies.

    Args:
        weight: any shape, floating point, finite; the order is found in float32 on the CPU.
        groups: rows of the reshaped matrix; divides the number of elements.
        kept: coefficients per row, in [1, columns].

    Returns:
        The encoded weight; coefficients have the weight's dtype and device.

    Raises:
        TenreoError: when groups or kept do not fit the weight, or it is not finite.
    """
    numel = weight.numel()
    if groups < 1 or numel == 0 or numel % groups:
        raise TenreoError(
            f"encode: given groups={groups} for a weight of {numel} elements, "
            "needs a divisor of that number; choose other groups"
        )
    columns = numel // groups
    if not 1 <= kept <= columns:
        raise TenreoError(f"encode: given kept={kept}, needs 1 to {columns} (columns of the matrix)")
    matrix = weight.detach().reshape(groups, columns)
    order = torch.from_numpy(chain(matrix.to("cpu", torch.float32).numpy())).to(weight.device)
    positions = torch.empty_like(order)
    positions[order.long()] = torch.arange(columns, dtype=torch.int32, device=weight.device)
    coefficients = dct(matrix.index_select(1, order), kept)  # (groups, columns) -> (groups, kept)
    return EncodedWeight(coefficients, positions, columns, tuple(weight.shape))


def decode(encoded: EncodedWeight) -> Tensor:
    """Return the weight that a curve and its positions stand for; differentiable.

    Args:
        encoded: coefficients (groups, kept), positions (columns,), each in [0, length).

    Returns:
        A tensor of `encoded.shape`, of the coefficients' dtype.

    Raises:
        TenreoError: when there are more coefficients than samples.
    """
    curve = idct(encoded.coefficients, encoded.length)  # (groups, length)
    return curve.index_select(1, encoded.positions).reshape(encoded.shape)


def project(weight: Tensor, positions: Tensor, length: int, groups: int, kept: int) -> Tensor:
    """Return the coefficients of a weight whose columns are laid on given samples of a curve.

    The least-squares choice when the positions are a permutation; the adjoint of decoding always.

    Args:
        weight: groups * columns elements.
        positions: (columns,) in [0, length).
        length: samples on the curve.
        groups: rows of the reshaped matrix.
        kept: coefficients per row.

    Returns:
        (groups, kept) coefficients.
    """
    curve = weight.new_zeros(groups, length)
    curve.index_add_(1, positions, weight.reshape(groups, -1))
    return dct(curve, kept)
