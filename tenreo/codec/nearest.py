"""The nearest of many samples for each of many points: a wide tree of boxes over the samples.

Samples are put in an order in which neighbors lie side by side, LEAF of them to a leaf; WIDE leaves make a node, WIDE
nodes one above them. A node holds the boxes of its children by coordinate, so one pass of vector code gives the
distances of a point to all of them, as to all the samples of a leaf.

The search starts from a sample that each point already has, and only what is strictly nearer replaces it: so the result
does not depend on how the work is divided.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tenreo.codec.compiled import compiled
from tenreo.codec.tree import _split

# Multiples of 32, so that loops over them become vector code.
LEAF = 96  # samples of a leaf at most: 64 and 72, which powers of two and nine times these lead to, fit well
WIDE = 32  # children of a node
_LOOKS = 16  # points of a part that say where to halve it


class Boxes(NamedTuple):
    """A tree over samples of g dimensions, as arrays that compiled code takes.

    Attributes:
        samples: (leaves, g, LEAF) of each leaf by coordinate; infinite where there are no more.
        numbers: (leaves, LEAF) int32, which samples they are.
        starts: (levels + 1,) int64, the first node of each level; leaves are children of level 0, the root is the last.
        low: (nodes, g, WIDE) lower corners of the children's boxes.
        high: (nodes, g, WIDE) upper corners.
    """

    samples: Any
    numbers: Any
    starts: Any
    low: Any
    high: Any


@compiled
def spatial_order(points):
    """An order of (n, g) points in which neighbors are near each other, by halving: (n,) int32."""
    points = points.copy()
    n = len(points)
    order = np.arange(n).astype(np.int32)
    for level in range(_depth(n)):
        for k in range(1 << level):
            start, end = (k * n) >> level, ((k + 1) * n) >> level
            _split(points, order, start, end, ((2 * k + 1) * n) >> (level + 1), _widest(points, start, end))
    return order


@compiled
def _widest(points, start, end):
    """The coordinate in which some points, of which a few are looked at, are furthest apart."""
    widest, most = 0, points[start, 0] - points[start, 0]
    for d in range(points.shape[1]):
        low = high = points[start, d]
        for i in range(start, end, 1 + (end - start) // _LOOKS):
            low, high = min(low, points[i, d]), max(high, points[i, d])
        if high - low > most:
            widest, most = d, high - low
    return widest


@compiled
def _depth(count):
    """How often so many points are halved: no part then has more than LEAF."""
    depth = 0
    while (count >> depth) + 1 > LEAF:
        depth += 1
    return depth


@compiled
def boxes(samples, order):
    """The `Boxes` of (n, g) samples in their `spatial_order`."""
    n, dims = samples.shape
    depth = _depth(n)
    leaves = 1 << depth
    starts = _levels(leaves)
    block = np.full((leaves, dims, LEAF), np.inf, samples.dtype)
    numbers = np.zeros((leaves, LEAF), np.int32)
    low = np.full((starts[-1], dims, WIDE), np.inf, samples.dtype)
    high = np.full((starts[-1], dims, WIDE), -np.inf, samples.dtype)
    for leaf in range(leaves):
        first = (leaf * n) >> depth
        for i in range(first, ((leaf + 1) * n) >> depth):
            number = order[i]
            numbers[leaf, i - first] = number
            for d in range(dims):
                value = samples[number, d]
                block[leaf, d, i - first] = value
                low[leaf // WIDE, d, leaf % WIDE] = min(low[leaf // WIDE, d, leaf % WIDE], value)
                high[leaf // WIDE, d, leaf % WIDE] = max(high[leaf // WIDE, d, leaf % WIDE], value)
    for level in range(1, len(starts) - 1):
        for i in range(starts[level] - starts[level - 1]):
            node, child = starts[level] + i // WIDE, starts[level - 1] + i
            for d in range(dims):
                low[node, d, i % WIDE] = low[child, d].min()
                high[node, d, i % WIDE] = high[child, d].max()
    return Boxes(block, numbers, starts, low, high)


@compiled
def _levels(leaves):
    """The first node of each level, and the number of all nodes."""
    starts = [0]
    width = leaves
    while width > 1 or len(starts) == 1:
        width = (width + WIDE - 1) // WIDE
        starts.append(starts[-1] + width)
    return np.array(starts)


@compiled
def search(tree, points, near, first, last, found):
    """Write the nearest sample of the points first to last - 1 into `found`, or the near one where none is nearer.

    Args:
        tree: `Boxes` of the samples.
        points: (n, g); neighbors side by side are faster.
        near: (n,) squared distances of the points to the samples in `found`; becomes those to the nearest.
        first: the first point.
        last: where to end.
        found: (n,) int32.
    """
    samples, numbers, starts, low, high = tree.samples, tree.numbers, tree.starts, tree.low, tree.high
    apart = np.empty(WIDE, points.dtype)
    gaps = np.empty(LEAF, points.dtype)
    nodes, levels, bounds = np.empty(512, np.int64), np.empty(512, np.int64), np.empty(512, points.dtype)
    for i in range(first, last):
        best, where = near[i], found[i]
        nodes[0], levels[0], bounds[0] = starts[-1] - 1, len(starts) - 2, 0
        size = 1
        while size > 0:
            size -= 1
            if bounds[size] >= best:
                continue
            node, level = nodes[size], levels[size]
            _distances(points[i], low[node], high[node], apart)
            child = (node - starts[level]) * WIDE
            if level > 0:
                size = _push(apart, best, child + starts[level - 1], level - 1, nodes, levels, bounds, size)
                continue
            for k in range(WIDE):
                if apart[k] < best:
                    leaf = child + k
                    best, where = _scan(points[i], samples[leaf], numbers[leaf], best, where, gaps)
        near[i], found[i] = best, where


@compiled
def _distances(point, low, high, apart):
    """Write the squared distances of a point to WIDE boxes."""
    for k in range(WIDE):
        apart[k] = 0
    for d in range(len(point)):
        value = point[d]
        for k in range(WIDE):
            gap = max(low[d, k] - value, value - high[d, k], value - value)
            apart[k] += gap * gap


@compiled
def _push(apart, best, first, level, nodes, levels, bounds, size):
    """Put the children that are nearer than the best onto the stack, the nearest on top; return its new size."""
    bottom = size
    for k in range(WIDE):
        if apart[k] < best:
            place = size
            while place > bottom and bounds[place - 1] < apart[k]:
                nodes[place], bounds[place] = nodes[place - 1], bounds[place - 1]
                place -= 1
            nodes[place], bounds[place], levels[size] = first + k, apart[k], level
            size += 1
    return size


@compiled
def _scan(point, samples, numbers, best, where, gaps):
    """The nearer of the best sample so far and those of a leaf: its squared distance and number."""
    value = point[0]
    for k in range(LEAF):
        gap = samples[0, k] - value
        gaps[k] = gap * gap
    for d in range(1, len(point)):
        value = point[d]
        for k in range(LEAF):
            gap = samples[d, k] - value
            gaps[k] += gap * gap
    # Mostly none is nearer, and to ask that of all at once is vector code.
    nearer = np.int32(0)
    for k in range(LEAF):
        nearer |= np.int32(gaps[k] < best)
    if nearer:
        for k in range(LEAF):
            if gaps[k] < best:
                best, where = gaps[k], numbers[k]
    return best, where


@compiled
def distances(samples, points, found, near):
    """Write the squared distance of every point to the sample that it has into `near`; return their sum in float64."""
    total = 0.0
    for i in range(len(points)):
        apart = points[i, 0] - points[i, 0]
        for d in range(points.shape[1]):
            gap = samples[found[i], d] - points[i, d]
            apart += gap * gap
        near[i] = apart
        total += apart
    return total


def nearest(samples: Any, points: Any, near: Any) -> Any:
    """The nearest sample of every point.

    >>> nearest(np.array([[0.0], [1.0], [5.0]]), np.array([[0.9], [4.0]]), np.zeros(2, np.int32)).tolist()
    [1, 2]

    Args:
        samples: (m, g).
        points: (n, g), of the same dtype.
        near: (n,) int32, a sample of each point that is kept where none is nearer.

    Returns:
        (n,) int32.
    """
    found, apart = near.copy(), np.empty(len(points), points.dtype)
    distances(samples, points, found, apart)
    search(boxes(samples, spatial_order(samples)), points, apart, 0, len(points), found)
    return found
