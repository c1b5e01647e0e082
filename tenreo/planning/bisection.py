"""Bisection: the boundary of a condition that holds on one side of an interval."""

from collections.abc import Callable


def bisect(
    holds: Callable[[float], bool], false: float, true: float, *, steps: int = 60, tolerance: float = 0.0
) -> float:
    """Find the value nearest to `false` at which a monotone condition holds.

    >>> bisect(lambda x: x * x >= 2, 0.0, 2.0)
    1.4142135623730951

    Args:
        holds: condition that changes at most once between `false` and `true`; it is not called at these two.
        false: end of the interval at which the condition is assumed not to hold.
        true: end at which it is assumed to hold; may be smaller than `false`.
        steps: maximum number of calls of `holds`.
        tolerance: length of the interval at which the search stops.

    Returns:
        The last value at which the condition held; `true` if it held at no value between the ends.
    """
    for _ in range(steps):
        if abs(true - false) <= tolerance:
            break
        middle = (false + true) / 2
        if holds(middle):
            true = middle
        else:
            false = middle
    return true
