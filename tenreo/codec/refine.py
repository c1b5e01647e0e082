"""Refinement: positions and coefficients improved in turn, at the same counts.

Decoding only gathers, so nothing forces a column to keep the place that the chain gave it. A round
is two steps, neither of which can raise the squared error |S - curve[:, positions]|^2:

*assign*: every column takes the nearest sample of the curve, so positions become many-to-one;
*fit*: the coefficients become the least-squares fit of the curve to its columns. With T the
truncated orthonormal DCT-II and D the number of columns at each sample, (T D T') Y = T S, by
conjugate gradients from the coefficients that are there.

Like k-means, this creeps. So the next round starts beyond the fit: STEP times as far, and with
MOMENTUM of the last move; a round that this makes worse is done again from the best fit so far.
Where samples are many more than coefficients, the first round starts from a better curve than the
chain's, that of `sweeps`. What else was tried is in docs/research/refinement.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tenreo.codec.box_tree import arrange
from tenreo.codec.cosine import LONG, dct, idct
from tenreo.codec.distortion import energy
from tenreo.codec.nearest import distances, move_to_nearest
from tenreo.codec.sweep_start import sweeps
from tenreo.codec.threads import report

ENOUGH = 0.005  # dB: rounds end when one from the best fit gains less
STEP = 2.2
MOMENTUM = 0.6
_ITERATIONS, _SOLVED = 8, 3e-3  # of conjugate gradients in a round, whose positions are to move anyway
# Sweeps are the better start with so many samples for each coefficient, by rows: docs/research/refinement.md.
_AMPLE = {2: 48, 3: 14, 4: 8}
_LARGE = 4096  # columns, below which sweeps gain little
# From sweeps, rounds are fewer the more samples there are for each coefficient, and the more columns above these.
_MANY, _FEWEST = 65536, 5
_BLOCK = 8192  # columns, and samples, that are compared at a time without a tree: 256 MB


@dataclass(frozen=True)
class _Fit:
    positions: Tensor  # (n,)
    coefficients: Tensor  # (g, coefficients_per_row)
    error: float  # squared


@dataclass(frozen=True)
class _Start:
    """Where a round begins."""

    positions: Tensor  # (n,) near the columns; nearer ones only make the search faster
    coefficients: Tensor  # (g, coefficients_per_row)
    velocity: Tensor  # (g, coefficients_per_row), the last move of the coefficients


def refine(
    columns: Columns, positions: Tensor, coefficients: Tensor, length: int, rounds: int
) -> tuple[Tensor, Tensor]:
    """Lower the error of a curve and its positions without adding a number to them.

    Args:
        columns: `columns_of` a matrix (g, n); the work is done on its device.
        positions: (n,) int32 in [0, length).
        coefficients: (g, coefficients_per_row), of the matrix's dtype.
        length: samples on the curve.
        rounds: at most so many; fewer do where samples are many more than coefficients.

    Returns:
        Positions and coefficients; their squared error is never above that of the given ones.
    """
    given = _measured(columns, columns.sorted(positions), coefficients, length)
    best = _along_sweeps(columns, coefficients.shape[1], length, rounds)
    if best is None or not best.error < given.error:
        best = _descend(columns, given, length, rounds)
    return columns.unsorted(columns.assign(best.coefficients, length, best.positions)), best.coefficients


def _along_sweeps(columns: Columns, per_row: int, length: int, rounds: int) -> _Fit | None:
    """The best fit from a curve that sweeps through the columns, or None where that is no better start than theirs."""
    rows, count = columns.matrix.shape
    ample = _AMPLE.get(rows, math.inf) * per_row
    if rounds < 2 or per_row < 2 or count < _LARGE or length < ample:
        return None
    fewer = round(rounds * max(ample / length, math.sqrt(_MANY / count)))
    return _descend(columns, _swept(columns, per_row, length), length, min(rounds, max(fewer, _FEWEST)))


def _swept(columns: Columns, per_row: int, length: int) -> _Fit:
    """The fit to the positions that sweeps give."""
    coefficients, positions = sweeps(columns.matrix.cpu().float(), per_row, length)
    positions = positions.to(columns.matrix.device)
    coefficients = fit(columns.matrix, positions, coefficients.to(columns.matrix), length, _ITERATIONS, _SOLVED)
    return _measured(columns, positions, coefficients, length)


def _measured(columns: Columns, positions: Tensor, coefficients: Tensor, length: int) -> _Fit:
    return _Fit(positions, coefficients, columns.error(coefficients, length, positions))


def _descend(columns: Columns, best: _Fit, length: int, rounds: int) -> _Fit:
    """Do at most so many rounds from a fit; return the best one."""
    exact = 100 * torch.finfo(columns.matrix.dtype).eps ** 2 * energy(columns.matrix.T.contiguous())
    still = torch.zeros_like(best.coefficients)
    start = _Start(best.positions, best.coefficients, still)
    for left in reversed(range(rounds)):
        if best.error <= exact:
            break
        report(1 - (left + 1) / (rounds + 1))
        trial = _round(columns, start, length)
        if not trial.error < best.error and start.coefficients is not best.coefficients:
            start = _Start(best.positions, best.coefficients, still)
            trial = _round(columns, start, length)
        if not trial.error < best.error:
            break
        settled = start.coefficients is best.coefficients
        gain = 10 * math.log10(best.error / max(trial.error, exact))
        best = trial
        if gain < ENOUGH and settled:
            break
        velocity = STEP * (best.coefficients - start.coefficients) + MOMENTUM * start.velocity
        start = _Start(best.positions, start.coefficients + velocity, velocity)
        if gain < ENOUGH or left == 1:
            start = _Start(best.positions, best.coefficients, still)
    return best


def _round(columns: Columns, start: _Start, length: int) -> _Fit:
    positions = columns.assign(start.coefficients, length, start.positions)
    coefficients = fit(columns.matrix, positions, start.coefficients, length, _ITERATIONS, _SOLVED)
    return _measured(columns, positions, coefficients, length)


def assign(matrix: Tensor, coefficients: Tensor, length: int, positions: Tensor) -> Tensor:
    """Move every column to the nearest sample of a curve, unless it is as near to its own.

    Args:
        matrix: (g, n).
        coefficients: (g, coefficients_per_row) of the curve, of the matrix's dtype.
        length: samples on the curve.
        positions: (n,) int32, where the columns are; on the CPU they bound the search.

    Returns:
        (n,) int32.
    """
    columns = columns_of(matrix)
    return columns.unsorted(columns.assign(coefficients, length, columns.sorted(positions)))


def columns_of(matrix: Tensor) -> Columns:
    """The columns of a matrix (g, n), as `refine` takes them; the matrix is not to be used any more."""
    return _Sorted(matrix) if matrix.device.type == "cpu" else _Unsorted(matrix)


class _Sorted:
    """The columns of a matrix on the CPU in an order in which neighbors search in the same part of the tree."""

    def __init__(self, matrix: Tensor) -> None:
        self.points = matrix.T.contiguous().numpy()  # (n, g)
        self.order = arrange(self.points)
        self.matrix = torch.from_numpy(self.points).T  # (g, n)
        self.near = np.empty(len(self.points), self.points.dtype)

    def sorted(self, positions: Tensor) -> Tensor:
        """Positions of the columns in the new order."""
        return torch.from_numpy(positions.numpy()[self.order])

    def unsorted(self, positions: Tensor) -> Tensor:
        """Positions of the columns in the order of the matrix."""
        result = np.empty_like(positions.numpy())
        result[self.order] = positions.numpy()
        return torch.from_numpy(result)

    def assign(self, coefficients: Tensor, length: int, positions: Tensor) -> Tensor:
        """The nearest sample of each column."""
        found = positions.numpy().copy()
        move_to_nearest(_samples(coefficients, length), self.points, found, self.near)
        return torch.from_numpy(found)

    def error(self, coefficients: Tensor, length: int, positions: Tensor) -> float:
        """The squared error."""
        error: float = distances(_samples(coefficients, length), self.points, positions.numpy(), self.near)
        return error


class _Unsorted:
    """The columns of a matrix on another device."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def sorted(self, positions: Tensor) -> Tensor:
        """The positions."""
        return positions

    unsorted = sorted

    def assign(self, coefficients: Tensor, length: int, positions: Tensor) -> Tensor:
        """The nearest sample of each column, unless it is as near to its own."""
        curve = idct(coefficients, length)
        found = _nearest_of_all(self.matrix.float().T, curve.float().T.contiguous(), positions)
        # Found in float32; only what is nearer in the matrix's own precision counts.
        before = (self.matrix - curve[:, positions]).square().sum(0)
        after = (self.matrix - curve[:, found]).square().sum(0)
        return torch.where(after < before, found, positions)

    def error(self, coefficients: Tensor, length: int, positions: Tensor) -> float:
        """The squared error."""
        return (self.matrix - idct(coefficients, length)[:, positions]).square().sum(dtype=torch.float64).item()


