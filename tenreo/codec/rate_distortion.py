"""Rate-distortion optimization: positions that take few bits and keep the error small.

A stream of positions (`tenreo.codec.position_coding`) is shorter the less uniform their frequencies are. So instead of
the nearest sample, the positions minimize

    cost = |S - curve[:, positions]|^2 + price * sum of log2(1 / frequency of the position in its class)

on a ramp (`tenreo.codec.ramp`), whose step follows from the price. The positions are the cheapest path through a
trellis (`tenreo.codec.trellis`); then the ramp is fitted to its columns, and the frequencies are counted again. No step
increases the cost (P. A. Chou, T. Lookabaugh, R. M. Gray, "Entropy-constrained vector quantization", 1989), except for
the few bits that keep positions without columns possible.

Most weights are encoded best if all samples are evenly spaced. If most weights are near zero, a path needs a sample of
level 0 in both sets: with a single one, it has to leave it whenever the state selects the other set. Both are tried on
some of the columns.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tenreo.codec.alphabet import Alphabet, alphabet_of
from tenreo.codec.column_classes import count_in_classes
from tenreo.codec.encode import EncodedWeight, check_range, scaled_matrix
from tenreo.codec.pieces import pieces
from tenreo.codec.position_coding import bits_of, choose_classes, columns_per_output
from tenreo.codec.precision import fake_quantize
from tenreo.codec.ramp import decode_ramp, fit_ramp, most_level
from tenreo.codec.shape import Basis, Precision
from tenreo.codec.threads import SINGLE_THREADED, Task
from tenreo.codec.trellis import cheapest_path, following

# 128 states: 0.25 dB from Shannon's bound at 0.25 microseconds per weight. 8 states: 0.45 dB, 0.1 microseconds.
MEMORY = 7
_FIRST_MEMORY = 3  # of the first path; its frequencies are close to those of a trellis with more memory
_PRICE_PER_SQUARED_STEP = 0.12  # best price / step^2 of a uniform quantizer with entropy coding: about ln(2) / 6
_TRELLIS_STEP = 0.55  # a trellis has denser samples, and each of its sets is sparser
_UNSEEN = 0.01  # added to the frequencies, so that positions without columns remain possible
# Limits for a scaled matrix, whose largest magnitude is between 1/2 and 1.
_PRICES = 2.0**-100, 2.0**40  # at the lower one only the error counts, at the upper one only the bits
_MOST_STEPS = 1 << 20  # from the middle of a ramp to its ends; the time and the memory of a path grow with them
_FINEST_STEP = 2.0**-15  # of the weight's root mean square: 100 dB, more than any use of a compressed weight needs
_FEW_BITS = 3.0  # per weight; with more, a second sample of level 0 does not pay
_TRIED_COLUMNS = 1 << 13  # that are encoded with one and with two samples of level 0
_TRIED_PIECES = 16  # evenly spaced pieces of which these columns consist
_NO_POSITIONS = torch.empty(0, dtype=torch.int32)
_TRIED_ROUNDS = 4  # further rounds change the cost of either by less than the difference between them


@dataclass(frozen=True)
class State:
    """The state of the alternation, in the units of the scaled matrix."""

    coefficients: Tensor  # (1, 3)
    length: int  # samples on the ramp
    frequencies: Any  # (classes, cells) float64, number of columns in each cell of the alphabet, by class
    contexts: Any  # (columns,) uint8, class of each column
    positions: Tensor  # (columns,) int32; empty before the first path

    @property
    def alphabet(self) -> Alphabet:
        """The alphabet of the positions, which is the same for every trellis."""
        return alphabet_of(self.length, MEMORY, Basis.RAMP)

    def samples(self) -> Tensor:
        """Return the (length,) samples of the ramp."""
        positions = torch.arange(self.length)
        return decode_ramp(self.coefficients, positions, self.length)[0]

    def bits(self) -> float:
        """Return the bits of the positions, without the counts."""
        used = np.where(self.frequencies > 0, bits_of(self.frequencies, self.alphabet.sets), 0)
        extra = np.repeat(self.alphabet.extra, self.alphabet.sets)
        return float((self.frequencies * (used + extra)).sum())


@dataclass(frozen=True)
class UniformQuantizer:
    """A ramp of evenly spaced samples, in the units of the scaled matrix."""

    offset: float  # sample of level 0
    step: float
    length: int  # samples on the ramp

    @property
    def coefficients(self) -> Tensor:
        """The coefficients, (1, 3) float64."""
        return torch.tensor([[self.offset, self.step * most_level(self.length), 0.0]], dtype=torch.float64)

    def positions(self, values: Tensor) -> Tensor:
        """Return the nearest sample of each value, (columns,) int32."""
        return ((values - self.offset) / self.step).round().int() + most_level(self.length)

    def histogram(self, values: Tensor) -> Any:
        """Return how many values are nearest to each sample, (length,) int64."""
        counts = torch.zeros(self.length, dtype=torch.int64)
        for part in pieces(len(values)):
            counts += torch.bincount(self.positions(values[part]), minlength=self.length)
        return counts.numpy()


def uniform_quantizer(matrix: Tensor, scale: float, price: float, dtype: torch.dtype) -> UniformQuantizer:
    """Return the uniform quantizer whose step fits a price.

    >>> uniform_quantizer(torch.linspace(-1, 1, 1000)[None], 1.0, 0.03, torch.float32).length
    13

    Args:
        matrix: (1, columns) a scaled matrix of at least two different values.
        scale: its scale.
        price: squared error that is worth one bit, in the units of the matrix.
        dtype: dtype of the weight.

    Returns:
        A quantizer with at most two million samples, whatever the price and the range of the values.
    """
    values = matrix[0]
    median = values.median().item()
    # Weights that are not spread around zero are spread around their median.
    offset = median if _deviation(values, median) < abs(median) else 0.0
    width = max((each - offset).abs().item() for each in values.aminmax())
    decoded = torch.finfo(torch.promote_types(dtype, torch.float32))
    least = decoded.tiny * decoded.eps * scale  # smallest number above 0: decoding would round a finer step to 0
    finest = max(finest_step(width, _deviation(values, offset)), least)
    step = max(min(step_for(price), 4 * width), finest)
    most = torch.finfo(dtype).max * scale
    while step * most_level(length_for(width, step)) > most and step > width / 1024:
        step /= 2  # the ends of the ramp are then nearer to the largest value
    return UniformQuantizer(offset, step, length_for(width, step))


def _deviation(values: Tensor, center: float) -> float:
    """Return the root of the mean squared difference from a number."""
    squares = sum((values[part] - center).square().sum(dtype=torch.float64).item() for part in pieces(len(values)))
    return math.sqrt(squares / len(values))


def _scaled_price(price: float, scale: float) -> float:
    """Return a price in the units of a scaled matrix, within the limits that single precision allows."""
    least, most = _PRICES
    return max(least, min(price * scale * scale, most))


def step_for(price: float) -> float:
    """Return the distance between samples that fits a price."""
    return math.sqrt(price / _PRICE_PER_SQUARED_STEP) * _TRELLIS_STEP


def finest_step(width: float, deviation: float) -> float:
    """Return the smallest distance between samples for a weight of a largest magnitude and a root mean square."""
    return max(width / _MOST_STEPS, _FINEST_STEP * deviation)


def price_of(step: float) -> float:
    """Return the price that a distance between samples fits, the inverse of `step_for`."""
    return _PRICE_PER_SQUARED_STEP * (step / _TRELLIS_STEP) ** 2


def length_for(width: float, step: float) -> int:
    """Return the number of samples of a ramp, at most two million, that reach `width` in both directions."""
    steps = min(_MOST_STEPS, width / max(step, 1e-300))
    most = 2 * math.ceil(steps / 2) + 2  # even, so that level 0 is in the same set in every weight
    return 2 * most + 1


def trellis_quantize(
    weight: Tensor, price: float, memory: int = MEMORY,
    precision: Precision = Precision.FLOAT32, task: Task = SINGLE_THREADED,
) -> EncodedWeight:  # fmt: skip
    """Choose positions and coefficients of small squared error plus price times bits.

    >>> encoded = trellis_quantize(torch.randn(64, 64), 0.01)
    >>> encoded.coefficients.shape, encoded.memory
    (torch.Size([1, 3]), 7)

    Args:
        weight: weight with output channels first, floating point, finite, on the CPU.
        price: squared error that is worth one bit, above 0.
        memory: memory in bits of the trellis, at least 2.
        precision: number format of the coefficients in a file; they are rounded before the last path.
        task: checked for cancellation.

    Returns:
        An encoding on a ramp, or on a single cosine if all values are equal.

    Raises:
        TenreoError: if a coefficient is too large for the number format or the weight's dtype.
        CancelledError: if the task was cancelled.
    """

    def rounded(coefficients: Tensor) -> Tensor:
        return check_range(weight, fake_quantize(coefficients, precision).to(weight.dtype))

    matrix, scale = scaled_matrix(weight, 1)
    low, high = matrix.aminmax()
    if low == high:  # a single sample
        positions = torch.zeros(weight.numel(), dtype=torch.int32)
        value = rounded(weight.detach().reshape(1, -1)[:, :1].clone())
        return EncodedWeight(value, positions, 1, tuple(weight.shape))
    price = _scaled_price(price, scale)
    quantizer = uniform_quantizer(matrix, scale, price, weight.dtype)
    coefficients = check_range(weight, (quantizer.coefficients / scale).to(weight.dtype))
    # One alternation is enough: further ones gain less than 0.01 dB.
    first = min(memory, _FIRST_MEMORY)
    state = choose_zeros(matrix, quantizer, coefficients.to(matrix.dtype) * scale, price, first)
    state = choose_path(matrix, state, price, first, task)
    state = classify(state, columns_per_output(weight.shape))
    state = fit_curve(matrix, state)
    coefficients = rounded(state.coefficients / scale)
    # Without the positions of the first path, which take as much memory as those of the second.
    state = replace(state, coefficients=coefficients.to(matrix.dtype) * scale, positions=_NO_POSITIONS)
    state = choose_path(matrix, state, price, memory, task)
    return EncodedWeight(coefficients, state.positions, state.length, tuple(weight.shape), memory, Basis.RAMP)


def initial_state(coefficients: Tensor, histogram: Any, positions: Tensor) -> State:
    """Return a state of columns in one class, with frequencies from the number of columns at each sample."""
    alphabet, length = alphabet_of(len(histogram), MEMORY, Basis.RAMP), len(histogram)
    frequencies = np.bincount(alphabet.cells_of(length), weights=histogram, minlength=alphabet.cells)[None]
    return State(coefficients, length, frequencies, np.zeros(len(positions), np.uint8), positions)


def choose_zeros(matrix: Tensor, quantizer: UniformQuantizer, coefficients: Tensor, price: float, memory: int) -> State:
    """Return a state with one or two samples of level 0, whichever costs less, and frequencies of some columns."""
    columns = matrix.shape[1]
    piece = _TRIED_COLUMNS // _TRIED_PIECES if columns > _TRIED_COLUMNS else columns
    starts = np.arange(0, columns - piece + 1, max(1, (columns - piece) // (_TRIED_PIECES - 1)))
    part = matrix[:, torch.from_numpy((starts[:, None] + np.arange(piece)).reshape(-1))]

    def settled(state: State, rounds: int) -> State:
        for _ in range(rounds):
            state = fit_curve(part, choose_path(part, state, price, memory))
        return state

    def cost(state: State) -> float:
        return _squared_error(part, state) + price * state.bits()

    histogram, positions = quantizer.histogram(matrix[0]), quantizer.positions(part[0])
    best = initial_state(coefficients, histogram, positions)
    if settled(best, 1).bits() <= _FEW_BITS * part.shape[1]:
        both = best, with_two_zeros(coefficients, histogram, positions)
        best = min((settled(each, _TRIED_ROUNDS) for each in both), key=cost)
    return replace(best, contexts=np.zeros(columns, np.uint8), positions=_NO_POSITIONS)


def with_two_zeros(coefficients: Tensor, histogram: Any, positions: Tensor) -> State:
    """Return the initial state with a second sample of level 0; both are half as frequent as the first was."""
    middle = most_level(len(histogram))
    histogram = np.insert(histogram, middle + 1, 0)
    state = initial_state(coefficients, histogram, positions + (positions > middle))
    zeros = state.alphabet.cells_of(state.length)[middle : middle + 2]
    state.frequencies[0, zeros] = state.frequencies[0, zeros].sum() / 2
    return state


def choose_path(matrix: Tensor, state: State, price: float, memory: int, task: Task = SINGLE_THREADED) -> State:
    """Replace the positions by the cheapest path through the trellis, and count the frequencies again."""
    alphabet = state.alphabet
    bits = bits_of(state.frequencies + _UNSEEN, alphabet.sets) + np.repeat(alphabet.extra, alphabet.sets)
    positions = torch.empty(matrix.shape[1], dtype=torch.int32)
    values, samples = matrix[0].float().numpy(), state.samples().float().numpy()
    cells = alphabet.cells_of(state.length)
    prices = (price * bits).astype(np.float32)
    cheapest_path(values, samples, cells, prices, state.contexts, following(memory), positions.numpy(), task)
    counts = np.zeros((len(state.frequencies), alphabet.cells), np.int64)
    count_in_classes(positions.numpy(), cells, state.contexts, counts)
    return replace(state, positions=positions, frequencies=counts.astype(np.float64))


def classify(state: State, row: int) -> State:
    """Divide the columns into classes, with frequencies of their own, by `choose_classes`."""
    positions = state.positions.numpy()
    classes, counts = choose_classes(positions, state.alphabet, state.length, row, Basis.RAMP)
    contexts = classes.of_columns(positions, state.length, row)
    return replace(state, contexts=contexts, frequencies=counts.astype(np.float64))


def fit_curve(matrix: Tensor, state: State) -> State:
    """Fit the ramp to its columns by least squares, unless its samples would no longer rise, or rounding adds error."""
    offset = state.coefficients[0, 0].item() != 0
    better = fit_ramp(matrix[0], state.positions, state.coefficients, state.length, offset)
    fitted = replace(state, coefficients=better)
    _, end, jump = better[0].tolist()
    rising = end > 0 and end / most_level(state.length) + jump > 0
    return fitted if rising and _squared_error(matrix, fitted) <= _squared_error(matrix, state) else state


def _squared_error(matrix: Tensor, state: State) -> float:
    total = 0.0
    for part in pieces(matrix.shape[1]):
        decoded = decode_ramp(state.coefficients, state.positions[part], state.length)
        total += (matrix[:, part] - decoded).square().sum(dtype=torch.float64).item()
    return total
