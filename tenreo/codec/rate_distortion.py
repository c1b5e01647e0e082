"""Encoding that knows the price of a bit: positions that take few bits and are still near.

A stream of positions (`tenreo.codec.position_coding`) is the shorter, the less even their frequencies are. So instead
of the nearest sample, every column takes the one of least |column - sample|^2 + price * bits(sample); then the curve is
fitted to its columns, and the bits are counted anew from the frequencies (P. A. Chou, T. Lookabaugh, R. M. Gray,
"Entropy-constrained vector quantization", 1989). No step raises

    cost = |S - curve[:, positions]|^2 + price * sum of log2(1 / frequency of the position in its class)

Samples that no column takes have no frequency and vanish. For several rows the sample is found in a tree, as in
refinement, with sqrt(price * bits) as one more coordinate: |x - s|^2 + price * b = |(x, 0) - (s, sqrt(price * b))|^2.
For one row, where the curve is a table of values and costs next to nothing, positions are the cheapest path through a
trellis (`tenreo.codec.trellis`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tenreo.codec.cosine import dct, idct
from tenreo.codec.encode import EncodedWeight, _matrix
from tenreo.codec.nearest import nearest
from tenreo.codec.position_coding import Classes, bits_of, choose_classes, columns_per_output
from tenreo.codec.precision import fake_quantize
from tenreo.codec.refine import fit
from tenreo.codec.shape import MOST_VALUES, Precision
from tenreo.codec.trellis import cheapest_path, following

MEMORY = 7  # 128 states: 0.25 dB from Shannon's bound, 8 states 0.45, 0.25 microseconds a weight instead of 0.1
TURNS = 1  # more gain less than 0.01 dB
_FIRST_MEMORY = 3  # of the first turn, whose frequencies are nearly those of a longer one
COEFFICIENTS = 8  # of a curve of one row: as good as all of them
_PRICE_OF_STEP = 0.12  # price / step^2 where an entropy-coded uniform quantizer is best: about ln(2) / 6
_TRELLIS_STEP = 0.55  # a trellis has samples so much denser, each set of them sparser
_UNSEEN = 0.01  # columns of a sample that none is near to, before the first turn


@dataclass(frozen=True)
class _State:
    """Where the alternation is, in the units of the matrix.

    Attributes:
        positions: (columns,) int32.
        coefficients: (g, coefficients_per_row).
        frequencies: (classes, length) float64, columns at each sample, by class.
        contexts: (columns,) uint8, the class of each column.
    """

    positions: Tensor
    coefficients: Tensor
    frequencies: Any
    contexts: Any


def quantiles(weight: Tensor, price: float, memory: int = MEMORY) -> EncodedWeight:
    """A start for one row: samples of about equal steps that fit the price, and the nearest of them.

    The curve is nearly a ramp, and a few coefficients say how it differs from one.

    >>> encoded = quantiles(torch.linspace(-1, 1, 1000), price=0.03)
    >>> encoded.length, encoded.coefficients.shape
    (15, torch.Size([1, 8]))

    Args:
        weight: any shape, floating point, finite.
        price: squared error that is worth one bit, above 0.
        memory: of the trellis, 0 or at least 2; its samples are denser, and the positions are not yet a path of it.
    """
    row, scale = _matrix(weight.cpu(), 1)
    low, high = row.min().item(), row.max().item()
    step = math.sqrt(price / _PRICE_OF_STEP) * scale * (_TRELLIS_STEP if memory else 1)
    step = max(step, (high - low) / MOST_VALUES)
    margin = 2 if memory else 0
    first, last = math.floor(low / step) - margin, math.ceil(high / step) + margin
    first -= first % 4  # so that 0 lies in the same subset of every weight
    curve = (torch.arange(first, last + 1, dtype=row.dtype) * step)[None]
    positions = (row[0] / step).round().int() - first
    coefficients = fit(row.double(), positions, dct(curve)[:, :COEFFICIENTS].double(), curve.shape[1])
    return EncodedWeight(
        (coefficients / scale).to(weight.dtype), positions, curve.shape[1], tuple(weight.shape), memory
    )


def constrained(
    weight: Tensor, start: EncodedWeight, price: float, *, memory: int = 0, turns: int = TURNS,
    precision: Precision = Precision.FLOAT32,
) -> EncodedWeight:  # fmt: skip
    """Lower squared error plus price times bits of an encoded weight, by turns.

    >>> weight = torch.randn(64, 64)
    >>> encoded = constrained(weight, quantiles(weight, 0.01, memory=3), 0.01, memory=3)

    Args:
        weight: what was encoded, with output channels first.
        start: its encoding.
        price: squared error that is worth one bit, above 0.
        memory: of the trellis that the positions become a path of, for one row; 0 leaves them free.
        turns: of assigning, fitting and counting.
        precision: of the coefficients; the last assignment is to the rounded curve.

    Returns:
        The encoding, of the same curve shape; on the weight's device.
    """
    matrix, scale = _matrix(weight.cpu(), len(start.coefficients))
    price, row = price * scale**2, columns_per_output(weight.shape)
    state = _started(matrix, start, scale)
    for turn in range(turns):
        state = _assigned(matrix, state, price, memory if turn else min(memory, _FIRST_MEMORY))
        if turn == 0:
            state = _classified(state, row, memory)
        state = _fitted(matrix, state)
    rounded = fake_quantize(state.coefficients / scale, precision).to(weight.dtype)
    state = _assigned(matrix, replace(state, coefficients=rounded.to(matrix.dtype) * scale), price, memory)
    return replace(start, coefficients=rounded.to(weight.device), positions=state.positions.to(weight.device))


def _started(matrix: Tensor, start: EncodedWeight, scale: float) -> _State:
    positions = start.positions.cpu()
    frequencies = np.bincount(positions, minlength=start.length)[None] + _UNSEEN
    contexts = np.zeros(len(positions), np.uint8)
    return _State(positions, start.coefficients.cpu().to(matrix.dtype) * scale, frequencies, contexts)


def _curve(state: _State) -> Tensor:
    """(g, length)."""
    return idct(state.coefficients, state.frequencies.shape[1])


def _counted(state: _State, positions: Tensor, contexts: Any, classes: int) -> _State:
    length = state.frequencies.shape[1]
    cells = np.bincount(contexts.astype(np.int64) * length + positions.numpy(), minlength=classes * length)
    return replace(state, positions=positions, contexts=contexts, frequencies=cells.reshape(classes, length))


def _classified(state: _State, row: int, memory: int) -> _State:
    length = state.frequencies.shape[1]
    classes: Classes = choose_classes(state.positions.numpy(), length, row, memory)
    return _counted(state, state.positions, classes.of_columns(len(state.positions), row), classes.count)


def _assigned(matrix: Tensor, state: _State, price: float, memory: int) -> _State:
    """Every column at the sample of least cost, or all of them at those of the cheapest path."""
    prices = (price * bits_of(state.frequencies.astype(np.float64), memory)).astype(np.float32)
    curve = _curve(state)
    if memory:
        positions = torch.empty_like(state.positions)
        values, samples = matrix[0].float().numpy(), curve[0].float().numpy()
        cheapest_path(values, samples, prices, state.contexts, following(memory), positions.numpy())
    else:
        positions = _cheapest(matrix, curve, prices, state)
    return _counted(state, positions, state.contexts, len(prices))


def _cheapest(matrix: Tensor, curve: Tensor, prices: Any, state: _State) -> Tensor:
    """(columns,) the sample of least cost by the prices (classes, length) of each column's class."""
    points = np.pad(matrix.float().T.numpy(), ((0, 0), (0, 1)))
    samples = curve.float().T.numpy()
    positions = np.empty(len(points), np.int32)
    for number, price in enumerate(prices):
        members = np.flatnonzero(state.contexts == number)
        used = np.flatnonzero(np.isfinite(price)).astype(np.int32)
        found = np.searchsorted(used, state.positions.numpy()[members]).clip(max=len(used) - 1).astype(np.int32)
        priced = np.column_stack([samples[used], np.sqrt(price[used])])
        positions[members] = used[nearest(priced, points[members], found)]
    return torch.from_numpy(positions)


def _fitted(matrix: Tensor, state: _State) -> _State:
    """The curve of least squared error for the positions, unless rounding makes it worse than the present one.

    In float64: where few samples have columns, the system is nearly singular, and float32 can go far astray.
    """
    length = state.frequencies.shape[1]
    better = fit(matrix.double(), state.positions, state.coefficients.double(), length).to(matrix.dtype)
    fitted = replace(state, coefficients=better)
    return fitted if _squared_error(matrix, fitted) <= _squared_error(matrix, state) else state


def _squared_error(matrix: Tensor, state: _State) -> float:
    return (matrix - _curve(state)[:, state.positions]).square().sum(dtype=torch.float64).item()
