"""Initial curve for refinement when there are many samples per coefficient: a sweeping (zig-zag) path.

The detail of a chain through all columns is at high frequencies, which are cut off; the smoothed chain crosses the
space of the columns only a few times. This curve uses the available frequencies better. One row oscillates over the
range of its values at the highest available frequency. The other rows follow a tour through cells with equal numbers of
columns, one sweep per cell. The gain is measured in docs/research/refinement.md.
"""

import math

import numpy as np
import torch
from torch import Tensor

from tenreo.codec.box_tree import partition
from tenreo.codec.chain import chain
from tenreo.codec.cosine import dct

_AMPLITUDE = 1.7  # of a sweep, in standard deviations


def sweeps(matrix: Tensor, per_row: int, length: int) -> tuple[Tensor, Tensor]:
    """Return a curve that sweeps through the columns of a matrix, and a sample near each column.

    Args:
        matrix: (g, n) float32 on the CPU, with g at least 2.
        per_row: coefficients per row, in [2, n]; there are per_row - 1 sweeps.
        length: samples on the curve, at least per_row.

    Returns:
        (g, per_row) coefficients and (n,) int32 positions.
    """
    count, cells = matrix.shape[1], per_row - 1
    deviations = matrix.std(dim=1)
    swept = int(deviations.argmax())
    amplitude = (_AMPLITUDE * deviations[swept]).clamp_min(torch.finfo(matrix.dtype).tiny)
    others = [row for row in range(len(matrix)) if row != swept]
    points = np.ascontiguousarray(np.delete(matrix.numpy().T, swept, axis=1))  # (n, g - 1)
    sorted_columns = partition(points, cells, False)
    starts = np.arange(cells + 1) * count // cells  # first point of each cell
    sizes = np.diff(starts)
    centers = np.add.reduceat(points, starts[:-1]) / sizes[:, None].astype(points.dtype)  # (cells, g - 1)
    del points
    tour = chain(centers.T)

    coefficients = matrix.new_zeros(len(matrix), per_row)
    coefficients[others, :cells] = dct(torch.from_numpy(centers[tour].T.copy())) * math.sqrt(length / cells)
    coefficients[swept, cells] = amplitude * math.sqrt(length / 2)  # amplitude * cos(pi * cells * (s + 1/2) / length)

    sweep = np.empty_like(tour)  # number of the sweep through each cell
    sweep[tour] = np.arange(cells)
    sweep = np.repeat(sweep, sizes)  # through the cell of each sorted column
    height = np.clip(matrix[swept].numpy()[sorted_columns] / amplitude.item(), -1, 1)
    height = np.where(sweep % 2, -height, height)  # every other sweep rises
    samples = (sweep + np.arccos(height, dtype=np.float64) / np.pi) * (length / cells)
    positions = np.empty(count, np.int32)
    positions[sorted_columns] = np.minimum(samples, length - 1)
    return coefficients, torch.from_numpy(positions)
