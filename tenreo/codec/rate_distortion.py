"""Rate-distortion optimization: positions that take few bits and keep the error small.

A stream of positions (`tenreo.codec.position_coding`) is shorter the less uniform their frequencies are. So instead of
the nearest sample, the positions minimize

    cost = |S - curve[:, positions]|^2 + price * sum of log2(1 / frequency of the position in its class)

on a curve of one row, a table of values with few coefficients. The positions are the cheapest path through a trellis
(`tenreo.codec.trellis`); then the curve is fitted to its columns, and the frequencies are counted again. No step
increases the cost (P. A. Chou, T. Lookabaugh, R. M. Gray, "Entropy-constrained vector quantization", 1989). Samples
without columns have an infinite cost and are not used again.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tenreo.codec.cosine import dct, idct
from tenreo.codec.encode import EncodedWeight, check_range, scaled_matrix
from tenreo.codec.position_coding import bits_of, choose_classes, columns_per_output
from tenreo.codec.precision import fake_quantize
from tenreo.codec.refine import fit
from tenreo.codec.shape import MOST_VALUES, Precision
from tenreo.codec.threads import SINGLE_THREADED, Task
from tenreo.codec.trellis import cheapest_path, following

# 128 states: 0.25 dB from Shannon's bound at 0.25 microseconds per weight. 8 states: 0.45 dB, 0.1 microseconds.
MEMORY = 7
COEFFICIENTS = 8  # of a curve of one row; more do not reduce the error
_FIRST_MEMORY = 3  # of the first path; its frequencies are close to those of a trellis with more memory
_PRICE_PER_SQUARED_STEP = 0.12  # best price / step^2 of a uniform quantizer with entropy coding: about ln(2) / 6
_TRELLIS_STEP = 0.55  # a trellis has denser samples, and each of its sets is sparser
_UNSEEN = 0.01  # initial frequency of a sample without columns
# Limits for a scaled matrix, whose largest magnitude is between 1/2 and 1.
_PRICES = 2.0**-100, 2.0**40  # at the lower one only the error counts, at the upper one only the bits
_FINEST_STEP = 2.0**-23  # a finer one would be lost in the rounding of float32
_MARGIN = 10  # most samples outside the range of the values, with those that align the first sample


@dataclass(frozen=True)
class State:
    """The state of the alternation, in the units of the scaled matrix."""

    positions: Tensor  # (columns,) int32
    coefficients: Tensor  # (1, coefficients_per_row)
    frequencies: Any  # (classes, length), number of columns at each sample, by class
    contexts: Any  # (columns,) uint8, class of each column

    @property
    def length(self) -> int:
        """Samples on the curve."""
        return int(self.frequencies.shape[1])

    def curve(self) -> Tensor:
        """Return the (1, length) samples of the curve."""
        return idct(self.coefficients, self.length)


def quantize_uniformly(weight: Tensor, price: float, memory: int = MEMORY) -> EncodedWeight:
    """Encode a weight on a curve of one row that is nearly a ramp: a uniform quantizer whose step fits a price.

    >>> encoded = quantize_uniformly(torch.linspace(-1, 1, 1000), price=0.03)
    >>> encoded.length, encoded.coefficients.shape
    (15, torch.Size([1, 8]))

    Args:
        weight: any shape, floating point, finite.
        price: squared error that is worth one bit, above 0.
        memory: memory in bits of the trellis for which the encoding is a start, at least 2. The positions are the
            nearest samples, not yet a path of the trellis.

    Returns:
        An encoding with at most `MOST_VALUES` samples, whatever the price and the range of the values.

    Raises:
        TenreoError: if a coefficient exceeds the range of the weight's dtype.
    """
    row, scale = scaled_matrix(weight.cpu(), 1)
    low, high = row.min().item(), row.max().item()
    if low == high:  # a single sample, which needs no rounding
        value, positions = (
            weight.detach().cpu().reshape(1, -1)[:, :1],
            torch.zeros(row.shape[1], dtype=torch.int32, device="cpu"),
        )
        return EncodedWeight(value, positions, 1, tuple(weight.shape), memory)
    step = math.sqrt(_scaled_price(price, scale) / _PRICE_PER_SQUARED_STEP) * _TRELLIS_STEP
    # At most the range, beside which the rounding of a wider curve would be large.
    step = max(min(step, high - low), (high - low) / (MOST_VALUES - _MARGIN), _FINEST_STEP)
    first, last = math.floor(low / step) - 2, math.ceil(high / step) + 2
    first -= first % 4  # so that 0 belongs to the same subset in every weight
    curve = (torch.arange(first, last + 1, dtype=row.dtype, device=row.device) * step)[None]
    positions = (row[0] / step).round().int() - first
    coefficients = fit(row.double(), positions, dct(curve)[:, :COEFFICIENTS].double(), curve.shape[1])
    coefficients = check_range(weight, (coefficients / scale).to(weight.dtype))
    return EncodedWeight(coefficients, positions, curve.shape[1], tuple(weight.shape), memory)


def _scaled_price(price: float, scale: float) -> float:
    """Return a price in the units of a scaled matrix, within the limits that single precision allows."""
    least, most = _PRICES
    return max(least, min(price * scale * scale, most))


def trellis_quantize(
    weight: Tensor, start: EncodedWeight, price: float,
    precision: Precision = Precision.FLOAT32, task: Task = SINGLE_THREADED,
) -> EncodedWeight:  # fmt: skip
    """Choose positions and coefficients of small squared error plus price times bits.

    >>> weight = torch.randn(64, 64)
    >>> encoded = trellis_quantize(weight, quantize_uniformly(weight, 0.01, memory=3), 0.01)

    Args:
        weight: weight with output channels first.
        start: its encoding by `quantize_uniformly`, which sets the memory of the trellis.
        price: squared error that is worth one bit, above 0.
        precision: number format of the coefficients in a file; they are rounded before the last path.
        task: checked for cancellation.

    Returns:
        An encoding of the same curve shape, on the weight's device.

    Raises:
        TenreoError: if a coefficient is too large for the number format or the weight's dtype.
        CancelledError: if the task was cancelled.
    """
    matrix, scale = scaled_matrix(weight.cpu(), 1)
    price = _scaled_price(price, scale)
    # One alternation is enough: further ones gain less than 0.01 dB.
    state = initial_state(start, matrix.dtype, scale)
    state = choose_path(matrix, state, price, min(start.memory, _FIRST_MEMORY), task)
    state = classify(state, columns_per_output(weight.shape), start.memory)
    state = fit_curve(matrix, state)
    rounded = check_range(weight, fake_quantize(state.coefficients / scale, precision).to(weight.dtype))
    state = replace(state, coefficients=rounded.to(matrix.dtype) * scale)
    state = choose_path(matrix, state, price, start.memory, task)
    return replace(start, coefficients=rounded.to(weight.device), positions=state.positions.to(weight.device))


def initial_state(start: EncodedWeight, dtype: torch.dtype, scale: float) -> State:
    """Return the state of an encoding whose columns all belong to one class."""
    positions = start.positions.cpu()
    frequencies = np.bincount(positions, minlength=start.length)[None] + _UNSEEN
    contexts = np.zeros(len(positions), np.uint8)
    return State(positions, start.coefficients.cpu().to(dtype) * scale, frequencies, contexts)


def choose_path(matrix: Tensor, state: State, price: float, memory: int, task: Task = SINGLE_THREADED) -> State:
    """Replace the positions by the cheapest path through the trellis, and count the frequencies again."""
    prices = (price * bits_of(_without_empty_sets(state.frequencies), memory)).astype(np.float32)
    positions = torch.empty_like(state.positions)
    values, samples = matrix[0].float().numpy(), state.curve()[0].float().numpy()
    cheapest_path(values, samples, prices, state.contexts, following(memory), positions.numpy(), task)
    return _count(state, positions, state.contexts, len(prices))


def _without_empty_sets(frequencies: Any) -> Any:
    """Return frequencies in which no class has a set without columns, since a path may have to go through any set."""
    usable = frequencies.astype(np.float64)
    for first in range(2):
        part = usable[:, first::2]
        part[part.sum(1) == 0] = 1
    return usable


def classify(state: State, row: int, memory: int) -> State:
    """Divide the columns into classes, with frequencies of their own, by `choose_classes`."""
    classes = choose_classes(state.positions.numpy(), state.length, row, memory)
    return _count(state, state.positions, classes.of_columns(len(state.positions), row), classes.count)


def fit_curve(matrix: Tensor, state: State) -> State:
    """Fit the curve to its columns by least squares, unless rounding makes it worse than the present one."""
    # In float64: if few samples have columns, the system is nearly singular, and a fit in float32 can fail.
    better = fit(matrix.double(), state.positions, state.coefficients.double(), state.length).to(matrix.dtype)
    fitted = replace(state, coefficients=better)
    return fitted if _squared_error(matrix, fitted) <= _squared_error(matrix, state) else state


def _count(state: State, positions: Tensor, contexts: Any, classes: int) -> State:
    cells = np.bincount(contexts.astype(np.int64) * state.length + positions.numpy(), minlength=classes * state.length)
    return replace(state, positions=positions, contexts=contexts, frequencies=cells.reshape(classes, state.length))


def _squared_error(matrix: Tensor, state: State) -> float:
    return (matrix - state.curve()[:, state.positions]).square().sum(dtype=torch.float64).item()
