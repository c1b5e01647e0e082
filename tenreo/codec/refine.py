"""Refinement: positions and coefficients are improved alternately, without changing how many there are.

Decoding only gathers samples, so a column need not stay at the position that the chain gave it. A round has two steps,
neither of which can increase the squared error |S - curve[:, positions]|^2:

*assign*: every column moves to the nearest sample of the curve, so several columns may share a position;
*fit*: the coefficients become the least-squares fit of the curve to its columns. With T the truncated orthonormal
DCT-II and D the diagonal matrix of the number of columns at each sample, they solve (T D T') Y = T S, by conjugate
gradients that start from the present coefficients.

Like k-means, the alternation converges slowly. So the next round starts beyond the fit: it takes a longer step, and
adds a part of the previous one (momentum). A round that increases the error is repeated from the best fit so far. If
there are many samples per coefficient, the first round starts from the curve of `sweeps` instead of the chain's. The
experiments behind this are in docs/research/refinement.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tenreo.codec.box_tree import sort_for_tree
from tenreo.codec.cosine import LONG, dct, dct_folded, fold, idct, idct_folded
from tenreo.codec.distortion import energy
from tenreo.codec.nearest import add_at, move_to_nearest, squared_error
from tenreo.codec.sweep_start import sweeps
from tenreo.codec.threads import Task

STEP = 2.2  # length of a round's step, as a multiple of the difference between its fit and its start
MOMENTUM = 0.6  # fraction of the previous step that is added
MIN_GAIN = 0.005  # dB; rounds end when one that starts from the best fit gains less
# By the number of rows: with at least this number of samples per coefficient, sweeps are the better start.
SWEEP_RATIOS = {2: 48, 3: 14, 4: 8}
_ITERATIONS, _TOLERANCE = 8, 3e-3  # of the conjugate gradients in a round, which need not be exact: positions will move
_SWEEP_COLUMNS = 4096  # with fewer columns, sweeps gain little
_SWEEP_FULL_ROUNDS, _SWEEP_ROUNDS = 65536, 5  # fewer rounds above this number of columns, and the minimum of rounds


class _Fit(NamedTuple):
    positions: Tensor  # (n,)
    coefficients: Tensor  # (g, coefficients_per_row)
    error: float  # squared


class _Start(NamedTuple):
    """The state from which a round starts."""

    positions: Tensor  # (n,); samples near the columns make the search faster but do not change its result
    coefficients: Tensor  # (g, coefficients_per_row)
    velocity: Tensor  # (g, coefficients_per_row), the last step of the coefficients


def refine(
    columns: Columns, positions: Tensor, coefficients: Tensor, length: int, rounds: int, task: Task
) -> tuple[Tensor, Tensor]:
    """Reduce the error of a curve and its positions without adding values.

    Args:
        columns: the columns of a matrix (g, n).
        positions: (n,) int32 in [0, length).
        coefficients: (g, coefficients_per_row), of the matrix's dtype.
        length: samples on the curve.
        rounds: maximum number of rounds; after sweeps, fewer are needed.
        task: receives the progress; its threads take part in the search.

    Returns:
        Positions and coefficients, whose squared error is not larger than that of the given ones.

    Raises:
        CancelledError: if the task was cancelled.
    """
    search = _Search(columns, length, task)
    error = columns.error(coefficients, length, columns.sorted(positions))
    best = search.from_sweeps(coefficients.shape[1], rounds)
    if best is None or not best.error < error:
        best = search.descend(_Fit(columns.sorted(positions), coefficients, error), rounds)
    return columns.unsorted(columns.assign(best.coefficients, length, best.positions, task)), best.coefficients


@dataclass(frozen=True)
class _Search:
    """The alternation on one matrix."""

    columns: Columns
    length: int
    task: Task

    def measure(self, positions: Tensor, coefficients: Tensor) -> _Fit:
        return _Fit(positions, coefficients, self.columns.error(coefficients, self.length, positions))

    def from_sweeps(self, per_row: int, rounds: int) -> _Fit | None:
        """Return the best fit that starts from sweeps, or None if the chain is the better start."""
        rows, count = self.columns.matrix.shape
        needed = SWEEP_RATIOS.get(rows, math.inf) * per_row
        if rounds < 2 or per_row < 2 or count < _SWEEP_COLUMNS or self.length < needed:
            return None
        fewer = round(rounds * max(needed / self.length, math.sqrt(_SWEEP_FULL_ROUNDS / count)))
        matrix = self.columns.matrix
        coefficients, positions = sweeps(matrix.float(), per_row, self.length)
        start = [self.fitted(positions, coefficients.to(matrix.dtype))]
        del coefficients, positions  # `descend` gets the only reference to the start, so that it can free it
        return self.descend(start.pop(), min(rounds, max(fewer, _SWEEP_ROUNDS)))

    def fitted(self, positions: Tensor, coefficients: Tensor) -> _Fit:
        """Fit coefficients to given positions."""
        fitted = fit(self.columns.matrix, positions, coefficients, self.length, _ITERATIONS, _TOLERANCE)
        return self.measure(positions, fitted)

    def round(self, start: _Start) -> _Fit:
        """Assign and fit once."""
        positions = self.columns.assign(start.coefficients, self.length, start.positions, self.task)
        return self.fitted(positions, start.coefficients)

    def descend(self, best: _Fit, rounds: int) -> _Fit:
        """Run up to `rounds` rounds from a fit; return the best one."""
        exact = 100 * torch.finfo(self.columns.matrix.dtype).eps ** 2 * energy(self.columns.matrix.T.contiguous())
        still = torch.zeros_like(best.coefficients)
        start = _Start(best.positions, best.coefficients, still)
        for left in reversed(range(rounds)):
            if best.error <= exact:
                break
            self.task.report(1 - (left + 1) / (rounds + 1))
            trial = self.round(start)
            if not trial.error < best.error and start.coefficients is not best.coefficients:
                start = _Start(best.positions, best.coefficients, still)
                trial = self.round(start)
            if not trial.error < best.error:
                break
            from_best = start.coefficients is best.coefficients
            gain = 10 * math.log10(best.error / max(trial.error, exact))
            best = trial
            if gain < MIN_GAIN and from_best:
                break
            if gain < MIN_GAIN or left == 1:
                start = _Start(best.positions, best.coefficients, still)
            else:
                velocity = STEP * (best.coefficients - start.coefficients) + MOMENTUM * start.velocity
                start = _Start(best.positions, start.coefficients + velocity, velocity)
        return best


class Columns:
    """The columns of a matrix (g, n) on the CPU, which may be overwritten.

    They are sorted so that adjacent ones search in the same part of the tree.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.points = matrix.T.contiguous().numpy()  # (n, g)
        self.indices = sort_for_tree(self.points)  # (n,), the column of the matrix that each point is
        self.matrix = torch.from_numpy(self.points).T  # (g, n)
        self.distances = np.empty(len(self.points), self.points.dtype)

    def sorted(self, positions: Tensor) -> Tensor:
        """Return positions, given in the order of the matrix, in the order of the points."""
        return torch.from_numpy(positions.numpy()[self.indices])

    def unsorted(self, positions: Tensor) -> Tensor:
        """Return positions, given in the order of the points, in the order of the matrix."""
        result = np.empty_like(positions.numpy())
        result[self.indices] = positions.numpy()
        return torch.from_numpy(result)

    def assign(self, coefficients: Tensor, length: int, positions: Tensor, task: Task) -> Tensor:
        """Return the nearest sample of each column, or its own if that is equally near."""
        nearest = positions.numpy().copy()
        move_to_nearest(_samples(coefficients, length), self.points, nearest, self.distances, task)
        return torch.from_numpy(nearest)

    def error(self, coefficients: Tensor, length: int, positions: Tensor) -> float:
        """Return the squared error."""
        error: float = squared_error(_samples(coefficients, length), self.points, positions.numpy(), self.distances)
        return error


