"""Where refinement begins on a curve that has many samples for each coefficient: sweeps along a tour.

A chain through all columns has its detail at frequencies that are not kept: what is left of it crosses the space of the
columns a few times only. This curve is made of what is kept. One row goes to and fro over the range of its values at
the highest frequency there is; the others meanwhile follow a tour of cells that hold equally many columns. So a line
passes through every cell, and its samples lie all along it. What it gains is in docs/research/refinement.md.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tenreo.codec.box_tree import parted
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
    points = np.ascontiguousarray(np.delete(matrix.numpy().T, swept, axis=1))  # (n, g - 1)
    order = parted(points, lines)
    starts = np.arange(lines + 1) * count // lines  # of the cells, in the points' new order
    sizes = np.diff(starts)
    centers = np.add.reduceat(points, starts[:-1]) / sizes[:, None].astype(points.dtype)  # (lines, g - 1)
    del points
    tour = chain(centers.T)

    coefficients = matrix.new_zeros(len(matrix), per_row)
    coefficients[others, :lines] = dct(torch.from_numpy(centers[tour].T.copy())) * math.sqrt(length / lines)
    coefficients[swept, lines] = reach * math.sqrt(length / 2)  # reach * cos(pi * lines * (s + 1/2) / length)

    line = np.empty_like(tour)  # of each cell, then of each column in the new order
    line[tour] = np.arange(lines)
    line = np.repeat(line, sizes)
    height = np.clip(matrix[swept].numpy()[order] / reach.item(), -1, 1)
    height = np.where(line % 2, -height, height)  # every other sweep goes up
    along = (line + np.arccos(height, dtype=np.float64) / np.pi) * (length / lines)
    positions = np.empty(count, np.int32)
    positions[order] = np.minimum(along, length - 1)
    return coefficients, torch.from_numpy(positions)
