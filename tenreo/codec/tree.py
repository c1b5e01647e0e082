"""A k-d tree for exact nearest-neighbor search in a few dimensions; ties go to the lowest column.

Two facts keep the pruning exact. Rounding is monotone, so the distance to a box, computed with the
same operations in the same order, never exceeds the computed distance of a point inside it. And
every node knows the lowest column that is left below it, so a box that can only tie is entered only
where it could win: a million equal points cost no more than a million different ones.

The tree is a complete binary one, numbered like a heap: the children of node i are 2i+1 and 2i+2,
the leaves are the last 2^depth nodes. Points are sorted so that a node's are contiguous. All of it
is compiled code that releases the GIL.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tenreo.codec.compiled import compiled

LEAF = 64  # points per leaf at most; a constant, so that the loops over a leaf become vector code
NONE = np.int32(2**31 - 1)  # stands for "no column": above every real one


class Tree(NamedTuple):
    """A k-d tree over `count` points of g dimensions, as arrays that compiled code takes.

    Attributes:
        depth: levels below the root; there are 2^depth leaves and 2^(depth + 1) - 1 nodes.
        low: (nodes, g) float32, lower corner of each node's bounding box.
        high: (nodes, g) float32, upper corner.
        lowest: (nodes,) int32, the lowest column that is left below each node, or NONE.
        block: (leaves, g, LEAF) float32, the points of each leaf by coordinate; infinite past `used`.
        columns: (leaves, LEAF) int32, their columns; NONE past `used`.
        used: (leaves,) int32, the number of points left in each leaf.
    """

    depth: Any
    low: Any
    high: Any
    lowest: Any
    block: Any
    columns: Any
    used: Any


class Workspace(NamedTuple):
    """Memory that a search writes to, allocated once for many searches.

    Attributes:
        distance: (LEAF,) float32.
        nodes: (128,) int64, a stack of nodes still to be visited.
        bounds: (128,) float32, the squared distances to their boxes.
    """

    distance: Any
    nodes: Any
    bounds: Any


class Best(NamedTuple):
    """The nearest point found so far: squared distance, column, and its place in the tree."""

    distance: Any
    column: Any
    leaf: Any
    slot: Any


@compiled
def workspace():
    """A `Workspace` for searches in any tree."""
    return Workspace(np.empty(LEAF, np.float32), np.empty(128, np.int64), np.empty(128, np.float32))


@compiled
def build(points, columns, count):
    """Build the `Tree` of the first `count` points, reordering (n, g) points and their columns."""
    dims = points.shape[1]
    depth = 0
    while (count >> depth) + 1 > LEAF:
        depth += 1
    leaves = 1 << depth
    nodes = 2 * leaves - 1
    low = np.empty((nodes, dims), np.float32)
    high = np.empty((nodes, dims), np.float32)
    lowest = np.full(nodes, NONE, np.int32)
    for level in range(depth + 1):
        for k in range(1 << level):
            node = (1 << level) - 1 + k
            start = (k * count) >> level
            end = ((k + 1) * count) >> level
            widest = _bounds(points, start, end, low[node], high[node])
            if level < depth:
                _split(points, columns, start, end, ((2 * k + 1) * count) >> (level + 1), widest)

    block = np.full((leaves, dims, LEAF), np.inf, np.float32)  # past `used`: never the nearest
    block_columns = np.full((leaves, LEAF), NONE, np.int32)
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
    return Tree(depth, low, high, lowest, block, block_columns, used)


@compiled
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


@compiled
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


@compiled
def find(tree, column):
    """The leaf and slot of a column, or -1 and -1."""
    for leaf in range(len(tree.used)):
        for slot in range(tree.used[leaf]):
            if tree.columns[leaf, slot] == column:
                return leaf, slot
    return -1, -1


@compiled
def collect(tree, points, columns):
    """Copy the points that are left back into one array, leaf by leaf."""
    count = 0
    for leaf in range(len(tree.used)):
        for slot in range(tree.used[leaf]):
            columns[count] = tree.columns[leaf, slot]
            for d in range(points.shape[1]):
                points[count, d] = tree.block[leaf, d, slot]
            count += 1


@compiled
def delete(leaf, slot, depth, lowest, block, columns, used):
    """Take one point out of its leaf; the last one of the leaf moves into its place."""
    last = used[leaf] - 1
    used[leaf] = last
    column = columns[leaf, slot]
    columns[leaf, slot] = columns[leaf, last]
    columns[leaf, last] = NONE
    for d in range(block.shape[1]):
        block[leaf, d, slot] = block[leaf, d, last]
        block[leaf, d, last] = np.inf

    node = (1 << depth) - 1 + leaf
    if lowest[node] != column:
        return
    lowest[node] = NONE
    for i in range(last):
        lowest[node] = min(lowest[node], columns[leaf, i])
    while node > 0:
        node = (node - 1) >> 1
        if lowest[node] != column:
            return
        lowest[node] = min(lowest[2 * node + 1], lowest[2 * node + 2])


@compiled
def _box_distance(query, low, high, node, limit):
    """Squared distance to a node's box in the chain's own arithmetic; cut short once above the limit."""
    total = np.float32(0.0)
    for d in range(len(query)):
        gap = max(low[node, d] - query[d], query[d] - high[node, d], np.float32(0.0))
        total += gap * gap
        if total > limit:
            return total
    return total


@compiled
def _scan(block, columns, query, leaf, best, distance):
    """Compare every point of a leaf with the best one so far; return the better one."""
    for i in range(LEAF):
        gap = block[leaf, 0, i] - query[0]
        distance[i] = gap * gap
    for d in range(1, len(query)):
        for i in range(LEAF):
            gap = block[leaf, d, i] - query[d]
            distance[i] += gap * gap
    # Mostly none is as near, and to ask that of all at once is vector code.
    limit = best.distance
    near = np.int32(0)
    for i in range(LEAF):
        near |= np.int32(distance[i] <= limit)
    if near:
        for i in range(LEAF):
            if distance[i] < best.distance or (distance[i] == best.distance and columns[leaf, i] < best.column):
                best = Best(distance[i], columns[leaf, i], leaf, i)
    return best


@compiled
def nearest(tree, query, leaf, space):
    """Find the (leaf, slot) of the nearest point, starting in a leaf that is near, or from the root for -1."""
    # Local names: in a loop, a field of a tuple costs a reference count at every use.
    low, high, lowest, block, columns = tree.low, tree.high, tree.lowest, tree.block, tree.columns
    distance, nodes, bounds = space.distance, space.nodes, space.bounds
    first_leaf = (1 << tree.depth) - 1
    best = Best(np.float32(np.inf), NONE, np.int64(-1), np.int64(-1))
    size = 0
    if leaf < 0:
        nodes[0] = 0
        bounds[0] = 0.0
        size = 1
    elif tree.used[leaf] > 0:
        best = _scan(block, columns, query, leaf, best, distance)
    # The siblings along the way from the root down to the leaf; the nearest to the leaf is taken first.
    for level in range(tree.depth if leaf >= 0 else 0):
        node = (first_leaf + leaf + 1 >> tree.depth - level - 1) - 1
        sibling = ((node - 1) ^ 1) + 1
        if lowest[sibling] != NONE:
            nodes[size] = sibling
            bounds[size] = _box_distance(query, low, high, sibling, best.distance)
            size += 1
    while size > 0:
        size -= 1
        node = nodes[size]
        bound = bounds[size]
        if bound > best.distance or (bound == best.distance and lowest[node] >= best.column):
            continue
        if node >= first_leaf:
            best = _scan(block, columns, query, node - first_leaf, best, distance)
            continue
        near = 2 * node + 1
        far = near + 1
        near_bound = _box_distance(query, low, high, near, best.distance)
        far_bound = _box_distance(query, low, high, far, best.distance)
        if far_bound < near_bound or (far_bound == near_bound and lowest[far] < lowest[near]):
            near, far = far, near
            near_bound, far_bound = far_bound, near_bound
        if far_bound <= best.distance and lowest[far] != NONE:
            nodes[size] = far
            bounds[size] = far_bound
            size += 1
        if near_bound <= best.distance and lowest[near] != NONE:
            nodes[size] = near
            bounds[size] = near_bound
            size += 1
    return best.leaf, best.slot
