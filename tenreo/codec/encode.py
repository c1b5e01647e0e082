"""`encode` and `decode`: from a weight to a curve with positions, and back (section 2 of arXiv 2010.12110).

Encoding runs on the CPU whatever the device of the weight: its searches descend trees, which a GPU would replace by all
comparisons, and MPS has no float64. Decoding runs on the device.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tenreo.codec.chain import chain
from tenreo.codec.cosine import dct
from tenreo.codec.decoding import curve_index, decode_columns
from tenreo.codec.distortion import energy
from tenreo.codec.pieces import pieces
from tenreo.codec.precision import fake_quantize
from tenreo.codec.ramp import decode_ramp, fit_ramp
from tenreo.codec.refine import Columns, fit, refine
from tenreo.codec.shape import Basis, CurveShape, Precision
from tenreo.codec.threads import SINGLE_THREADED, Task
from tenreo.errors import TenreoError


@dataclass(frozen=True)
class EncodedWeight:
    """A weight as a smooth curve and the position of every column on it.

    Attributes:
        coefficients: (groups, coefficients_per_row) low frequencies of the curve, orthonormal DCT-II.
        positions: (columns,) int32 in [0, length): the sample of the curve for each column.
        length: samples on the curve.
        shape: shape of the weight; it has groups * columns elements.
        memory: bits of memory of the trellis (`tenreo.codec.trellis`) whose path the positions are; 0: no trellis.
        basis: functions of the curve.
    """

    coefficients: Tensor
    positions: Tensor
    length: int
    shape: tuple[int, ...]
    memory: int = 0
    basis: Basis = Basis.COSINE

    def to(self, device: torch.device) -> "EncodedWeight":
        """Return the same encoding on a device."""
        return replace(self, coefficients=self.coefficients.to(device), positions=self.positions.to(device))


def encode(
    weight: Tensor, groups: int, coefficients_per_row: int, refine: int = 0, *,
    length: int | None = None, precision: str = "float32", order: Tensor | None = None,
) -> EncodedWeight:  # fmt: skip
    """Order the columns of a weight along a short path and keep the low frequencies of the curve.

    >>> encoded = encode(torch.randn(64, 32, 3, 3), groups=4, coefficients_per_row=512)
    >>> encoded.coefficients.shape, encoded.positions.shape, encoded.length
    (torch.Size([4, 512]), torch.Size([4608]), 4608)

    Args:
        weight: any shape, floating point, finite. The columns are ordered in float32.
        groups: rows of the reshaped matrix; divides the number of elements.
        coefficients_per_row: number of coefficients, in [1, length].
        refine: maximum number of refinement rounds; 0 gives the paper's encoding.
        length: samples on the curve, in [1, columns]. By default one per column, as in the paper.
        precision: number format of the coefficients, one of `Precision`; they are rounded to it.
        order: result of `nearest_neighbor_order` for this weight, if it was computed before.

    Returns:
        The encoded weight, on the weight's device; coefficients have the weight's dtype.

    Raises:
        TenreoError: if groups, length, coefficients_per_row or precision do not fit the weight, or it is not finite.
    """
    shape = _check(weight, groups, coefficients_per_row, length, precision)
    device, weight = weight.device, weight.cpu()
    order = nearest_neighbor_order(weight, groups) if order is None else order.cpu()
    unrefined = _encode_in_order(weight, order, shape)
    encoded = quantize(weight, refined(weight, unrefined, refine), shape.precision, reassign=refine > 0)
    check_range(weight, decode(encoded))
    return encoded.to(device)


def check_range(weight: Tensor, encoded: Tensor) -> Tensor:
    """Return coefficients or decoded values of a weight, unless they exceed the range of its dtype.

    Raises:
        TenreoError: if they are not finite.
    """
    if not torch.isfinite(encoded).all():
        raise TenreoError(
            f"encode: given values up to {weight.abs().max():.3g}, whose curve exceeds the range of {weight.dtype}; "
            "exclude the weight, convert it to a wider dtype, or scale it"
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


def _encode_in_order(weight: Tensor, order: Tensor, shape: CurveShape) -> EncodedWeight:
    """Return the paper's encoding: columns evenly spaced along the curve, in order."""
    columns = len(order)
    samples = torch.arange(columns) * shape.length // columns
    positions = torch.empty_like(order)
    positions[order.long()] = samples.to(torch.int32)
    # The same curve with fewer samples has the same low frequencies except for the norm.
    coefficients = spectrum(weight, order, shape.groups, shape.coefficients_per_row)
    coefficients = coefficients * math.sqrt(shape.length / columns)
    return EncodedWeight(coefficients.to(weight.dtype), positions, shape.length, tuple(weight.shape))


