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
_TRIED_ROUNDS = 4  # further rounds change the cost of either by less than the difference between them


@dataclass(frozen=True)
class State:
    """The state of the alternation, in the units of the scaled matrix."""

    positions: Tensor  # (columns,) int32
    coefficients: Tensor  # (1, 3)
    length: int  # samples on the ramp
    frequencies: Any  # (classes, cells) float64, number of columns in each cell of the alphabet, by class
    contexts: Any  # (columns,) uint8, class of each column

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


def quantize_uniformly(weight: Tensor, price: float, memory: int = MEMORY) -> EncodedWeight:
    """Encode a weight on a ramp whose step fits a price: a uniform quantizer.

    >>> encoded = quantize_uniformly(torch.linspace(-1, 1, 1000), price=0.03)
    >>> encoded.length, encoded.coefficients.shape
    (13, torch.Size([1, 3]))

    Args:
        weight: any shape, floating point, finite, on the CPU.
        price: squared error that is worth one bit, above 0.
        memory: memory in bits of the trellis for which the encoding is a start, at least 2. The positions are the
            nearest samples, not yet a path of the trellis.

    Returns:
        An encoding with at most two million samples, whatever the price and the range of the values: a ramp, or a
        single cosine if all values are equal.

    Raises:
        TenreoError: if a coefficient exceeds the range of the weight's dtype.
    """
    row, scale = scaled_matrix(weight, 1)
    values = row[0]
    if values.min() == values.max():  # a single sample, which needs no rounding
        positions = torch.zeros(len(values), dtype=torch.int32)
        return EncodedWeight(weight.detach().reshape(1, -1)[:, :1], positions, 1, tuple(weight.shape))
    median = values.median()
    # Weights that are not spread around zero are spread around their median.
    offset = median if (values - median).square().mean().sqrt() < median.abs() else torch.zeros_like(median)
    width = (values - offset).abs().max().item()
    decoded = torch.finfo(torch.promote_types(weight.dtype, torch.float32))
    least = decoded.tiny * decoded.eps * scale  # smallest number above 0: decoding would round a finer step to 0
    finest = max(finest_step(width, (values - offset).square().mean().sqrt().item()), least)
    step = max(min(step_for(_scaled_price(price, scale)), 4 * width), finest)
    most = torch.finfo(weight.dtype).max * scale
    while step * most_level(length_for(width, step)) > most and step > width / 1024:
        step /= 2  # the ends of the ramp are then nearer to the largest value
    length = length_for(width, step)
    positions = torch.empty(len(values), dtype=torch.int32)
    for part in pieces(len(values)):
        positions[part] = ((values[part] - offset) / step).round().int() + most_level(length)
    functions = [[offset.item() / scale, step * most_level(length) / scale, 0.0]]
    coefficients = torch.tensor(functions, dtype=torch.float64).to(weight.dtype)
    coefficients = check_range(weight, coefficients)
    return EncodedWeight(coefficients, positions, length, tuple(weight.shape), memory, Basis.RAMP)


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
    weight: Tensor, start: EncodedWeight, price: float,
    precision: Precision = Precision.FLOAT32, task: Task = SINGLE_THREADED,
) -> EncodedWeight:  # fmt: skip
    """Choose positions and coefficients of small squared error plus price times bits.

    >>> weight = torch.randn(64, 64)
    >>> encoded = trellis_quantize(weight, quantize_uniformly(weight, 0.01, memory=3), 0.01)

    Args:
        weight: weight with output channels first, on the CPU.
        start: its encoding by `quantize_uniformly`, which sets the memory of the trellis.
        price: squared error that is worth one bit, above 0.
        precision: number format of the coefficients in a file; they are rounded before the last path.
        task: checked for cancellation.

    Returns:
        An encoding with as many samples or one more.

    Raises:
        TenreoError: if a coefficient is too large for the number format or the weight's dtype.
        CancelledError: if the task was cancelled.
    """
    if start.basis is not Basis.RAMP:  # all values are equal
        rounded = check_range(weight, fake_quantize(start.coefficients, precision))
        return replace(start, coefficients=rounded)
    matrix, scale = scaled_matrix(weight, 1)
    price = _scaled_price(price, scale)
    # One alternation is enough: further ones gain less than 0.01 dB.
    first = min(start.memory, _FIRST_MEMORY)
    state = choose_zeros(matrix, initial_state(start, matrix.dtype, scale), price, first)
    state = choose_path(matrix, state, price, first, task)
    state = classify(state, columns_per_output(weight.shape))
    state = fit_curve(matrix, state)
    rounded = check_range(weight, fake_quantize(state.coefficients / scale, precision).to(weight.dtype))
    state = replace(state, coefficients=rounded.to(matrix.dtype) * scale)
    state = choose_path(matrix, state, price, start.memory, task)
    return replace(start, coefficients=rounded, positions=state.positions, length=state.length)


