"""Ramps: curves of one row whose samples are evenly spaced, for quantization at a price per bit.

A sample at position p of L has the level i = p - (L - 1) / 2, rounded towards zero. So the levels rise from -M to M. If
L is odd, one sample in the middle has the level 0; if L is even, two samples have it, an even and an odd one, so that a
path through a trellis can stay there. A ramp is a sum of three functions: an offset, the levels, and their signs, which
set how far the levels 1 and -1 are from the level 0. The coefficients are of the size of the weights, whatever M is:

    sample = Y[0] + Y[1] i / M + Y[2] sign(i)

No table of the samples is needed for decoding, so a ramp can have millions of them: weights with outliers keep the step
that suits the others.
"""

import torch
from torch import Tensor

from tenreo.codec.pieces import pieces


def most_level(length: int) -> int:
    """Return the largest level M of a ramp with `length` samples, at least 3.

    >>> most_level(9), most_level(10)
    (4, 4)
    """
    return (length - 1) // 2


def levels(positions: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Return the levels of positions in a floating-point dtype; exact in float32 for up to 2^24 samples.

    >>> levels(torch.arange(6), 6, torch.float32).int().tolist()
    [-2, -1, 0, 0, 1, 2]
    """
    return (positions.to(dtype) - (length - 1) / 2).trunc()


def decode_ramp(coefficients: Tensor, positions: Tensor, length: int) -> Tensor:
    """Return the sample at each position: (1, 3) -> (1, columns); differentiable.

    >>> decode_ramp(torch.tensor([[0.0, 2.0, 0.0]]), torch.tensor([0, 2, 3]), length=5)
    tensor([[-2.,  0.,  1.]])

    Args:
        coefficients: (1, 3) floating point.
        positions: (columns,) integers in [0, length).
        length: samples on the ramp, 3 to 2^24.
    """
    own = torch.promote_types(coefficients.dtype, torch.float32)
    level = levels(positions, length, own)
    offset, end, jump = (coefficients.to(own)[:, i : i + 1] for i in range(3))
    return (offset + end / most_level(length) * level + jump * level.sign()).to(coefficients.dtype)


def fit_ramp(row: Tensor, positions: Tensor, coefficients: Tensor, length: int, offset: bool) -> Tensor:
    """Return the ramp with the smallest squared error at given positions.

    Args:
        row: (columns,) values, on the CPU as all tensors.
        positions: (columns,) integers in [0, length).
        coefficients: (1, 3), the present ramp; where the positions do not determine the best ramp, it is kept.
        length: samples on the ramp.
        offset: whether to fit the offset.

    Returns:
        (1, 3).
    """
    used, inverse = torch.arange(min(length, len(row))), positions
    if length > len(row):  # then a table of all samples would be larger than the weight
        used, inverse = torch.unique(positions, return_inverse=True)
    density = torch.bincount(inverse, minlength=len(used)).double()
    sums = torch.zeros(len(used), dtype=torch.float64)
    for part in pieces(len(row)):
        sums.index_add_(0, inverse[part], row[part].double())
    level = levels(used, length, torch.float64)
    constant = torch.full_like(level, float(offset))
    basis = torch.stack([constant, level / most_level(length), level.sign()])  # (3, used)
    start = coefficients[0].double()
    normal = basis * density @ basis.T  # (3, 3); singular if few samples have columns
    scale = normal.diagonal().sqrt().clamp_min(1e-300).reciprocal()
    residual = basis @ (sums - density * (start @ basis))
    pseudo_inverse = torch.linalg.pinv(scale[:, None] * normal * scale, rtol=1e-12, hermitian=True)
    fitted = start + scale * (pseudo_inverse @ (scale * residual))
    best: Tensor = fitted[None].to(coefficients.dtype)
    return best
