"""The nearest-neighbor chain: a short path through all the columns of a matrix.

The order is the paper's (section 2), fixed to the last bit: distances are float32, summed over the rows first row
first, and every tie goes to the lowest column. It is found in a tree of boxes from which the visited columns are
deleted, and which is built anew each time many of them are gone. Every node knows the lowest column that is left below
each child, so a box that can only tie is entered only where it could win.

Columns that are equal, as those of pruned or few-bit weights are, are one point of the tree: the chain takes them one
after the other, since nothing else is at distance zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numba.core import event
from numpy.typing import NDArray

from tenreo.codec.box_tree import (
    LEAF,
    NONE,
    STACK,
    WIDE,
    arrange,
    boxes,
    distances_to_boxes,
    distances_to_points,
    values_repeat,
)
from tenreo.codec.jit import compiled
from tenreo.codec.threads import check_stopped, report
from tenreo.errors import TenreoError

_REBUILD = 0.6  # a new tree once this share of its points is left
_PIECE = 1 << 17  # columns between looks at whether to stop: a few tenths of a second
# Different values above this differ by a float whose square is not zero.
_SQUARE_VANISHES = 1e-15

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]


def chain(matrix: Floats) -> Integers:
    """Return the columns of a matrix in the order of the nearest-neighbor chain.

    The first is the column of largest norm; each next one is the nearest not yet visited
    (section 2 of arXiv 2010.12110). Releases the GIL, needs about 2.5 (g + 2) n numbers of memory.

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
    with np.errstate(over="ignore"):
        norms = matrix[0] * matrix[0]
        for row in matrix[1:]:
            norms += row * row
    points = np.array(matrix.T, order="C")  # (n, g): a point's coordinates side by side
    del matrix  # which the caller may have left to this function alone
    first = int(np.argmax(norms))
    if not _may_repeat(points):
        return _ordered(points, first)
    kinds, following = equal_columns(points)
    different = np.flatnonzero(kinds == np.arange(len(points)))  # the lowest column of each kind
    order = _ordered(points[different], int(np.searchsorted(different, first)))
    return unfolded(different[order].astype(np.int32), following)


def _may_repeat(points: Floats) -> bool:
    """Whether columns may be equal, and no two different ones are at distance zero."""
    if not values_repeat(points):
        return False
    sizes = np.abs(points)
    return bool(np.min(sizes, initial=np.inf, where=sizes > 0) >= _SQUARE_VANISHES)


@compiled
def equal_columns(points):
    """Which columns are equal, by a table of hashed numbers.

    Args:
        points: (n, g) float32.

    Returns:
        (n,) int32 the lowest column that is equal to each, and (n,) int32 the next higher one, or -1.
    """
    n, dims = points.shape
    size = 2
    while size < 2 * n:
        size *= 2
    table = np.full(size, -1, np.int32)
    kinds, following, last = np.empty(n, np.int32), np.full(n, -1, np.int32), np.empty(n, np.int32)
    values = (points + np.float32(0)).view(np.uint32)  # 0 and -0 alike
    for i in range(n):
        mixed = np.uint64(0)
        for d in range(dims):
            mixed = (mixed ^ np.uint64(values[i, d])) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        place = np.int64(mixed & np.uint64(size - 1))
        while table[place] >= 0 and not _equal(values, table[place], i):
            place = (place + 1) & (size - 1)
        kind = table[place]
        if kind < 0:
            table[place] = kind = i
        else:
            following[last[kind]] = i
        kinds[i], last[kind] = kind, i
    return kinds, following


@compiled
def _equal(values, a, b):
    equal = True
    for d in range(values.shape[1]):
        equal &= values[a, d] == values[b, d]
    return equal


@compiled
def unfolded(order, following):
    """All columns, where `order` has the lowest of those that are equal and `following` leads to the others."""
    result = np.empty(len(following), np.int32)
    count = 0
    for column in order:
        while column >= 0:
            result[count] = column
            count += 1
            column = following[column]
    return result


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


class _Left(NamedTuple):
    """What is left of the points in a tree.

    Attributes:
        counts: (leaves,) int32, the number of points left in each leaf, which come first in it.
        lowest: (nodes, WIDE) int32, the lowest number that is left below each child, or NONE.
    """

    counts: Any
    lowest: Any


def _ordered(points: Floats, first: int) -> Integers:
    """The order of the chain through (n, g) points, whose order changes, from the first one on: (n,) int32."""
    n = len(points)
    order = np.empty(n, np.int32)
    order[0] = first
    query, done = points[first].copy(), 1
    numbers = np.arange(n, dtype=np.int32)
    points[first], numbers[first] = points[-1], n - 1
    points, numbers = points[:-1], numbers[:-1]
    while done < n:
        tree = boxes(points, numbers[arrange(points)])
        remaining = _all_left(tree)
        stay = int((n - done) * _REBUILD)
        end, leaf = (n - stay if stay > LEAF else n), -1
        while done < end:
            check_stopped()
            report(done / n)
            piece = order[done : min(end, done + _PIECE)]
            leaf = _walk(tree, remaining, query, leaf, piece)
            done += len(piece)
        left = tree.numbers != NONE
        points, numbers = tree.points.transpose(0, 2, 1)[left], tree.numbers[left]
    return order


