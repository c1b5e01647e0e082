"""Dense tensors on grids whose steps are powers of two, as integers in one entropy-coded stream.

A level k stands for the value k * 2^e, or, on a logarithmic grid, for 2^(k * 2^e). Variances need the latter: rounding
then changes them by a fraction of themselves, and none becomes zero or negative. A variance of zero has a level of its
own: all levels of at least zero are stored one higher, and the stored level 0 stands for zero.

The step is the largest of which all rounded values are multiples. A tensor that was rounded before keeps it, so that
reading and writing a file again does not change it.

The integers of a stream (`tenreo.codec.integer_coding`) are, for each tensor, e, the median m of its stored levels, and
then the stored levels minus m.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenreo.codec.grid_decoding import MOST_EXPONENT, decode_values, values_of
from tenreo.codec.integer_coding import encode_integers

_MOST_LEVEL = 1 << 24  # float32 represents smaller levels exactly
_FINEST_LOGARITHM = 14  # steps of 2^-14 of a logarithm change a value by less than half precision does
_QUANTILE = 0.75  # the magnitude at this quantile determines the step, so that outliers do not
_FEW = 64  # tensors of fewer values have finer steps, since each value matters more


class Grid(NamedTuple):
    """The step 2^exponent of a tensor's levels, which are those of logarithms if the grid is logarithmic."""

    exponent: int
    logarithmic: bool = False

    def levels(self, values: Tensor) -> Tensor:
        """Return the nearest levels of finite values, float64; a logarithmic grid needs values of at least zero."""
        steps = self.steps(values)
        return torch.where(values > 0, steps + (steps >= 0), 0) if self.logarithmic else steps

    def steps(self, values: Tensor) -> Tensor:
        """Return the values, or their logarithms, as a number of steps, rounded; zeros have no steps."""
        if not self.logarithmic:
            return (values * 2.0**-self.exponent).round()
        return torch.where(values > 0, (values.log2() * 2.0**-self.exponent).round(), 0)

    def values(self, levels: Tensor) -> Tensor:
        """Return the values of levels, float64."""
        return torch.from_numpy(values_of(levels.numpy(), self.exponent, self.logarithmic))


def grid_of(tensor: Tensor, step: float, logarithmic: bool = False, scale: Tensor | None = None) -> Grid | None:
    """Choose the grid of a tensor.

    >>> grid_of(torch.linspace(-1, 1, 101), step=0.02)
    Grid(exponent=-6, logarithmic=False)

    Args:
        tensor: any shape and real dtype, finite; integers have the step 1.
        step: distance of neighboring levels, relative to the typical magnitude of the values; on a logarithmic grid,
            to half of every value, as for the square of a value with this step.
        logarithmic: whether rounding changes every value by a fraction of itself.
        scale: values whose magnitude is used instead of the tensor's own.

    Returns:
        The grid, or None if no grid represents the values: some are not finite, too large, or have no logarithm.
    """
    if not tensor.is_floating_point():
        return _coarsest(Grid(0), tensor.double())
    values = tensor.double()
    step *= min(1.0, math.sqrt(max(1, values.numel()) / _FEW))
    unit = 2 / math.log(2) if logarithmic else _magnitude(values if scale is None else scale.double())
    exponent = math.ceil(math.log2(unit * step)) if 0 < unit * step < math.inf else 0
    grid = Grid(exponent, logarithmic)
    # The second one is the grid of a tensor that was rounded before, and whose magnitude then fell.
    for known in (grid, Grid(exponent - 1, logarithmic)):
        if _representable(values, known) and torch.equal(known.values(known.levels(values)).to(tensor.dtype), tensor):
            return _coarsest(known, values)
    return _coarsest(grid, values)


def exact_grid(tensor: Tensor, logarithmic: bool = False) -> Grid | None:
    """Return the coarsest grid that has all values of a floating-point tensor; None if there is none.

    >>> exact_grid(torch.tensor([0.75, -0.5, 3.0]))
    Grid(exponent=-2, logarithmic=False)
    """
    values = tensor.detach().double().cpu()
    if not values.numel() or not torch.isfinite(values).all():
        return None
    if not logarithmic:
        return _within_range(Grid(_lowest_bit(values)), values)
    for exponent in range(0, -_FINEST_LOGARITHM - 1, -1):
        grid = _within_range(Grid(exponent, logarithmic=True), values)
        if grid and torch.equal(grid.values(grid.levels(values)).to(tensor.dtype), tensor):
            return grid
    return None


def _within_range(grid: Grid, values: Tensor) -> Grid | None:
    return grid if _representable(values, grid) else None


def _lowest_bit(values: Tensor) -> int:
    """Return the exponent of the largest power of two of which all values are multiples; 0 if all are zero."""
    mantissas, exponents = (each.numpy() for each in torch.frexp(values[values != 0]))
    digits = (mantissas * 2.0**53).astype(np.int64)
    lowest = np.log2((digits & -digits).astype(np.float64)).astype(np.int64) - 53 + exponents
    return int(lowest.min()) if len(lowest) else 0


def _coarsest(grid: Grid, values: Tensor) -> Grid | None:
    """Return the grid with the largest step that has the levels of all values; None if no level represents one."""
    if not _representable(values, grid):
        return None
    bits = int(np.bitwise_or.reduce(grid.steps(values).abs().to(torch.int64).numpy(), axis=None, initial=0))
    exponent = grid.exponent + (bits & -bits).bit_length() - 1 if bits else 0
    return Grid(exponent, grid.logarithmic)


def _magnitude(values: Tensor) -> float:
    """Return the magnitude at a quantile, or the largest if that is zero; NaN or infinity if there is one."""
    ordered = values.abs().flatten().sort().values
    if not len(ordered):
        return 0.0
    typical = float(ordered[math.ceil(_QUANTILE * len(ordered)) - 1])
    return typical or float(ordered[-1])


def _representable(values: Tensor, grid: Grid) -> bool:
    possible = torch.isfinite(values).all() and not (grid.logarithmic and (values < 0).any())
    if not possible or abs(grid.exponent) > MOST_EXPONENT:
        return False
    levels = grid.levels(values)
    return not levels.numel() or bool(levels.abs().max() < _MOST_LEVEL)


def encode_levels(tensors: Iterable[tuple[Grid, Tensor]]) -> NDArray[np.uint8] | None:
    """Encode tensors, rounded to their grids, as a stream of bytes.

    Returns:
        (bytes,) uint8; None if the stream were so short that a reader would refuse it.
    """
    parts = []
    for grid, tensor in tensors:
        levels = grid.levels(tensor.double()).flatten().to(torch.int64).numpy()
        median = int(np.sort(levels)[len(levels) // 2]) if len(levels) else 0
        parts += [np.array([grid.exponent, median]), levels - median]
    integers = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    return encode_integers(integers)


def decode_levels(stream: Any, sizes: Sequence[tuple[int, bool]]) -> list[Tensor]:
    """Decode a stream of `encode_levels` by `decode_values`, whose values are returned as tensors."""
    return [torch.from_numpy(values) for values in decode_values(stream, sizes)]
