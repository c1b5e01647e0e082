"""The nearest-neighbor chain: a short path through all the columns of a matrix.

The order is the paper's (section 2), fixed to the last bit: distances are float32, summed over the
rows first row first, and every tie goes to the lowest column. It is found with a k-d tree from
which the visited columns are deleted, and which is built anew each time a third of them are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba.core import event
from numpy.typing import NDArray

from tenreo.codec.compiled import compiled
from tenreo.codec.tree import LEAF, build, collect, delete, find, nearest, workspace
from tenreo.errors import TenreoError

_REBUILD = 0.7  # a new tree once this share of its points is left

Floats = NDArray[np.float32]


def chain(matrix: Floats) -> NDArray[np.int32]:
    """Return the columns of a matrix in the order of the nearest-neighbor chain.

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
        raise TenreoError(f"chain: given an array of shape {matrix.shape}, needs (rows, columns), both at least 1")
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


@compiled
def _chain(points, first):
    """The order of the chain through (n, g) points, from the first one on: (n,) int32."""
    n = len(points)
    order = np.empty(n, np.int32)
    columns = np.arange(n).astype(np.int32)
    query = points[first].copy()
    points = points.copy()
    tree = build(points, columns, n)
    leaf, slot = find(tree, first)
    delete(leaf, slot, tree.depth, tree.lowest, tree.block, tree.columns, tree.used)
    order[0] = first
    step = 1
    while step < n:
        left = int((n - step) * _REBUILD)
        end = n - left if left > LEAF else n
        _walk(tree, query, leaf, order[step:end])
        step = end
        if step < n:
            collect(tree, points, columns)
            tree = build(points, columns, n - step)
            leaf = -1
    return order


@compiled
def _walk(tree, query, leaf, order):
    """Write the next columns of the chain into `order`, deleting each from the tree; moves the query along."""
    space = workspace()
    depth, lowest, block, columns, used = tree.depth, tree.lowest, tree.block, tree.columns, tree.used
    for step in range(len(order)):
        leaf, slot = nearest(tree, query, leaf, space)
        for d in range(len(query)):
            query[d] = block[leaf, d, slot]
        order[step] = columns[leaf, slot]
        delete(leaf, slot, depth, lowest, block, columns, used)
