"""The nearest-neighbor chain: a short path through all columns of a matrix (section 2 of arXiv 2010.12110).

The order is defined to the last bit: distances are float32, summed over the rows starting with the first, and ties go
to the column with the lowest index. The next column is searched in a `BoxTree` from which visited columns are deleted;
the tree is rebuilt whenever a certain fraction of its columns has been visited. Every node stores the lowest unvisited
column below each child, so a box at the same distance as the best column is searched only if a lower column is inside.

Equal columns, which are frequent in pruned weights and in weights of few bits, form one point of the tree. The chain
visits them one after the other, since no other column is at distance zero.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tenreo.codec.box_tree import (
    LEAF,
    NONE,
    STACK,
    WIDE,
    BoxTree,
    build_tree,
    distances_to_boxes,
    distances_to_points,
    has_repeated_values,
    sort_for_tree,
)
from tenreo.codec.jit import compiled
from tenreo.codec.threads import SINGLE_THREADED, Task
from tenreo.errors import TenreoError

_REBUILD = 0.6  # rebuild the tree when this fraction of its points is left
_CHUNK = 1 << 17  # columns between two checks for cancellation: a few tenths of a second
_SQUARE_VANISHES = 1e-15  # two different float32 numbers above this differ by a number whose square is not zero

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]


def chain(matrix: Floats, task: Task = SINGLE_THREADED) -> Integers:
    """Return the columns of a matrix in the order of the nearest-neighbor chain.

    The first column is the one with the largest norm; each next column is the nearest unvisited one. The function
    releases the GIL and needs memory for about 2.5 (g + 2) n numbers.

    Args:
        matrix: (g, n) float32, finite.
        task: receives the progress; the search itself uses one thread.

    Returns:
        (n,) int32, a permutation of range(n).

    Raises:
        TenreoError: if the matrix is not (g, n) with g, n >= 1, or is not finite.
        CancelledError: if the task was cancelled.
    """
    matrix = np.asarray(matrix, dtype=np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise TenreoError(f"chain: given an array of shape {matrix.shape}, needs (rows, columns), both at least 1")
    if not np.isfinite(matrix).all():
        raise TenreoError("chain: the matrix contains NaN or infinity; every value must be finite")
    with np.errstate(over="ignore"):
        norms = matrix[0] * matrix[0]
        for row in matrix[1:]:
            norms += row * row
    points = np.array(matrix.T, order="C")  # (n, g): the coordinates of a point are adjacent in memory
    del matrix  # frees it if the caller has no other reference
    first = int(np.argmax(norms))
    del norms
    if not _may_have_equal_columns(points):
        only = [points]
        del points  # `_visit_all` gets the only reference, so that it can free the points
        return _visit_all(only.pop(), first, task)
    lowest, following = _group_equal_columns(points)
    distinct = np.flatnonzero(lowest == np.arange(len(points)))
    path = _visit_all(points[distinct], int(np.searchsorted(distinct, first)), task)
    return _insert_equal_columns(distinct[path].astype(np.int32), following)


def _may_have_equal_columns(points: Floats) -> bool:
    """Return whether columns may be equal and no two different columns are at distance zero."""
    if not has_repeated_values(points):
        return False
    magnitudes = np.abs(points)
    return bool(np.min(magnitudes, initial=np.inf, where=magnitudes > 0) >= _SQUARE_VANISHES)


@compiled
def _group_equal_columns(points):
    """Return the lowest column equal to each column, and the next higher equal one or -1, both (n,) int32."""
    # Columns are found by their hash in a table that resolves collisions by linear probing.
    n, dims = points.shape
    size = 2
    while size < 2 * n:
        size *= 2
    table = np.full(size, -1, np.int32)
    lowest, following, last = np.empty(n, np.int32), np.full(n, -1, np.int32), np.empty(n, np.int32)
    values = (points + np.float32(0)).view(np.uint32)  # the addition turns -0 into 0
    for i in range(n):
        mixed = np.uint64(0)
        for d in range(dims):
            mixed = (mixed ^ np.uint64(values[i, d])) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        place = np.int64(mixed & np.uint64(size - 1))
        while table[place] >= 0 and not _is_equal(values, table[place], i):
            place = (place + 1) & (size - 1)
        first = table[place]
        if first < 0:
            table[place] = first = i
        else:
            following[last[first]] = i
        lowest[i], last[first] = first, i
    return lowest, following


@compiled
def _is_equal(values, a, b):
    equal = True
    for d in range(values.shape[1]):
        equal &= values[a, d] == values[b, d]
    return equal


@compiled
def _insert_equal_columns(path, following):
    """Return all columns, given a path of the lowest ones of each group and the next equal column of each."""
    result = np.empty(len(following), np.int32)
    count = 0
    for column in path:
        while column >= 0:
            result[count] = column
            count += 1
            column = following[column]
    return result


def _visit_all(points: Floats, first: int, task: Task) -> Integers:
    """Return the chain through (n, g) points, which are overwritten, from a first point: (n,) int32."""
    n = len(points)
    path = np.empty(n, np.int32)
    path[0] = first
    query, done = points[first].copy(), 1
    numbers = np.arange(n, dtype=np.int32)
    points[first], numbers[first] = points[-1], n - 1
    points, numbers = points[:-1], numbers[:-1]
    while done < n:
        tree = build_tree(points, numbers[sort_for_tree(points)])
        del points, numbers  # the tree contains them; saves the memory of a copy
        counts = (tree.numbers != NONE).sum(1, dtype=np.int32)  # unvisited points of each leaf, in its first slots
        lowest = _lowest_below(tree)
        remaining = int((n - done) * _REBUILD)
        end, leaf = (n - remaining if remaining > LEAF else n), -1
        while done < end:
            task.check_stopped()
            task.report(done / n)
            part = path[done : min(end, done + _CHUNK)]
            leaf = _walk(tree, counts, lowest, query, leaf, part)
            done += len(part)
        mask = tree.numbers != NONE
        points, numbers = tree.points.transpose(0, 2, 1)[mask], tree.numbers[mask]
        del tree, counts, lowest, mask  # before the next tree is built
    return path


def _lowest_below(tree: BoxTree) -> Integers:
    """Return the lowest number below each child of each node, or NONE: (nodes, WIDE) int32."""
    lowest = np.full((tree.starts[-1], WIDE), NONE, np.int32)
    below = tree.numbers.min(1)
    for first, last in pairwise(tree.starts):
        lowest[first:last].reshape(-1)[: len(below)] = below
        below = lowest[first:last].min(1)
    return lowest


@compiled
def _walk(tree, counts, lowest, query, leaf, path):
    """Write the next points of the chain into `path` and delete each of them from the tree.

    `query` has the (g,) coordinates of the last point of the chain, and `leaf` is its former leaf, or -1. The function
    updates the query and returns the new leaf.
    """
    # Local names: inside a loop, each access to a field of a tuple would cost a reference count.
    points, numbers, starts, low, high = tree.points, tree.numbers, tree.starts, tree.low, tree.high
    stack, bounds = np.empty((STACK, 3), np.int64), np.empty(STACK, points.dtype)  # (node, level, lowest), distance
    to_boxes, to_points = np.empty(WIDE, points.dtype), np.empty(LEAF, points.dtype)
    for step in range(len(path)):
        best = np.float32(np.inf), NONE, np.int64(-1), np.int64(-1)
        if leaf >= 0:  # the nearest point is often in the same leaf
            best = _scan(query, points[leaf], numbers[leaf], best, leaf, to_points)
        stack[0, 0], stack[0, 1], stack[0, 2], bounds[0] = starts[-1] - 1, len(starts) - 2, -1, 0
        size = 1
        while size > 0:
            size -= 1
            if bounds[size] > best[0] or (bounds[size] == best[0] and stack[size, 2] >= best[1]):
                continue
            node, level = stack[size, 0], stack[size, 1]
            distances_to_boxes(query, low[node], high[node], to_boxes)
            child = (node - starts[level]) * WIDE
            if level > 0:
                size = _push(to_boxes, lowest[node], best, child + starts[level - 1], level - 1, stack, bounds, size)
                continue
            for k in range(WIDE):
                if _may_win(to_boxes[k], lowest[node, k], best) and child + k != leaf:
                    best = _scan(query, points[child + k], numbers[child + k], best, child + k, to_points)
        path[step], leaf, slot = best[1], best[2], best[3]
        for d in range(len(query)):
            query[d] = points[leaf, d, slot]
        _delete(leaf, slot, points, numbers, starts, counts, lowest)
    return leaf


@compiled
def _may_win(distance, lowest, best):
    """Return whether a box may contain a nearer point than the best one, or a lower point at the same distance."""
    return (distance < best[0] or (distance == best[0] and lowest < best[1])) and lowest != NONE


@compiled
def _push(distances, lowest, best, first, level, stack, bounds, size):
    """Push the children that may contain the nearest point onto the stack, the nearest last; return its new size."""
    bottom = size
    for k in range(WIDE):
        if _may_win(distances[k], lowest[k], best):
            place = size
            while place > bottom and (
                bounds[place - 1] < distances[k]
                or (bounds[place - 1] == distances[k] and stack[place - 1, 2] < lowest[k])
            ):
                stack[place, 0], stack[place, 2] = stack[place - 1, 0], stack[place - 1, 2]
                bounds[place] = bounds[place - 1]
                place -= 1
            stack[place, 0], stack[place, 2], bounds[place] = first + k, lowest[k], distances[k]
            stack[size, 1] = level
            size += 1
    return size


@compiled
def _scan(query, points, numbers, best, leaf, distances):
    """Return the nearest among the best point so far and those of a leaf; ties go to the lower number."""
    distances_to_points(query, points, distances)
    # Usually no point of the leaf is as near, and this loop without branches is vectorized.
    as_near = np.int32(0)
    for k in range(LEAF):
        as_near |= np.int32(distances[k] <= best[0])
    if as_near:
        for k in range(LEAF):
            if distances[k] < best[0] or (distances[k] == best[0] and numbers[k] < best[1]):
                best = distances[k], numbers[k], leaf, k
    return best


@compiled
def _delete(leaf, slot, points, numbers, starts, counts, lowest):
    """Delete a point from its leaf; the last point of the leaf moves into its slot."""
    last = counts[leaf] - 1
    counts[leaf] = last
    number = numbers[leaf, slot]
    numbers[leaf, slot] = numbers[leaf, last]
    numbers[leaf, last] = NONE
    for d in range(points.shape[1]):
        points[leaf, d, slot] = points[leaf, d, last]
        points[leaf, d, last] = np.inf

    node, child = leaf // WIDE, leaf % WIDE
    if lowest[node, child] != number:
        return
    lowest[node, child] = numbers[leaf].min()
    for level in range(len(starts) - 2):
        above = starts[level + 1] + (node - starts[level]) // WIDE
        child = (node - starts[level]) % WIDE
        if lowest[above, child] != number:
            return
        lowest[above, child] = lowest[node].min()
        node = above