Columns = _Sorted | _Unsorted


def _samples(coefficients: Tensor, length: int) -> Any:
    """(length, g) samples on a curve."""
    samples = coefficients.new_empty(length, len(coefficients))
    for rows, made in zip(_parts(coefficients, length), _parts(samples.T, length), strict=True):
        made.copy_(idct(rows, length))
    return samples.numpy()


def _parts(rows: Tensor, length: int) -> tuple[Tensor, ...]:
    """The rows whose transforms are done together: all, which is faster, or one, in less memory."""
    return rows.chunk(1 if length < LONG else len(rows))


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


def fit(
    matrix: Tensor, positions: Tensor, coefficients: Tensor, length: int, iterations: int = 20, enough: float = 0.0
) -> Tensor:
    """Bring coefficients closer to the least-squares fit of a curve to columns at given positions.

    Args:
        matrix: (g, n).
        positions: (n,) int32 in [0, length).
        coefficients: (g, coefficients_per_row), where to start.
        length: samples on the curve.
        iterations: of conjugate gradients; none makes the fit worse, but for rounding: where the system is nearly
            singular, float32 can, and callers compare.
        enough: end once the squared residual of the normal equations is this share of what it was.

    Returns:
        (g, coefficients_per_row).
    """
    count = coefficients.shape[1]
    density = torch.bincount(positions, minlength=length).to(matrix.dtype)  # (length,)
    target = torch.cat([dct(scatter(rows, positions, length), count) for rows in _parts(matrix, length)])  # (g, count)
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
    limit = enough * energy.sum()
    for _ in range(iterations):
        if enough and energy.sum() <= limit:
            break
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