def initial_state(start: EncodedWeight, dtype: torch.dtype, scale: float) -> State:
    """Return the state of an encoding whose columns all belong to one class."""
    positions = start.positions
    coefficients = start.coefficients.to(dtype) * scale
    alphabet = alphabet_of(start.length, MEMORY, Basis.RAMP)
    frequencies = np.bincount(alphabet.cells_of(positions.numpy()), minlength=alphabet.cells)[None].astype(np.float64)
    return State(positions, coefficients, start.length, frequencies, np.zeros(len(positions), np.uint8))


def choose_zeros(matrix: Tensor, state: State, price: float, memory: int) -> State:
    """Return a state with one or two samples of level 0, whichever costs less, and frequencies of some columns."""
    columns = matrix.shape[1]
    piece = _TRIED_COLUMNS // _TRIED_PIECES if columns > _TRIED_COLUMNS else columns
    starts = np.arange(0, columns - piece + 1, max(1, (columns - piece) // (_TRIED_PIECES - 1)))
    tried = (starts[:, None] + np.arange(piece)).reshape(-1)
    part = matrix[:, torch.from_numpy(tried)]

    def settled(initial: State, rounds: int) -> State:
        some = replace(initial, positions=initial.positions[torch.from_numpy(tried)], contexts=initial.contexts[tried])
        for _ in range(rounds):
            some = fit_curve(part, choose_path(part, some, price, memory))
        return some

    def cost(some: State) -> float:
        return _squared_error(part, some) + price * some.bits()

    if settled(state, 1).bits() > _FEW_BITS * part.shape[1]:
        return state
    both = [(each, settled(each, _TRIED_ROUNDS)) for each in (state, with_two_zeros(state))]
    best, some = min(both, key=lambda pair: cost(pair[1]))
    return replace(best, coefficients=some.coefficients, frequencies=some.frequencies)


def with_two_zeros(state: State) -> State:
    """Add a second sample of level 0 to a ramp with one, half as frequent as the first was."""
    middle = most_level(state.length)
    length = state.length + 1
    positions = state.positions + (state.positions > middle)
    alphabet = alphabet_of(length, MEMORY, Basis.RAMP)
    cells = alphabet.cells_of(positions.numpy())
    frequencies = np.bincount(cells, minlength=alphabet.cells).astype(np.float64)
    zeros = alphabet.cells_of(np.array([middle, middle + 1]))
    frequencies[zeros] = frequencies[zeros].sum() / 2
    return State(positions, state.coefficients, length, frequencies[None], state.contexts)


def choose_path(matrix: Tensor, state: State, price: float, memory: int, task: Task = SINGLE_THREADED) -> State:
    """Replace the positions by the cheapest path through the trellis, and count the frequencies again."""
    alphabet = state.alphabet
    bits = bits_of(state.frequencies + _UNSEEN, alphabet.sets) + np.repeat(alphabet.extra, alphabet.sets)
    positions = torch.empty_like(state.positions)
    values, samples = matrix[0].float().numpy(), state.samples().float().numpy()
    cells = alphabet.all_cells(state.length)
    prices = (price * bits).astype(np.float32)
    cheapest_path(values, samples, cells, prices, state.contexts, following(memory), positions.numpy(), task)
    return _count(state, positions, state.contexts, len(prices))


def classify(state: State, row: int) -> State:
    """Divide the columns into classes, with frequencies of their own, by `choose_classes`."""
    positions = state.positions.numpy()
    cells = state.alphabet.cells_of(positions)
    classes = choose_classes(positions, cells, state.alphabet, state.length, row, Basis.RAMP)
    return _count(state, state.positions, classes.of_columns(positions, state.length, row), classes.count)


def fit_curve(matrix: Tensor, state: State) -> State:
    """Fit the ramp to its columns by least squares, unless its samples would no longer rise, or rounding adds error."""
    offset = state.coefficients[0, 0].item() != 0
    better = fit_ramp(matrix[0], state.positions, state.coefficients, state.length, offset)
    fitted = replace(state, coefficients=better)
    _, end, jump = better[0].tolist()
    rising = end > 0 and end / most_level(state.length) + jump > 0
    return fitted if rising and _squared_error(matrix, fitted) <= _squared_error(matrix, state) else state


def _count(state: State, positions: Tensor, contexts: Any, classes: int) -> State:
    counts = state.alphabet.count(state.alphabet.cells_of(positions.numpy()), contexts, classes)
    frequencies = counts.astype(np.float64)
    return replace(state, positions=positions, contexts=contexts, frequencies=frequencies)


def _squared_error(matrix: Tensor, state: State) -> float:
    total = 0.0
    for part in pieces(matrix.shape[1]):
        decoded = decode_ramp(state.coefficients, state.positions[part], state.length)
        total += (matrix[:, part] - decoded).square().sum(dtype=torch.float64).item()
    return total
