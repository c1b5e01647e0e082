"""A wide bounding-box tree over points of a few dimensions, for exact nearest-neighbor search.

The points are sorted as in a k-d tree, so that neighbors are adjacent. A leaf has up to LEAF points; WIDE leaves form a
node, and WIDE nodes form a node of the next level. A node stores the boxes of its children coordinate by coordinate, so
one vectorized loop computes the distances from a point to all of them; a leaf stores its points in the same way.

The search is exact because rounding is monotone: the distance to a box, computed by the same operations in the same
order, never exceeds the computed distance to a point inside it.
"""

from typing import Any, NamedTuple

import numpy as np

from tenreo.codec.jit import compiled, inlined

# Multiples of 32, so that the compiler vectorizes loops over them without a remainder.
LEAF = 96  # maximum number of points in a leaf; halving 2^k or 9 * 2^k points gives leaves of 64 or 72
WIDE = 32  # children per node
NONE = np.int32(2**31 - 1)  # means "no point"; larger than every point number
STACK = 512  # nodes that can wait during a search: more than WIDE per level
_SPLIT_SAMPLES = 128  # maximum number of points, or a few more, from which a split is chosen
_PIVOT_SAMPLES = 32  # points from which a pivot is chosen
_REPEAT_SAMPLES, _REPEAT_RATIO = 4096, 0.75  # coordinates to sample; at most this fraction of them distinct: repeated


class BoxTree(NamedTuple):
    """A tree over points of g dimensions, as arrays for compiled code."""

    points: Any  # (leaves, g, LEAF) coordinates of the points of each leaf; infinity in unused slots
    numbers: Any  # (leaves, LEAF) int32, the number of each point; NONE in unused slots
    starts: Any  # (levels + 1,) int64, first node of each level; the children of level 0 are leaves, the root is last
    low: Any  # (nodes, g, WIDE) lower corners of the children's boxes
    high: Any  # (nodes, g, WIDE) upper corners


def sort_for_tree(points: Any) -> Any:
    """Sort (n, g) points in place for `build_tree`; return the former index of each point, (n,) int32."""
    return partition(points, 1 << _depth(len(points)), has_repeated_values(points))


