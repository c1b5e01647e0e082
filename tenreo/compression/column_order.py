"""The order of a weight's columns: that of its elements in memory, contiguous or with channels last.

A convolution in the format `channels_last` copies a contiguous weight in every pass, and its gradient has channels
last. With g groups, row k of the matrix contains the output channels k * O / g to (k + 1) * O / g - 1, so if g divides
O, permuted columns decode to a weight with channels last.
"""

from torch import Tensor


def can_have_channels_last(shape: tuple[int, ...], groups: int) -> bool:
    """Return whether a weight of a shape has an order with channels last: if it is 4-D, and groups divide dimension 0.

    >>> can_have_channels_last((64, 32, 3, 3), groups=4), can_have_channels_last((64, 32), groups=4)
    (True, False)
    """
    return len(shape) == 4 and shape[0] % groups == 0


def channels_last(columns: Tensor, shape: tuple[int, ...], groups: int) -> Tensor:
    """Return (columns,) values, one per column of a contiguous weight, in the order of channels last."""
    return columns.view(shape[0] // groups, *shape[1:]).movedim(1, -1).reshape(-1)


def channels_first(columns: Tensor, shape: tuple[int, ...], groups: int) -> Tensor:
    """Return (columns,) values in the order of channels last in that of a contiguous weight."""
    return columns.view(shape[0] // groups, *shape[2:], shape[1]).movedim(-1, 1).reshape(-1)
