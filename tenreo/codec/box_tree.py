"""A wide tree of boxes over points of a few dimensions, for exact nearest-neighbor search.

Points are put in an order in which neighbors lie side by side, LEAF of them to a leaf; WIDE leaves make a node, WIDE
nodes one above them. A node holds the boxes of its children by coordinate, so one pass of vector code gives the
distances of a point to all of them, as to all the points of a leaf. Rounding is monotone: the distance to a box,
computed with the same operations in the same order, never exceeds the computed distance of a point inside it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tenreo.codec.jit import compiled, inlined

# Multiples of 32, so that loops over them become vector code.
LEAF = 96  # points of a leaf at most: 64 and 72, which powers of two and nine times these lead to, fit well
WIDE = 32  # children of a node
NONE = np.int32(2**31 - 1)  # stands for "no point": above the number of every real one
_LOOKS = 128  # points of a part that say where to halve it
_SEEN, _DIFFERENT = 4096, 0.75  # coordinates that are looked at; with fewer different ones, many are equal
_SAMPLE = 32  # points of a part that say near which to halve it: few enough to sort
STACK = 512  # nodes that can wait in a search: more than WIDE of each level


class Boxes(NamedTuple):
    """A tree over points of g dimensions, as arrays that compiled code takes.

    Attributes:
        points: (leaves, g, LEAF) of each leaf by coordinate; infinite where there are no more.
        numbers: (leaves, LEAF) int32, which points they are; NONE where there are no more.
        starts: (levels + 1,) int64, the first node of each level; leaves are children of level 0, the root is the last.
        low: (nodes, g, WIDE) lower corners of the children's boxes.
        high: (nodes, g, WIDE) upper corners.
    """

    points: Any
    numbers: Any
    starts: Any
    low: Any
    high: Any


def arrange(points: Any) -> Any:
    """Bring (n, g) points into an order in which those that make a leaf of `boxes` are side by side.

    Returns:
        (n,) int32, their places before.
    """
    return parted(points, 1 << _depth(len(points)), values_repeat(points))


def values_repeat(points: Any) -> bool:
    """Whether many coordinates are equal, by a look at some."""
    values = points.reshape(-1)
    some = values[:: 1 + len(values) // _SEEN]
    return len(np.unique(some)) <= _DIFFERENT * len(some)


@compiled
def parted(points, parts, repeated=False):
    """Bring points into an order in which neighbors are side by side, by halving.

    Args:
        points: (n, g); their order changes.
        parts: how many, in [1, n].
        repeated: whether many coordinates are equal: points are then parted above or below these, not amid them, and
            boxes of parts are flat.

    Returns:
        (n,) int32, their places before; points k * n // parts to (k + 1) * n // parts - 1 make part k.
    """
    n = len(points)
    order = np.arange(n).astype(np.int32)
    stack = [(0, parts)]
    while len(stack) > 0:
        first, last = stack.pop()
        if last - first < 2:
            continue
        start, end = first * n // parts, last * n // parts
        dim = _widest(points, start, end)
        middle = (first + last) // 2
        if repeated:
            middle = first + _beside(points[start : end : 1 + (end - start) // _LOOKS, dim], last - first)
        _split(points, order, start, end, middle * n // parts, dim)
        stack.append((first, middle))
        stack.append((middle, last))
    return order


@compiled
def _beside(values, parts):
    """How many of some parts to split off: half, or if many values are as the median, all below or above these."""
    values = np.sort(values)
    count = len(values)
    below = np.searchsorted(values, values[count // 2])
    above = np.searchsorted(values, values[count // 2], side="right")
    share = below if count - above < below else above
    if above - below < count // 8 or min(share, count - share) < count // 16:
        return parts // 2
    return min(max(1, (share * parts + count // 2) // count), parts - 1)


@compiled
def _depth(count):
    """How often so many points are halved: no part then has more than LEAF."""
    depth = 0
    while (count >> depth) + 1 > LEAF:
        depth += 1
    return depth


@compiled
def _widest(points, start, end):
    """The coordinate in which some points, of which a few are looked at, vary most."""
    widest, most = 0, -1.0
    for d in range(points.shape[1]):
        total = squares = 0.0
        count = 0
        for i in range(start, end, 1 + (end - start) // _LOOKS):
            total += points[i, d]
            squares += points[i, d] * points[i, d]
            count += 1
        variance = squares - total * total / count
        if variance > most:
            widest, most = d, variance
    return widest


@compiled
def _split(points, numbers, start, end, middle, dim):
    """Partially sort points [start, end) by one coordinate, so that [start, middle) are lowest."""
    left = start
    right = end - 1
    looks = np.empty(_SAMPLE, points.dtype)
    while left < right:
        pivot = _pivot(points, left, right, middle, dim, looks)
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
                numbers[i], numbers[j] = numbers[j], numbers[i]
                i += 1
                j -= 1
        if middle <= j:
            right = j
        elif middle >= i:
            left = i
        else:
            return


@compiled
def _pivot(points, left, right, middle, dim, looks):
    """A coordinate of one of the points [left, right] that is near that of the one that belongs to `middle`."""
    if right - left < 8 * _SAMPLE:
        a, b, c = points[left, dim], points[(left + right) >> 1, dim], points[right, dim]
        return max(min(a, b), min(max(a, b), c))
    step = (right - left) // (_SAMPLE - 1)
    for k in range(_SAMPLE):
        looks[k] = points[left + k * step, dim]
    looks.sort()
    return looks[(middle - left) * _SAMPLE // (right - left + 1)]


@compiled
def boxes(points, numbers):
    """The `Boxes` of (n, g) points, neighbors side by side, by their (n,) int32 numbers."""
    count, dims = points.shape
    depth = _depth(count)
    leaves = 1 << depth
    starts = _levels(leaves)
    block = np.full((leaves, dims, LEAF), np.inf, points.dtype)
    names = np.full((leaves, LEAF), NONE, np.int32)
    low = np.full((starts[-1], dims, WIDE), np.inf, points.dtype)
    high = np.full((starts[-1], dims, WIDE), -np.inf, points.dtype)
    for leaf in range(leaves):
        first = (leaf * count) >> depth
        node, child = leaf // WIDE, leaf % WIDE
        for i in range(first, ((leaf + 1) * count) >> depth):
            names[leaf, i - first] = numbers[i]
            for d in range(dims):
                value = points[i, d]
                block[leaf, d, i - first] = value
                low[node, d, child] = min(low[node, d, child], value)
                high[node, d, child] = max(high[node, d, child], value)
    for level in range(1, len(starts) - 1):
        for i in range(starts[level] - starts[level - 1]):
            node, child = starts[level] + i // WIDE, starts[level - 1] + i
            for d in range(dims):
                low[node, d, i % WIDE] = low[child, d].min()
                high[node, d, i % WIDE] = high[child, d].max()
    return Boxes(block, names, starts, low, high)


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
def distances_to_boxes(point, low, high, apart):
    """Write the squared distances of a point to the WIDE boxes of a node's children."""
    for k in range(WIDE):
        apart[k] = 0
    for d in range(len(point)):
        value = point[d]
        for k in range(WIDE):
            gap = max(low[d, k] - value, value - high[d, k], value - value)
            apart[k] += gap * gap


@inlined
def distances_to_points(point, points, gaps):
    """Write the squared distances of a point to the LEAF points of a leaf."""
    value = point[0]
    for k in range(LEAF):
        gap = points[0, k] - value
        gaps[k] = gap * gap
    for d in range(1, len(point)):
        value = point[d]
        for k in range(LEAF):
            gap = points[d, k] - value
            gaps[k] += gap * gap
