"""Weights to curves and back: `encode` and `decode` (section 2 of arXiv 2010.12110)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tenreo.core.chain import chain
from tenreo.core.cosine import dct
from tenreo.core.decoding import Places, decode_columns, places
from tenreo.core.refine import fit, refine
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


def encode(weight: Tensor, groups: int, kept: int, refine: int = 0) -> EncodedWeight:
    """Thread a short path through the columns of a weight and keep its low frequencies.

    Args:
        weight: any shape, floating point, finite; the order is found in float32 on the CPU.
        groups: rows of the reshaped matrix; divides the number of elements.
        kept: coefficients per row, in [1, columns].
        refine: rounds of `refined`; 0 is the paper's encoding.

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
    return refined(weight, EncodedWeight(coefficients, positions, columns, tuple(weight.shape)), refine)


def refined(weight: Tensor, encoded: EncodedWeight, rounds: int) -> EncodedWeight:
    """Lower the error of an encoded weight at the same counts; positions become many-to-one.

    The steps are those of `tenreo.core.refine`, done on the weight's device, in float32 at least.

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
    positions, coefficients = refine(
        matrix, encoded.positions, encoded.coefficients.to(dtype), encoded.length, rounds
    )
    return replace(encoded, positions=positions, coefficients=coefficients.to(weight.dtype))


def decode(encoded: EncodedWeight, known: Places | None = None) -> Tensor:
    """Return the weight that a curve and its positions stand for; differentiable, twice and more.

    Args:
        encoded: coefficients (groups, kept), positions (columns,), each in [0, length).
        known: the `places` of the positions, for who decodes them often.

    Returns:
        A tensor of `encoded.shape`, of the coefficients' dtype.

    Raises:
        TenreoError: when there are more coefficients than samples.
    """
    known = known or places(encoded.positions, encoded.length)
    weight: Tensor = decode_columns(encoded.coefficients, *known, encoded.length)  # (groups, columns)
    return weight.reshape(encoded.shape)


def project(weight: Tensor, positions: Tensor, length: int, groups: int, kept: int) -> Tensor:
    """Return the coefficients whose decoding is closest to a weight, the positions being given.

    Args:
        weight: groups * columns elements.
        positions: (columns,) in [0, length).
        length: samples on the curve.
        groups: rows of the reshaped matrix.
        kept: coefficients per row.

    Returns:
        (groups, kept) coefficients; least squares, to the precision of 100 conjugate gradients.
    """
    matrix = weight.reshape(groups, -1)
    return fit(matrix, positions, matrix.new_zeros(groups, kept), length, iterations=100)
