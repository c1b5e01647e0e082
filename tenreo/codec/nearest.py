"""The nearest of many samples for each of many points.

The search starts from a sample that each point already has, and only what is strictly nearer replaces it: so the result
does not depend on how the work is divided.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tenreo.codec.box_tree import (
    LEAF,
    STACK,
    WIDE,
    arrange,
    boxes,
    distances_to_boxes,
    distances_to_points,
)
from tenreo.codec.jit import compiled
from tenreo.codec.threads import share

_SAMPLES = 1 << 20  # of a tree at most: 50 MB with four coordinates


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
    found = near.copy()
    move_to_nearest(samples.copy(), points, found, np.empty(len(points), points.dtype))
    return found


def move_to_nearest(samples: Any, points: Any, found: Any, near: Any) -> None:
    """Replace a sample of every point by the nearest one, in parts that idle threads share.

    Args:
        samples: (m, g); their order changes.
        points: (n, g), of the same dtype; neighbors side by side are faster.
        found: (n,) int32, a sample of each point, which stays where none is nearer.
        near: (n,), becomes the squared distances.
    """
    distances(samples, points, found, near)
    numbers = arrange(samples)
    trees = 1  # one after the other, for the sake of memory; each of them whole leaves
    while len(samples) > trees * _SAMPLES:
        trees *= 2
    for k in range(trees):
        some = slice(k * len(samples) // trees, (k + 1) * len(samples) // trees)
        share(len(points), partial(search, boxes(samples[some], numbers[some]), points, near, found))


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


@compiled
def search(tree, points, near, found, first, last):
    """Write the nearest sample of the points first to last - 1 into `found`, or the near one where none is nearer.

    Args:
        tree: `Boxes` of the samples.
        points: (n, g); neighbors side by side are faster.
        near: (n,) squared distances of the points to the samples in `found`; becomes those to the nearest.
        found: (n,) int32.
        first: the first point.
        last: where to end.
    """
    if _out_of_reach(tree, points, near, first, last):
        return
    # Local names: in a loop, a field of a tuple costs a reference count at every use.
    samples, numbers, starts, low, high = tree.points, tree.numbers, tree.starts, tree.low, tree.high
    nodes, levels, bounds = np.empty(STACK, np.int64), np.empty(STACK, np.int64), np.empty(STACK, points.dtype)
    apart, gaps = np.empty(WIDE, points.dtype), np.empty(LEAF, points.dtype)
    for i in range(first, last):
        best, where = near[i], found[i]
        nodes[0], levels[0], bounds[0] = starts[-1] - 1, len(starts) - 2, 0
        size = 1
        while size > 0:
            size -= 1
            if bounds[size] >= best:
                continue
            node, level = nodes[size], levels[size]
            distances_to_boxes(points[i], low[node], high[node], apart)
            child = (node - starts[level]) * WIDE
            if level > 0:
                size = _push(apart, best, child + starts[level - 1], level - 1, nodes, levels, bounds, size)
                continue
            for k in range(WIDE):
                if apart[k] < best:
                    best, where = _scan(points[i], samples[child + k], numbers[child + k], best, where, gaps)
        near[i], found[i] = best, where


@compiled
def _out_of_reach(tree, points, near, first, last):
    """Whether no sample of a tree can be nearer to any of some points than the sample that it has."""
    zero = near[first] - near[first]
    apart = zero
    for d in range(points.shape[1]):
        some = points[first:last, d]
        gap = max(tree.low[-1, d].min() - some.max(), some.min() - tree.high[-1, d].max(), zero)
        apart += gap * gap
    return apart >= near[first:last].max()


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
    distances_to_points(point, samples, gaps)
    # Mostly none is nearer, and to ask that of all at once is vector code.
    nearer = np.int32(0)
    for k in range(LEAF):
        nearer |= np.int32(gaps[k] < best)
    if nearer:
        for k in range(LEAF):
            if gaps[k] < best:
                best, where = gaps[k], numbers[k]
    return best, where
