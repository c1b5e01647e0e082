"""Sums of squares in float64 that need no copy of what is summed."""

from __future__ import annotations

from torch import Tensor

_PIECE = 1 << 20  # elements that are converted at a time


def energy(values: Tensor, others: Tensor | None = None) -> float:
    """The squared norm of a tensor, or of its difference from another of the same shape, in float64.

    >>> import torch
    >>> energy(torch.tensor([3.0, 4.0])), energy(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0]))
    (25.0, 1.0)
    """
    left, right = values.detach().reshape(-1), None if others is None else others.detach().reshape(-1)
    total = 0.0
    for first in range(0, len(left), _PIECE):
        piece = left[first : first + _PIECE].double()
        if right is not None:
            piece = piece - right[first : first + _PIECE].double()
        total += piece.square().sum().item()
    return total
