"""The nearest-neighbour chain: a short path through all the columns of a matrix.

The order is the paper's (section 2), fixed to the last bit: distances are float32, summed over the
rows first row first, and every tie goes to the lowest column. It is found with a k-d tree from
which the visited columns are deleted, and which is built anew each time a third of them are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import njit
from numba.core import event
from numpy.typing import NDArray

from tenreo.core.tree import LEAF, build, collect, delete, find, nearest
from tenreo.errors import TenreoError

_REBUILD = 0.7  # a new tree once this share of its points is left

Floats = NDArray[np.float32]


def chain(matrix: Floats) -> NDArray[np.int32]:
    """Return the columns of a matrix in the order of the nearest-neighbour chain.

    The first is the column of largest norm; each next one is the nearest not yet visited
    (section 2 of arXiv 2010.12110). Releases the GIL, needs about 3 (g + 2) n numbers of memory.

    Args:
        matrix: (g, n) float32, finite.

    Returns:
        (n,) int32, a permutation of range(n).

    Raises:
        TenreoError: when the matrix is not (g, n) with g, n >= 1, or is not finite.
    """
    matrix = np.asarray(matrix, dtype=np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise TenreoError(
            f"chain: given an array of shape {matrix.shape}, needs (rows, columns), both at least 1"
        )
    if not np.isfinite(matrix).all():
        raise TenreoError("chain: the matrix holds NaN or infinity; every value must be finite")
    points = np.ascontiguousarray(matrix.T)  # (n, g): a point's coordinates side by side
    with np.errstate(over="ignore"):
        norms = matrix[0] * matrix[0]
        for row in matrix[1:]:
            norms += row * row
    return _chain(points, int(np.argmax(norms)))


@contextmanager
def on_compile(notice: Callable[[], Any]) -> Iterator[None]:
    """Call `notice` once if, inside this context, the chain has to be compiled first."""

    class Listener(event.Listener):
        told = False

        def on_start(self, _event: event.Event) -> None:
            if not self.told:
                self.told = True
                notice()

        def on_end(self, _event: event.Event) -> None:
            pass

    with event.install_listener("numba:compile", Listener()):
        yield


@njit(nogil=True, cache=True)
def _chain(points, first):
    n, dims = points.shape
    order = np.empty(n, np.int32)
    columns = np.arange(n).astype(np.int32)
    points = points.copy()
    query = points[first].copy()

    depth, low, high, lowest, block, block_columns, used = build(points, columns, n)
    leaf, slot = find(block_columns, used, first)
    rebuild_at = int(n * _REBUILD)
    distance = np.empty(LEAF, np.float32)
    stack_node = np.empty(128, np.int64)
    stack_bound = np.empty(128, np.float32)

    order[0] = first
    delete(leaf, slot, depth, lowest, block, block_columns, used)
    for step in range(1, n):
        left = n - step
        if left <= rebuild_at and left > LEAF:
            collect(block, block_columns, used, points, columns)
            depth, low, high, lowest, block, block_columns, used = build(points, columns, left)
            rebuild_at = int(left * _REBUILD)
            leaf = -1
        leaf, slot = nearest(
            query, leaf, depth, low, high, lowest, block, block_columns, used,
            distance, stack_node, stack_bound,
        )  # fmt: skip
        for d in range(dims):
            query[d] = block[leaf, d, slot]
        order[step] = block_columns[leaf, slot]
        delete(leaf, slot, depth, lowest, block, block_columns, used)
    return order