def has_repeated_values(points: Any) -> bool:
    """Return whether many coordinates are equal in a sample of them."""
    values = points.reshape(-1)
    sample = values[:: 1 + len(values) // _REPEAT_SAMPLES]
    return len(np.unique(sample)) <= _REPEAT_RATIO * len(sample)


@compiled
def partition(points, parts, repeated):
    """Sort points in place into compact parts of equal size, by recursive halving as in a k-d tree.

    Args:
        points: (n, g).
        parts: number of parts, in [1, n].
        repeated: whether many coordinates are equal. If true, splits avoid runs of equal coordinates, so zero-width
            boxes stay separate.

    Returns:
        (n,) int32, the former index of each point. Part k has the points k * n // parts to (k + 1) * n // parts - 1.
    """
    n = len(points)
    indices = np.arange(n).astype(np.int32)
    stack = [(0, parts)]
    while len(stack) > 0:
        first, last = stack.pop()
        if last - first < 2:
            continue
        start, end = first * n // parts, last * n // parts
        dim = _widest(points, start, end)
        middle = (first + last) // 2
        if repeated:
            sample = points[start : end : 1 + (end - start) // _SPLIT_SAMPLES, dim]
            middle = first + _parts_before_run(sample, last - first)
        _split(points, indices, start, end, middle * n // parts, dim)
        stack.append((first, middle))
        stack.append((middle, last))
    return indices


@compiled
def _parts_before_run(values, parts):
    """Return the size of the first half; if many values equal the median, split next to that run instead."""
    values = values.copy()
    _sort(values)
    count = len(values)
    below = above = count // 2
    while below > 0 and values[below - 1] == values[count // 2]:
        below -= 1
    while above < count and values[above] == values[count // 2]:
        above += 1
    split = below if count - above < below else above
    if above - below < count // 8 or min(split, count - split) < count // 16:
        return parts // 2
    return min(max(1, (split * parts + count // 2) // count), parts - 1)


@compiled
def _sort(values):
    """Sort up to about a hundred values in place; numba takes seconds to compile `np.sort`."""
    for i in range(1, len(values)):
        value, place = values[i], i
        while place > 0 and values[place - 1] > value:
            values[place] = values[place - 1]
            place -= 1
        values[place] = value


@compiled
def _depth(count):
    """Return how often `count` points must be halved until no part has more than LEAF."""
    depth = 0
    while (count >> depth) + 1 > LEAF:
        depth += 1
    return depth


@compiled
def _widest(points, start, end):
    """Return the dimension in which a sample of the points [start, end) has the largest variance."""
    widest, most = 0, -1.0
    for d in range(points.shape[1]):
        total = squares = 0.0
        count = 0
        for i in range(start, end, 1 + (end - start) // _SPLIT_SAMPLES):
            total += points[i, d]
            squares += points[i, d] * points[i, d]
            count += 1
        variance = squares - total * total / count
        if variance > most:
            widest, most = d, variance
    return widest


@compiled
def _split(points, indices, start, end, middle, dim):
    """Partially sort the points [start, end) by one coordinate, so that the lowest ones are [start, middle)."""
    left, right = start, end - 1
    sample = np.empty(_PIVOT_SAMPLES, points.dtype)
    while left < right:
        pivot = _pivot(points, left, right, middle, dim, sample)
        i, j = left, right
        while i <= j:
            while points[i, dim] < pivot:
                i += 1
            while points[j, dim] > pivot:
                j -= 1
            if i <= j:
                for d in range(points.shape[1]):
                    points[i, d], points[j, d] = points[j, d], points[i, d]
                indices[i], indices[j] = indices[j], indices[i]
                i += 1
                j -= 1
        if middle <= j:
            right = j
        elif middle >= i:
            left = i
        else:
            return


@compiled
def _pivot(points, left, right, middle, dim, sample):
    """Estimate the coordinate that sorting the points [left, right] would put at index `middle`."""
    if right - left < 8 * _PIVOT_SAMPLES:
        a, b, c = points[left, dim], points[(left + right) >> 1, dim], points[right, dim]
        return max(min(a, b), min(max(a, b), c))
    step = (right - left) // (_PIVOT_SAMPLES - 1)
    for k in range(_PIVOT_SAMPLES):
        sample[k] = points[left + k * step, dim]
    _sort(sample)
    return sample[(middle - left) * _PIVOT_SAMPLES // (right - left + 1)]


@compiled
def build_tree(points, numbers):
    """Build the `BoxTree` of (n, g) points that `sort_for_tree` sorted, with their (n,) int32 numbers."""
    count, dims = points.shape
    depth = _depth(count)
    leaves = 1 << depth
    starts = _levels(leaves)
    leaf_points = np.full((leaves, dims, LEAF), np.inf, points.dtype)
    leaf_numbers = np.full((leaves, LEAF), NONE, np.int32)
    low = np.full((starts[-1], dims, WIDE), np.inf, points.dtype)
    high = np.full((starts[-1], dims, WIDE), -np.inf, points.dtype)
    for leaf in range(leaves):
        first = (leaf * count) >> depth
        node, child = leaf // WIDE, leaf % WIDE
        for i in range(first, ((leaf + 1) * count) >> depth):
            leaf_numbers[leaf, i - first] = numbers[i]
            for d in range(dims):
                value = points[i, d]
                leaf_points[leaf, d, i - first] = value
                low[node, d, child] = min(low[node, d, child], value)
                high[node, d, child] = max(high[node, d, child], value)
    for level in range(1, len(starts) - 1):
        for i in range(starts[level] - starts[level - 1]):
            node, child = starts[level] + i // WIDE, starts[level - 1] + i
            for d in range(dims):
                low[node, d, i % WIDE] = low[child, d].min()
                high[node, d, i % WIDE] = high[child, d].max()
    return BoxTree(leaf_points, leaf_numbers, starts, low, high)


@compiled
def _levels(leaves):
    """Return the first node of each level, followed by the number of all nodes."""
    starts = [0]
    width = leaves
    while width > 1 or len(starts) == 1:
        width = (width + WIDE - 1) // WIDE
        starts.append(starts[-1] + width)
    return np.array(starts)


@compiled
def distances_to_boxes(point, low, high, distances):
    """Write the squared distances from a point to the WIDE boxes of a node's children into `distances`."""
    for k in range(WIDE):
        distances[k] = 0
    for d in range(len(point)):
        value = point[d]
        for k in range(WIDE):
            gap = max(low[d, k] - value, value - high[d, k], value - value)
            distances[k] += gap * gap


@inlined
def distances_to_points(point, points, distances):
    """Write the squared distances from a point to the LEAF points of a leaf into `distances`."""
    value = point[0]
    for k in range(LEAF):
        gap = points[0, k] - value
        distances[k] = gap * gap
    for d in range(1, len(point)):
        value = point[d]
        for k in range(LEAF):
            gap = points[d, k] - value
            distances[k] += gap * gap
