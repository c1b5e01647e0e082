"""Nearest-sample search: for each of many points, the nearest of many samples.

The search starts from a sample that each point already has and replaces it only by a strictly nearer one, so the result
does not depend on how the points are divided among threads.
"""

from functools import partial
from typing import Any

import numpy as np

from tenreo.codec.box_tree import LEAF, STACK, WIDE, build_tree, distances_to_boxes, distances_to_points, sort_for_tree
from tenreo.codec.jit import compiled
from tenreo.codec.threads import SINGLE_THREADED, Task

SAMPLES_PER_TREE = 1 << 20  # maximum; a tree of four coordinates then takes 50 MB


def move_to_nearest(samples: Any, points: Any, positions: Any, distances: Any, task: Task = SINGLE_THREADED) -> None:
    """Replace the sample of every point by the nearest one.

    >>> positions = np.zeros(2, np.int32)
    >>> samples, points = np.float32([[0.0], [1.0], [5.0]]), np.float32([[0.9], [4.0]])
    >>> move_to_nearest(samples, points, positions, np.empty(2, np.float32))
    >>> positions.tolist()
    [1, 2]

    Args:
        samples: (m, g); sorted in place.
        points: (n, g), of the same dtype. The search is faster if neighboring points are adjacent.
        positions: (n,) int32, the index of a sample for each point; overwritten if another sample is nearer.
        distances: (n,), overwritten with the squared distances to the nearest samples.
        task: receives no progress; its threads search in chunks of the points.
    """
    squared_error(samples, points, positions, distances)
    numbers = sort_for_tree(samples)
    trees = 1  # with many samples, several trees are searched one after the other to save memory
    while len(samples) > trees * SAMPLES_PER_TREE:
        trees *= 2  # powers of two, so that no leaf is divided
    for k in range(trees):
        part = slice(k * len(samples) // trees, (k + 1) * len(samples) // trees)
        tree = build_tree(samples[part], numbers[part])
        task.run_chunks(len(points), partial(_search, tree, points, positions, distances))


@compiled
def squared_error(samples, points, positions, distances):
    """Write the squared distance from each point to its sample into `distances`; return their sum in float64."""
    total = 0.0
    for i in range(len(points)):
        distance = points[i, 0] - points[i, 0]
        for d in range(points.shape[1]):
            gap = samples[positions[i], d] - points[i, d]
            distance += gap * gap
        distances[i] = distance
        total += distance
    return total


@compiled
def add_at(points, first, positions, sums):
    """Add the coordinates of (n, g) points, from the first one on, to `sums`, (coordinates, m), at their positions."""
    for d in range(len(sums)):
        for i in range(len(positions)):
            sums[d, positions[i]] += points[i, first + d]


@compiled
def _search(tree, points, positions, distances, start, end):
    """Update positions and squared distances of the points [start, end) if samples of a `BoxTree` are nearer."""
    if _is_too_far(tree, points, distances, start, end):
        return
    # Local names: inside a loop, each access to a field of a tuple would cost a reference count.
    samples, numbers, starts, low, high = tree.points, tree.numbers, tree.starts, tree.low, tree.high
    nodes, levels, bounds = np.empty(STACK, np.int64), np.empty(STACK, np.int64), np.empty(STACK, points.dtype)
    to_boxes, to_samples = np.empty(WIDE, points.dtype), np.empty(LEAF, points.dtype)
    for i in range(start, end):
        best, position = distances[i], positions[i]
        nodes[0], levels[0], bounds[0] = starts[-1] - 1, len(starts) - 2, 0
        size = 1
        while size > 0:
            size -= 1
            if bounds[size] >= best:
                continue
            node, level = nodes[size], levels[size]
            distances_to_boxes(points[i], low[node], high[node], to_boxes)
            child = (node - starts[level]) * WIDE
            if level > 0:
                size = _push(to_boxes, best, child + starts[level - 1], level - 1, nodes, levels, bounds, size)
                continue
            for k in range(WIDE):
                if to_boxes[k] < best:
                    leaf = child + k
                    best, position = _scan(points[i], samples[leaf], numbers[leaf], best, position, to_samples)
        distances[i], positions[i] = best, position


@compiled
def _is_too_far(tree, points, distances, start, end):
    """Return whether no sample of a tree can be nearer to any of the points [start, end) than its present sample."""
    zero = distances[start] - distances[start]
    distance = zero
    for d in range(points.shape[1]):
        values = points[start:end, d]
        gap = max(tree.low[-1, d].min() - values.max(), values.min() - tree.high[-1, d].max(), zero)
        distance += gap * gap
    return distance >= distances[start:end].max()


@compiled
def _push(distances, best, first, level, nodes, levels, bounds, size):
    """Push the children nearer than the best sample onto the stack, the nearest last; return its new size."""
    bottom = size
    for k in range(WIDE):
        if distances[k] < best:
            place = size
            while place > bottom and bounds[place - 1] < distances[k]:
                nodes[place], bounds[place] = nodes[place - 1], bounds[place - 1]
                place -= 1
            nodes[place], bounds[place], levels[size] = first + k, distances[k], level
            size += 1
    return size


@compiled
def _scan(point, samples, numbers, best, position, distances):
    """Return the smallest squared distance, and its sample, among the best sample so far and those of a leaf."""
    distances_to_points(point, samples, distances)
    # Usually no sample of the leaf is nearer, and this loop without branches is vectorized.
    nearer = np.int32(0)
    for k in range(LEAF):
        nearer |= np.int32(distances[k] < best)
    if nearer:
        for k in range(LEAF):
            if distances[k] < best:
                best, position = distances[k], numbers[k]
    return best, position
