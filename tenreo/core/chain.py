"""The nearest-neighbour chain: a short path through all the columns of a matrix.

The order is the paper's (section 2), fixed to the last bit: distances are float32, summed over the
rows first row first, and every tie goes to the lowest column. It is found with a k-d tree from
which the visited columns are deleted, and which is built anew each time a third of them are gone.

Two facts keep the pruning exact. Rounding is monotone, so the distance to a box, computed with the
same operations in the same order, never exceeds the computed distance of a point inside it. And
every node knows the lowest column that is left below it, so a box that can only tie is entered only
where it could win: a million equal points cost no more than a million different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import njit
from numba.core import event
from numpy.typing import NDArray

from tenreo.errors import TenreoError

_LEAF = 64  # points per leaf at most; a constant, so that the loops over a leaf become vector code
_NONE = np.int32(2**31 - 1)  # stands for "no column": above every real one
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

    depth, low, high, lowest, block, block_columns, used = _build(points, columns, n)
    leaf, slot = _find(block_columns, used, first)
    rebuild_at = int(n * _REBUILD)
    distance = np.empty(_LEAF, np.float32)
    stack_node = np.empty(128, np.int64)
    stack_bound = np.empty(128, np.float32)

    order[0] = first
    _delete(leaf, slot, depth, lowest, block, block_columns, used)
    for step in range(1, n):
        left = n - step
        if left <= rebuild_at and left > _LEAF:
            _collect(block, block_columns, used, points, columns)
            depth, low, high, lowest, block, block_columns, used = _build(points, columns, left)
            rebuild_at = int(left * _REBUILD)
            leaf = -1
        leaf, slot = _nearest(
            query, leaf, depth, low, high, lowest, block, block_columns, used,
            distance, stack_node, stack_bound,
        )  # fmt: skip
        for d in range(dims):
            query[d] = block[leaf, d, slot]
        order[step] = block_columns[leaf, slot]
        _delete(leaf, slot, depth, lowest, block, block_columns, used)
    return order


# The tree is a complete binary one, numbered like a heap: the children of node i are 2i+1 and
# 2i+2, the leaves are the last 2^depth nodes. Points are sorted so that a node's are contiguous.


@njit(nogil=True, cache=True)
def _build(points, columns, count):
    """Build the tree over the first `count` points, reordering them and their columns."""
    dims = points.shape[1]
    depth = 0
    while (count >> depth) + 1 > _LEAF:
        depth += 1
    leaves = 1 << depth
    nodes = 2 * leaves - 1
    low = np.empty((nodes, dims), np.float32)
    high = np.empty((nodes, dims), np.float32)
    lowest = np.full(nodes, _NONE, np.int32)
    for level in range(depth + 1):
        for k in range(1 << level):
            node = (1 << level) - 1 + k
            start = (k * count) >> level
            end = ((k + 1) * count) >> level
            widest = _bounds(points, start, end, low[node], high[node])
            if level < depth:
                _split(points, columns, start, end, ((2 * k + 1) * count) >> (level + 1), widest)

    block = np.full((leaves, dims, _LEAF), np.inf, np.float32)  # past `used`: never the nearest
    block_columns = np.full((leaves, _LEAF), _NONE, np.int32)
    used = np.empty(leaves, np.int32)
    for k in range(leaves):
        start = (k * count) >> depth
        end = ((k + 1) * count) >> depth
        used[k] = end - start
        for i in range(start, end):
            block_columns[k, i - start] = columns[i]
            lowest[leaves - 1 + k] = min(lowest[leaves - 1 + k], columns[i])
            for d in range(dims):
                block[k, d, i - start] = points[i, d]
    for node in range(leaves - 2, -1, -1):
        lowest[node] = min(lowest[2 * node + 1], lowest[2 * node + 2])
    return depth, low, high, lowest, block, block_columns, used


@njit(nogil=True, cache=True)
def _bounds(points, start, end, low, high):
    """Write the bounding box of some points; return its widest dimension."""
    dims = points.shape[1]
    for d in range(dims):
        low[d] = np.inf
        high[d] = -np.inf
    for i in range(start, end):
        for d in range(dims):
            low[d] = min(low[d], points[i, d])
            high[d] = max(high[d], points[i, d])
    widest = 0
    for d in range(1, dims):
        if high[d] - low[d] > high[widest] - low[widest]:
            widest = d
    return widest


@njit(nogil=True, cache=True)
def _split(points, columns, start, end, middle, dim):
    """Partially sort points [start, end) by one coordinate, so that [start, middle) are lowest."""
    left = start
    right = end - 1
    while left < right:
        a, b, c = points[left, dim], points[(left + right) >> 1, dim], points[right, dim]
        pivot = max(min(a, b), min(max(a, b), c))
        i = left
        j = right
        while i <= j:
            while points[i, dim] < pivot:
                i += 1
            while points[j, dim] > pivot:
                j -= 1
            if i <= j:
                for d in range(points.shape[1]):
                    points[i, d], points[j, d] = points[j, d], points[i, d]
                columns[i], columns[j] = columns[j], columns[i]
                i += 1
                j -= 1
        if middle <= j:
            right = j
        elif middle >= i:
            left = i
        else:
            return


@njit(nogil=True, cache=True)
def _find(block_columns, used, column):
    for leaf in range(len(used)):
        for slot in range(used[leaf]):
            if block_columns[leaf, slot] == column:
                return leaf, slot
    return -1, -1


@njit(nogil=True, cache=True)
def _collect(block, block_columns, used, points, columns):
    """Copy the points that are left back into one array, leaf by leaf."""
    count = 0
    for leaf in range(len(used)):
        for slot in range(used[leaf]):
            columns[count] = block_columns[leaf, slot]
            for d in range(points.shape[1]):
                points[count, d] = block[leaf, d, slot]
            count += 1


@njit(nogil=True, cache=True)
def _delete(leaf, slot, depth, lowest, block, block_columns, used):
    """Take one point out of its leaf; the last one of the leaf moves into its place."""
    last = used[leaf] - 1
    used[leaf] = last
    column = block_columns[leaf, slot]
    block_columns[leaf, slot] = block_columns[leaf, last]
    block_columns[leaf, last] = _NONE
    for d in range(block.shape[1]):
        block[leaf, d, slot] = block[leaf, d, last]
        block[leaf, d, last] = np.inf

    node = (1 << depth) - 1 + leaf
    if lowest[node] != column:
        return
    lowest[node] = _NONE
    for i in range(last):
        lowest[node] = min(lowest[node], block_columns[leaf, i])
    while node > 0:
        node = (node - 1) >> 1
        if lowest[node] != column:
            return
        lowest[node] = min(lowest[2 * node + 1], lowest[2 * node + 2])


@njit(nogil=True, cache=True)
def _box_distance(query, low, high, node, limit):
    """Squared distance to a node's box in the chain's own arithmetic; cut short once above the limit."""
    total = np.float32(0.0)
    for d in range(len(query)):
        gap = max(low[node, d] - query[d], query[d] - high[node, d], np.float32(0.0))
        total += gap * gap
        if total > limit:
            return total
    return total


@njit(nogil=True, cache=True)
def _scan(query, leaf, block, block_columns, distance, best, best_column):
    """Compare every point of a leaf with the best one so far: (distance, column, slot or -1)."""
    for i in range(_LEAF):
        gap = block[leaf, 0, i] - query[0]
        distance[i] = gap * gap
    for d in range(1, len(query)):
        for i in range(_LEAF):
            gap = block[leaf, d, i] - query[d]
            distance[i] += gap * gap
    # Non-negative floats sort like their bits, and a minimum of integers becomes vector code.
    bits = distance.view(np.int32)
    best_slot = -1
    least = bits[0]
    for i in range(1, _LEAF):
        least = min(least, bits[i])
    for i in range(_LEAF):
        if bits[i] == least and (
            distance[i] < best or (distance[i] == best and block_columns[leaf, i] < best_column)
        ):
            best = distance[i]
            best_column = block_columns[leaf, i]
            best_slot = i
    return best, best_column, best_slot


@njit(nogil=True, cache=True)
def _nearest(
    query, leaf, depth, low, high, lowest, block, block_columns, used,
    distance, stack_node, stack_bound,
):  # fmt: skip
    """Find the (leaf, slot) of the nearest point, starting in a leaf that is near, or -1."""
    first_leaf = (1 << depth) - 1
    best = np.float32(np.inf)
    best_column = _NONE
    best_leaf = -1
    best_slot = -1
    climb = 0
    size = 0
    if leaf < 0:
        stack_node[0] = 0
        stack_bound[0] = 0.0
        size = 1
    else:
        climb = first_leaf + leaf
        if used[leaf] > 0:
            best, best_column, best_slot = _scan(
                query, leaf, block, block_columns, distance, best, best_column
            )
            best_leaf = leaf
    while True:
        while size > 0:
            size -= 1
            node = stack_node[size]
            bound = stack_bound[size]
            if bound > best or (bound == best and lowest[node] >= best_column):
                continue
            if node >= first_leaf:
                k = node - first_leaf
                best, best_column, slot = _scan(query, k, block, block_columns, distance, best, best_column)
                if slot >= 0:
                    best_leaf = k
                    best_slot = slot
                continue
            near = 2 * node + 1
            far = near + 1
            near_bound = _box_distance(query, low, high, near, best)
            far_bound = _box_distance(query, low, high, far, best)
            if far_bound < near_bound or (far_bound == near_bound and lowest[far] < lowest[near]):
                near, far = far, near
                near_bound, far_bound = far_bound, near_bound
            if far_bound <= best and lowest[far] != _NONE:
                stack_node[size] = far
                stack_bound[size] = far_bound
                size += 1
            if near_bound <= best and lowest[near] != _NONE:
                stack_node[size] = near
                stack_bound[size] = near_bound
                size += 1
        if climb == 0:
            return best_leaf, best_slot
        sibling = ((climb - 1) ^ 1) + 1
        climb = (climb - 1) >> 1
        if lowest[sibling] != _NONE:
            stack_node[0] = sibling
            stack_bound[0] = _box_distance(query, low, high, sibling, best)
            size = 1