def scaled_matrix(weight: Tensor, groups: int) -> tuple[Tensor, float]:
    """Reshape a weight and scale it by a power of two, so that its squares neither overflow nor vanish.

    Returns:
        (groups, columns) of float32 or wider on the CPU, whose largest magnitude is between 1/2 and 1, and the scale.
        Scaling rounds nothing.
    """
    matrix = weight.detach().cpu().reshape(groups, _columns(weight, groups))
    dtype = torch.promote_types(weight.dtype, torch.float32)
    most = 126 if dtype == torch.float32 else 1000
    exponent = math.frexp(max(each.abs().item() for each in matrix.aminmax()))[1]
    scale = 2.0 ** -max(-most, min(most, exponent))
    columns = matrix.new_empty(matrix.shape[::-1], dtype=dtype)  # each column is contiguous, for compiled functions
    return columns.T.copy_(matrix).mul_(scale), scale


def nearest_neighbor_order(weight: Tensor, groups: int, task: Task = SINGLE_THREADED) -> Tensor:
    """Return the columns of a weight in the order of the nearest-neighbor chain.

    >>> nearest_neighbor_order(torch.tensor([[0.0, 5.0, 1.0, 4.0]]), groups=1)
    tensor([1, 3, 2, 0], dtype=torch.int32)

    Args:
        weight: any shape, floating point, finite.
        groups: rows of the reshaped matrix; divides the number of elements.
        task: receives the progress.

    Returns:
        (columns,) int32, on the CPU.

    Raises:
        TenreoError: if `groups` does not divide the number of elements, or the weight is not finite.
        CancelledError: if the task was cancelled.
    """
    order = chain(scaled_matrix(weight, groups)[0].float().numpy(), task)
    return torch.from_numpy(order)


def spectrum(weight: Tensor, order: Tensor, groups: int, coefficients_per_row: int | None = None) -> Tensor:
    """Return the orthonormal DCT-II of every row of a weight along a path through all columns.

    Args:
        weight: groups * columns elements.
        order: (columns,) path, usually from `nearest_neighbor_order`.
        groups: rows of the reshaped matrix.
        coefficients_per_row: number of frequencies to return; by default all.

    Returns:
        (groups, coefficients_per_row), float32 or wider.
    """
    matrix, scale = scaled_matrix(weight, groups)
    return dct(matrix.index_select(1, order), coefficients_per_row) / scale


def _columns(weight: Tensor, groups: int) -> int:
    numel = weight.numel()
    if groups < 1 or numel == 0 or numel % groups:
        raise TenreoError(
            f"encode: given groups={groups} for a weight of {numel} elements, "
            "needs a divisor of that number; choose other groups"
        )
    return numel // groups


def refined(weight: Tensor, encoded: EncodedWeight, rounds: int, task: Task = SINGLE_THREADED) -> EncodedWeight:
    """Reduce the error of an encoded weight without adding values; columns may then share positions.

    This is `tenreo.codec.refine.refine` in float32 or wider.

    >>> weight = torch.randn(64, 64)
    >>> paper = encode(weight, groups=4, coefficients_per_row=128)
    >>> better = refined(weight, paper, rounds=4)
    >>> bool((weight - decode(better)).norm() < (weight - decode(paper)).norm())
    True

    Args:
        weight: the weight that was encoded, on the CPU.
        encoded: its encoding.
        rounds: maximum number of rounds.
        task: receives the progress; its threads take part in the search.

    Returns:
        An encoding whose squared error, in the weight's dtype, is not larger; the given one for 0 rounds.

    Raises:
        TenreoError: if `rounds` is negative.
        CancelledError: if the task was cancelled.
    """
    if rounds < 0:
        raise TenreoError(f"refine: given {rounds} rounds, needs at least 0 (0 is the paper's encoding)")
    if rounds == 0:
        return encoded
    matrix, scale = scaled_matrix(weight, len(encoded.coefficients))  # (groups, columns)
    start = encoded.coefficients.to(matrix.dtype) * scale
    columns, dtype = Columns(matrix), matrix.dtype
    del matrix  # saves the memory of a copy
    positions, coefficients = refine(columns, encoded.positions, start, encoded.length, rounds, task)
    better = replace(encoded, positions=positions, coefficients=(coefficients / scale).to(weight.dtype))
    if weight.dtype == dtype:
        return better
    # Rounding to 16 bits can increase the error by more than refinement reduced it.
    better = _reassigned(weight, better)
    return better if squared_error(weight, better) < squared_error(weight, encoded) else encoded