@compiled
def _all_left(tree):
    """Nothing of a tree is gone."""
    starts, numbers = tree.starts, tree.numbers
    counts = np.zeros(len(numbers), np.int32)
    lowest = np.full((starts[-1], WIDE), NONE, np.int32)
    for leaf in range(len(numbers)):
        for k in range(LEAF):
            counts[leaf] += numbers[leaf, k] != NONE
        lowest[leaf // WIDE, leaf % WIDE] = numbers[leaf].min()
    for level in range(1, len(starts) - 1):
        for i in range(starts[level] - starts[level - 1]):
            lowest[starts[level] + i // WIDE, i % WIDE] = lowest[starts[level - 1] + i].min()
    return _Left(counts, lowest)


@compiled
def _walk(tree, left, query, leaf, order):
    """Write the next points of the chain into `order`, deleting each from the tree; moves the query along.

    Args:
        tree: `Boxes`.
        left: what is `_Left` of it.
        query: (g,) the last point of the chain.
        leaf: where it was, or -1.
        order: (steps,) int32.
    """
    # Local names: in a loop, a field of a tuple costs a reference count at every use.
    points, numbers, starts, low, high = tree.points, tree.numbers, tree.starts, tree.low, tree.high
    counts, lowest = left.counts, left.lowest
    stack, bounds = np.empty((STACK, 3), np.int64), np.empty(STACK, points.dtype)  # node, its level, lowest number
    apart, gaps = np.empty(WIDE, points.dtype), np.empty(LEAF, points.dtype)
    for step in range(len(order)):
        best = np.float32(np.inf), NONE, np.int64(-1), np.int64(-1)
        if leaf >= 0:  # that of the last point is near
            best = _scan(query, points[leaf], numbers[leaf], best, leaf, gaps)
        stack[0, 0], stack[0, 1], stack[0, 2], bounds[0] = starts[-1] - 1, len(starts) - 2, -1, 0
        size = 1
        while size > 0:
            size -= 1
            if bounds[size] > best[0] or (bounds[size] == best[0] and stack[size, 2] >= best[1]):
                continue
            node, level = stack[size, 0], stack[size, 1]
            distances_to_boxes(query, low[node], high[node], apart)
            child = (node - starts[level]) * WIDE
            if level > 0:
                size = _push(apart, lowest[node], best, child + starts[level - 1], level - 1, stack, bounds, size)
                continue
            for k in range(WIDE):
                if _may_win(apart[k], lowest[node, k], best) and child + k != leaf:
                    best = _scan(query, points[child + k], numbers[child + k], best, child + k, gaps)
        order[step], leaf, slot = best[1], best[2], best[3]
        for d in range(len(query)):
            query[d] = points[leaf, d, slot]
        _delete(leaf, slot, points, numbers, starts, counts, lowest)
    return leaf


@compiled
def _may_win(apart, lowest, best):
    """Whether a box at a distance, with a lowest number, can hold the nearest point, or the lower of two as near."""
    return (apart < best[0] or (apart == best[0] and lowest < best[1])) and lowest != NONE


@compiled
def _push(apart, lowest, best, first, level, stack, bounds, size):
    """Put the children that may hold the nearest point onto the stack, the nearest on top; return its new size."""
    bottom = size
    for k in range(WIDE):
        if _may_win(apart[k], lowest[k], best):
            place = size
            while place > bottom and (
                bounds[place - 1] < apart[k] or (bounds[place - 1] == apart[k] and stack[place - 1, 2] < lowest[k])
            ):
                stack[place, 0], stack[place, 2] = stack[place - 1, 0], stack[place - 1, 2]
                bounds[place] = bounds[place - 1]
                place -= 1
            stack[place, 0], stack[place, 2], bounds[place] = first + k, lowest[k], apart[k]
            stack[size, 1] = level
            size += 1
    return size


@compiled
def _scan(query, points, numbers, best, leaf, gaps):
    """The nearer of the best point so far and those of a leaf, the lower of two that are as near."""
    distances_to_points(query, points, gaps)
    # Mostly none is as near, and to ask that of all at once is vector code.
    as_near = np.int32(0)
    for k in range(LEAF):
        as_near |= np.int32(gaps[k] <= best[0])
    if as_near:
        for k in range(LEAF):
            if gaps[k] < best[0] or (gaps[k] == best[0] and numbers[k] < best[1]):
                best = gaps[k], numbers[k], leaf, k
    return best


@compiled
def _delete(leaf, slot, points, numbers, starts, counts, lowest):
    """Take one point out of its leaf; the last one of the leaf moves into its place."""
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
