"""Slow but obvious implementations, with which tests compare the package."""

import numpy as np


def chain(matrix):
    """Return the nearest-neighbor chain by brute force."""
    matrix = np.asarray(matrix, np.float32)

    def squares(rows):
        total = rows[0] * rows[0]
        for row in rows[1:]:
            total = total + row * row
        return total

    with np.errstate(over="ignore"):
        current = int(np.argmax(squares(matrix)))
        order = [current]
        left = [i for i in range(matrix.shape[1]) if i != current]
        while left:
            distances = squares(matrix[:, left] - matrix[:, [current]])
            current = left.pop(int(np.argmin(distances)))
            order.append(current)
    return np.array(order)


def cosine_matrix(length):
    """Return the (length, length) matrix whose row k is the k-th orthonormal DCT-II basis vector."""
    k = np.arange(length)[:, None]
    x = np.arange(length)[None, :]
    basis = np.sqrt(2 / length) * np.cos(np.pi * k * (2 * x + 1) / (2 * length))
    basis[0] = np.sqrt(1 / length)
    return basis