def _samples(coefficients: Tensor, length: int) -> Any:
    """Return the (length, g) samples of a curve."""
    samples = coefficients.new_empty(length, len(coefficients))
    for rows in _row_blocks(len(coefficients), length):
        samples.T[rows.start : rows.stop] = idct(coefficients[rows.start : rows.stop], length)
    return samples.numpy()


def _row_blocks(rows: int, length: int) -> list[range]:
    """Divide rows into blocks to transform together: all rows, which is faster, or single ones to save memory."""
    return [range(rows)] if length < LONG else [range(row, row + 1) for row in range(rows)]


def _sums(matrix: Tensor, rows: range, positions: Tensor, length: int) -> Tensor:
    """Return the sums of the columns at each sample for some rows of a matrix, (rows, length)."""
    sums = matrix.new_zeros(len(rows), length)
    add_at(matrix.T.numpy(), rows.start, positions.numpy(), sums.numpy())
    return sums


def _fast_length(least: int) -> int:
    """Return a length of at least `least` whose transform is fast: a power of two, or 3, 5, 9 or 15 times one.

    >>> [_fast_length(n) for n in (16, 17, 21, 23, 29)]
    [16, 18, 24, 24, 30]
    """
    return min(odd << (-(-least // odd) - 1).bit_length() for odd in (1, 3, 5, 9, 15))


def fit(
    matrix: Tensor, positions: Tensor, coefficients: Tensor, length: int, iterations: int = 20, tolerance: float = 0.0
) -> Tensor:
    """Improve the least-squares fit of a curve to the columns at given positions, by conjugate gradients.

    Args:
        matrix: (g, n) on the CPU, as all tensors.
        positions: (n,) int32 in [0, length).
        coefficients: (g, coefficients_per_row), the start.
        length: samples on the curve.
        iterations: maximum number of iterations. In exact arithmetic none of them increases the error; if the system is
            nearly singular, float32 rounding can, so callers compare the error before and after.
        tolerance: stop when the squared residual of the normal equations is this fraction of its first value.

    Returns:
        (g, coefficients_per_row).
    """
    count = coefficients.shape[1]
    blocks = _row_blocks(len(matrix), length)
    target = torch.cat([dct(_sums(matrix, rows, positions, length), count) for rows in blocks])  # (g, count)
    density = torch.bincount(positions, minlength=length).to(matrix.dtype)  # (length,)
    # T D T' depends on the frequencies of D up to 2 count - 2 only, so a grid of 2 count samples represents it exactly.
    grid = min(_fast_length(2 * count), length)
    # Signals on the grid remain folded; they have one branch, since the grid is so short.
    density = fold(density) if grid == length else idct_folded(dct(density, grid), grid) * math.sqrt(grid / length)

    def normal(y: Tensor) -> Tensor:
        return dct_folded(idct_folded(y, grid) * density, count)

    # Samples without columns make the system singular: below these limits, a step would consist of rounding errors.
    info = torch.finfo(matrix.dtype)
    floor = info.eps**2 * target.square().sum(1, keepdim=True)
    residual = target - normal(coefficients)
    direction = residual
    norms = residual.square().sum(1, keepdim=True)  # (g, 1): every row is a system of its own
    limit = tolerance * norms.sum()
    for _ in range(iterations):
        if tolerance and norms.sum() <= limit:
            break
        image = normal(direction)
        curvature = (direction * image).sum(1, keepdim=True)
        regular = (norms > floor) & (curvature > info.eps * direction.square().sum(1, keepdim=True))
        step = torch.where(regular, norms / curvature, 0.0)
        coefficients = coefficients + step * direction
        residual = residual - step * image
        before, norms = norms, residual.square().sum(1, keepdim=True)
        direction = residual + norms / before.clamp_min(info.tiny) * direction
    return coefficients
