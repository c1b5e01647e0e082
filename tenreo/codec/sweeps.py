"""Where refinement begins on a curve that has many samples for each coefficient: sweeps along a tour.

A chain through all columns has its detail at frequencies that are not kept: what is left of it crosses the space of the
columns a few times only. This curve is made of what is kept. One row goes to and fro over the range of its values at
the highest frequency there is; the others meanwhile follow a tour of cells that hold equally many columns. So a line
passes through every cell, and its samples lie all along it. What it gains is in docs/research/refinement.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tenreo.codec.boxes import parted
from tenreo.codec.chain import chain
from tenreo.codec.cosine import dct

_REACH = 1.7  # standard deviations that a sweep reaches to either side


def sweeps(matrix: Tensor, per_row: int, length: int) -> tuple[Tensor, Tensor]:
    """A curve that sweeps through the columns of a matrix, and a sample near each column.

    Args:
        matrix: (g, n) float32 on the CPU, g at least 2.
        per_row: coefficients in a row, in [2, n]; there is one sweep less.
        length: samples on the curve, at least as many.

    Returns:
        (g, per_row) coefficients and (n,) int32 positions.
    """
    count, lines = matrix.shape[1], per_row - 1
    deviations = matrix.std(dim=1)
    swept = int(deviations.argmax())
    reach = (_REACH * deviations[swept]).clamp_min(torch.finfo(matrix.dtype).tiny)
    others = [row for row in range(len(matrix)) if row != swept]
    points = matrix[others].T.contiguous()  # (n, g - 1)
    order = torch.from_numpy(parted(points.numpy(), lines)).long()
    cells = (torch.arange(1, count + 1) * lines - 1) // count  # of the columns in that order
    centers = points.new_zeros(lines, len(others)).index_add_(0, cells, points[order])
    centers = (centers / torch.bincount(cells)[:, None]).T.contiguous()  # (g - 1, lines)
    tour = torch.from_numpy(chain(centers.numpy())).long()

    coefficients = matrix.new_zeros(len(matrix), per_row)
    coefficients[others, :lines] = dct(centers[:, tour]) * math.sqrt(length / lines)
    coefficients[swept, lines] = reach * math.sqrt(length / 2)  # reach * cos(pi * lines * (s + 1/2) / length)

    line = torch.empty_like(tour).index_copy_(0, tour, torch.arange(lines))[cells]
    height = (matrix[swept, order] / reach).clamp(-1, 1) * (1 - 2 * (line % 2))  # every other sweep goes up
    along = (line + height.acos() / math.pi) * (length / lines)
    positions = torch.empty(count, dtype=torch.int32)
    positions[order] = along.int().clamp(max=length - 1)
    return coefficients, positions
