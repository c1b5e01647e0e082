"""Decoding of dense tensors that were rounded to grids (`tenreo.codec.grid`). Does not import torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tenreo.codec.integer_coding import damaged, decode_integers

MOST_EXPONENT = 1000  # of a step, in magnitude; float64 represents the values
_CONTENT = "dense tensors"
Values = NDArray[np.float64]


def decode_values(stream: NDArray[np.uint8], sizes: Sequence[tuple[int, bool]]) -> list[Values]:
    """Decode a stream of `tenreo.codec.grid.encode_levels`.

    Args:
        stream: (bytes,); may be damaged.
        sizes: for each tensor the number of its values, and whether its grid is logarithmic.

    Returns:
        The values of each tensor, (values,).

    Raises:
        TenreoError: if the stream is damaged, or has other tensors.
    """
    integers = decode_integers(stream, sum(2 + size for size, _ in sizes), _CONTENT)
    tensors, start = [], 0
    for size, logarithmic in sizes:
        exponent, median = (int(each) for each in integers[start : start + 2])
        if abs(exponent) > MOST_EXPONENT:
            raise damaged(_CONTENT, f"a step of 2^{exponent}")
        levels = (integers[start + 2 : start + 2 + size] + median).astype(np.float64)
        tensors.append(values_of(levels, exponent, logarithmic))
        start += 2 + size
    return tensors


def values_of(levels: Values, exponent: int, logarithmic: bool) -> Values:
    """Return the values of levels on a grid with the step 2^exponent, which are logarithms if it is logarithmic."""
    if not logarithmic:
        return np.asarray(levels * 2.0**exponent)
    steps = (levels - (levels > 0)) * 2.0**exponent
    with np.errstate(over="ignore"):  # of a damaged file
        return np.where(levels == 0, 0.0, np.exp2(steps))
