"""Long arrays in pieces: temporary copies of a piece are small, those of a whole weight take gigabytes."""

from collections.abc import Iterator

PIECE = 1 << 20  # elements


def pieces(count: int) -> Iterator[slice]:
    """Yield the slices of an array that together contain its `count` elements.

    >>> list(pieces(1_500_000))
    [slice(0, 1048576, None), slice(1048576, 2097152, None)]
    """
    return (slice(first, first + PIECE) for first in range(0, count, PIECE))
