"""Refinement: positions and coefficients improved in turn, at the same counts.

Decoding only gathers, so nothing forces a column to keep the place that the chain gave it. A round
is two steps, neither of which can raise the squared error |S - curve[:, positions]|^2:

*assign*: every column takes the nearest sample of the curve, so positions become many-to-one;
*fit*: the coefficients become the least-squares fit of the curve to its columns. With T the
truncated orthonormal DCT-II and D the number of columns at each sample, (T D T') Y = T S, by
conjugate gradients from the coefficients that are there.

Like k-means, this creeps. So the next round starts beyond the fit: STEP times as far, and with
MOMENTUM of the last move; a round that this makes worse is done again from the best fit so far.
What else was tried is in docs/research/refinement.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tenreo.codec.cosine import dct, idct
from tenreo.codec.tree import nearest_of_each

ENOUGH = 0.005  # dB: rounds end when one from the best fit gains less
STEP = 2.2
MOMENTUM = 0.6
_BLOCK = 8192  # columns, and samples, that are compared at a time without a tree: 256 MB


@dataclass(frozen=True)
class _Fit:
    positions: Tensor  # (n,)
    coefficients: Tensor  # (g, coefficients_per_row)
    error: float  # squared


def refine(matrix: Tensor, positions: Tensor, coefficients: Tensor, length: int, rounds: int) -> tuple[Tensor, Tensor]:
    """Lower the error of a curve and its positions without adding a number to them.

    Args:
        matrix: (g, n) floating point; the work is done on its device.
        positions: (n,) int32 in [0, length).
        coefficients: (g, coefficients_per_row), of the matrix's dtype.
        length: samples on the curve.
        rounds: at most so many.

    Returns:
        Positions and coefficients; their squared error is never above that of the given ones.
    """
    best = _Fit(positions, coefficients, _error(matrix, idct(coefficients, length), positions))
    exact = 100 * torch.finfo(matrix.dtype).eps ** 2 * matrix.double().square().sum().item()
    start, velocity = coefficients, torch.zeros_like(coefficients)
    for left in reversed(range(rounds)):
        if best.error <= exact:
            break
        trial = _round(matrix, best.positions, start, length)
        if not trial.error < best.error and start is not best.coefficients:
            start, velocity = best.coefficients, torch.zeros_like(velocity)
            trial = _round(matrix, best.positions, start, length)
        if not trial.error < best.error:
            break
        settled = start is best.coefficients
        gain = 10 * math.log10(best.error / max(trial.error, exact))
        best = trial
        if gain < ENOUGH and settled:
            break
        velocity = STEP * (best.coefficients - start) + MOMENTUM * velocity
        start = start + velocity
        if gain < ENOUGH or left == 1:
            start, velocity = best.coefficients, torch.zeros_like(velocity)
    return assign(matrix, idct(best.coefficients, length), best.positions), best.coefficients


def _round(matrix: Tensor, positions: Tensor, coefficients: Tensor, length: int) -> _Fit:
    positions = assign(matrix, idct(coefficients, length), positions)
    coefficients = fit(matrix, positions, coefficients, length)
    return _Fit(positions, coefficients, _error(matrix, idct(coefficients, length), positions))


def _error(matrix: Tensor, curve: Tensor, positions: Tensor) -> float:
    return (matrix - curve[:, positions]).square().sum(dtype=torch.float64).item()


def assign(matrix: Tensor, curve: Tensor, positions: Tensor) -> Tensor:
    """Move every column to the nearest sample of a curve, unless it is as near to its own.

    Args:
        matrix: (g, n).
        curve: (g, length).
        positions: (n,) int32, where the columns are; on the CPU they bound the search.

    Returns:
        (n,) int32.
    """
    points, samples = matrix.float().T.contiguous(), curve.float().T.contiguous()  # (n, g), (length, g)
    search = _nearest_by_tree if matrix.device.type == "cpu" else _nearest_of_all
    found = search(points, samples, positions)
    # Found in float32; only what is nearer in the matrix's own precision counts.
    before = (matrix - curve[:, positions]).square().sum(0)
    after = (matrix - curve[:, found]).square().sum(0)
    return torch.where(after < before, found, positions)


def _nearest_by_tree(points: Tensor, samples: Tensor, positions: Tensor) -> Tensor:
    start = positions.numpy()
    found = np.empty_like(start)
    along = np.argsort(start, kind="stable")  # neighbors on the curve search in the same part of the tree
    nearest_of_each(samples.numpy(), points.numpy(), along, start, found)
    return torch.from_numpy(found)


def _nearest_of_all(points: Tensor, samples: Tensor, positions: Tensor) -> Tensor:
    """Compare every point with every sample, block by block; memory does not grow with either."""
    found = torch.empty_like(positions)
    for i in range(0, len(points), _BLOCK):
        block = points[i : i + _BLOCK]
        best = block.new_full((len(block),), torch.inf)
        for j in range(0, len(samples), _BLOCK):
            part = samples[j : j + _BLOCK]
            # |s|^2 - 2 p.s orders samples as |p - s|^2 does.
            values, index = torch.addmm(part.square().sum(1), block, part.T, alpha=-2).min(1)
            found[i : i + _BLOCK] = torch.where(values < best, index.int() + j, found[i : i + _BLOCK])
            best = torch.minimum(values, best)
    return found


def fit(matrix: Tensor, positions: Tensor, coefficients: Tensor, length: int, iterations: int = 20) -> Tensor:
    """Bring coefficients closer to the least-squares fit of a curve to columns at given positions.

    Args:
        matrix: (g, n).
        positions: (n,) int32 in [0, length).
        coefficients: (g, coefficients_per_row), where to start.
        length: samples on the curve.
        iterations: of conjugate gradients; none makes the fit worse, but for rounding: where the system is nearly
            singular, float32 can, and callers compare.

    Returns:
        (g, coefficients_per_row).
    """
    count = coefficients.shape[1]
    density = torch.bincount(positions, minlength=length).to(matrix.dtype)  # (length,)
    target = dct(scatter(matrix, positions, length), count)
    # T D T' reaches no frequency of D beyond 2 count - 2, so a grid of 2 count samples holds it exactly.
    grid = 1 << (2 * count - 1).bit_length()
    if grid < length:
        density = idct(dct(density, grid), grid) * math.sqrt(grid / length)
    else:
        grid = length

    def normal(y: Tensor) -> Tensor:
        return dct(idct(y, grid) * density, count)

    # A sample without columns makes the system singular: beyond these, a step is rounding alone.
    info = torch.finfo(matrix.dtype)
    floor = info.eps**2 * target.square().sum(1, keepdim=True)
    residual = target - normal(coefficients)
    direction = residual
    energy = residual.square().sum(1, keepdim=True)  # (g, 1): every row is a system of its own
    for _ in range(iterations):
        image = normal(direction)
        curvature = (direction * image).sum(1, keepdim=True)
        sound = (energy > floor) & (curvature > info.eps * direction.square().sum(1, keepdim=True))
        step = torch.where(sound, energy / curvature, 0.0)
        coefficients = coefficients + step * direction
        residual = residual - step * image
        before, energy = energy, residual.square().sum(1, keepdim=True)
        direction = residual + energy / before.clamp_min(info.tiny) * direction
    return coefficients


def scatter(matrix: Tensor, positions: Tensor, length: int) -> Tensor:
    """Sum the columns that share a sample: the adjoint of gathering.

    Args:
        matrix: (g, n).
        positions: (n,) int32 in [0, length).
        length: samples on the curve.

    Returns:
        (g, length).
    """
    sums = matrix.new_zeros(matrix.shape[0], length)
    if matrix.device.type == "cpu":
        return sums.index_add_(1, positions.long(), matrix)  # 32-bit indices take ten times as long
    # On a GPU index_add_ adds in any order, and no two runs would agree; this one sorts.
    rows = torch.arange(matrix.shape[0], device=matrix.device)[:, None]
    return sums.index_put_((rows, positions[None].long()), matrix, accumulate=True)
