"""Weights to curves and back: `encode` and `decode` (section 2 of arXiv 2010.12110)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tenreo.core.chain import chain
from tenreo.core.cosine import dct, idct
from tenreo.core.decoding import Places, decode_columns, places
from tenreo.core.precision import rounded
from tenreo.core.refine import assign, fit, refine
from tenreo.errors import TenreoError
from tenreo.sizes import PRECISIONS


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


def encode(
    weight: Tensor,
    groups: int,
    kept: int,
    refine: int = 0,
    *,
    length: int | None = None,
    precision: str = "float32",
    order: Tensor | None = None,
) -> EncodedWeight:
    """Thread a short path through the columns of a weight and keep its low frequencies.

    Args:
        weight: any shape, floating point, finite; the order is found in float32 on the CPU.
        groups: rows of the reshaped matrix; divides the number of elements.
        kept: coefficients per row, in [1, length].
        refine: rounds of `refined`; 0 is the paper's encoding.
        length: samples on the curve, in [1, columns]; as many as columns in the paper, and without it.
        precision: of the coefficients, of `tenreo.sizes.PRECISIONS`; they are what a file gives back.
        order: what `thread` found for this weight, where it is known.

    Returns:
        The encoded weight; coefficients have the weight's dtype and device.

    Raises:
        TenreoError: when groups, length, kept or precision do not fit the weight, or it is not finite.
    """
    columns = _columns(weight, groups)
    length = columns if length is None else length
    if not 1 <= length <= columns:
        raise TenreoError(f"encode: given length={length}, needs 1 to {columns} (columns of the matrix)")
    if not 1 <= kept <= length:
        raise TenreoError(f"encode: given kept={kept}, needs 1 to {length} (samples on the curve)")
    if precision not in PRECISIONS:
        raise TenreoError(f"encode: given precision {precision!r}, needs one of {', '.join(PRECISIONS)}")
    order = thread(weight, groups) if order is None else order
    places = torch.arange(columns, device=weight.device) * length // columns
    positions = torch.empty_like(order)
    positions[order.long()] = places.to(torch.int32)
    # The same curve with fewer samples has the same low frequencies, but for the norm.
    coefficients = spectrum(weight, order, groups, kept) * math.sqrt(length / columns)
    unrefined = EncodedWeight(coefficients, positions, length, tuple(weight.shape))
    return light(weight, refined(weight, unrefined, refine), precision, reassign=refine > 0)


def thread(weight: Tensor, groups: int) -> Tensor:
    """The columns of a weight in the order of the chain, which depends on `groups` alone.

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


def spectrum(weight: Tensor, order: Tensor, groups: int, kept: int | None = None) -> Tensor:
    """(groups, kept) orthonormal DCT-II along the path through all columns; every frequency without `kept`."""
    matrix = weight.detach().reshape(groups, -1)  # (groups, columns)
    return dct(matrix.index_select(1, order), kept)


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


def light(weight: Tensor, encoded: EncodedWeight, precision: str, reassign: bool = True) -> EncodedWeight:
    """Round the coefficients of an encoded weight to what a file of that precision holds.

    Args:
        weight: what was encoded.
        encoded: its encoding.
        precision: of `tenreo.sizes.PRECISIONS`.
        reassign: let every column take its nearest sample of the curve as it is then; the paper's positions stay.

    Raises:
        TenreoError: when a coefficient does not fit into float16.
    """
    if precision == "float32":
        return encoded
    coefficients = rounded(encoded.coefficients, precision)
    positions = encoded.positions
    if reassign:
        dtype = torch.promote_types(weight.dtype, torch.float32)
        matrix = weight.detach().reshape(len(coefficients), -1).to(dtype)  # (groups, columns)
        positions = assign(matrix, idct(coefficients.to(dtype), encoded.length), positions)
    return replace(encoded, positions=positions, coefficients=coefficients)


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