def _reassigned(weight: Tensor, encoded: EncodedWeight) -> EncodedWeight:
    """Move every column to the nearest sample of the curve, unless its own sample is equally near."""
    matrix, scale = scaled_matrix(weight, len(encoded.coefficients))  # (groups, columns)
    coefficients = encoded.coefficients.to(matrix.dtype) * scale
    columns = Columns(matrix)
    positions = columns.assign(coefficients, encoded.length, columns.sorted(encoded.positions), SINGLE_THREADED)
    return replace(encoded, positions=columns.unsorted(positions))


def squared_error(weight: Tensor, encoded: EncodedWeight) -> float:
    """Return the squared distance between a weight and its decoded encoding, in float64."""
    if encoded.basis is not Basis.RAMP:
        return energy(weight, decode(encoded))
    row, total = weight.detach().reshape(-1), 0.0
    for part in pieces(len(row)):
        total += energy(row[part], decode_ramp(encoded.coefficients, encoded.positions[part], encoded.length)[0])
    return total


def quantize(weight: Tensor, encoded: EncodedWeight, precision: Precision, reassign: bool = True) -> EncodedWeight:
    """Round the coefficients of an encoded weight to a number format.

    Args:
        weight: the weight that was encoded, on the CPU.
        encoded: its encoding.
        precision: number format of the coefficients in a file.
        reassign: whether to move every column to the nearest sample of the rounded curve.

    Returns:
        An encoding with rounded coefficients in the dtype that they had.

    Raises:
        TenreoError: if a coefficient is too large for the number format.
    """
    if precision == Precision.FLOAT32:
        return encoded
    rounded = replace(encoded, coefficients=fake_quantize(encoded.coefficients, precision))
    return _reassigned(weight, rounded) if reassign else rounded


def decode(encoded: EncodedWeight) -> Tensor:
    """Return the weight of a curve and its positions; differentiable to any order, in forward and reverse mode.

    >>> weight = torch.randn(16, 16)
    >>> encoded = encode(weight, groups=4, coefficients_per_row=64)  # all frequencies, so decoding is exact
    >>> torch.allclose(decode(encoded), weight, atol=1e-5)
    True

    Args:
        encoded: coefficients (groups, coefficients_per_row) and positions (columns,) in [0, length).

    Returns:
        A tensor of shape `encoded.shape` and of the coefficients' dtype.

    Raises:
        TenreoError: if a row has more coefficients than the curve has samples.
    """
    if not isinstance(encoded, EncodedWeight):
        raise TenreoError(f"decode: given an object of type {type(encoded).__name__}, needs the result of encode")
    index = curve_index(encoded.positions, encoded.length, encoded.coefficients.shape[1], encoded.basis)
    columns = decode_columns(encoded.coefficients, index, encoded.length, basis=encoded.basis)  # (groups, columns)
    return columns.reshape(encoded.shape)


def project(weight: Tensor, positions: Tensor, shape: CurveShape) -> Tensor:
    """Return the coefficients that, decoded at given positions, are closest to a weight.

    Args:
        weight: groups * columns elements, on any device.
        positions: (columns,) integers in [0, length).
        shape: shape of the curve.

    Returns:
        (groups, coefficients_per_row): the least-squares solution after at most 100 conjugate-gradient iterations.
    """
    matrix, scale = scaled_matrix(weight, shape.groups)
    positions = positions.cpu()
    start = matrix.new_zeros(shape.groups, shape.coefficients_per_row)
    if shape.basis is Basis.RAMP:
        fitted = fit_ramp(matrix[0], positions, start, shape.length, offset=True)
    else:
        fitted = fit(matrix, positions, start, shape.length, iterations=100)
    return (fitted / scale).to(weight.dtype).to(weight.device)
