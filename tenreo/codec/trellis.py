"""Trellises: which samples of a curve the next column may take, by those that the columns before it took.

The samples are two sets, the even and the odd ones, and each set is two subsets, so a sample belongs to subset
`position % 4`. A machine of 2^memory states says by the lowest bit of its state which set the next column chooses from;
the half of the set that it chooses moves the machine on. Each set is half as dense as the curve and costs one bit less,
but along the best of all paths the error is 1.0 dB lower than that of free choice in one such set with 4 states, and
1.2 dB with 32, of the 1.53 dB that cubes lose to spheres (G. Ungerboeck, "Channel coding with multilevel/phase
signals", 1982; M. W. Marcellin, T. R. Fischer, "Trellis coded quantization of memoryless and Gauss-Markov sources",
1990).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tenreo.codec.jit import compiled

_BLOCK = 1 << 16  # columns whose paths are kept in memory; at its end, the cheapest one is decided for
_OFTEN = 32  # columns after which the least cost is taken off all
# Ungerboeck's codes for amplitudes, by memory: two parity-check polynomials, bit i for what was i steps ago.
_CODES = (
    (0, 0), (0o3, 0o2), (0o5, 0o2), (0o13, 0o4), (0o23, 0o4), (0o45, 0o10), (0o103, 0o24), (0o235, 0o126),
    (0o515, 0o362),
)  # fmt: skip


def following(memory: int) -> Any:
    """The state that follows each state by the half of its set that is chosen.

    >>> following(2).tolist()
    [[0, 1], [2, 3], [1, 0], [3, 2]]

    Args:
        memory: 0 to `MOST_MEMORY`; 0 is no trellis: one state, one set.

    Returns:
        (2^memory, 2) int64.
    """
    states = np.arange(1 << memory)[:, None]
    by_set, by_half = (code >> 1 for code in _CODES[memory])
    return (states >> 1) ^ (states & 1) * by_set ^ np.arange(2) * by_half


def cheapest_path(values: Any, samples: Any, prices: Any, contexts: Any, machine: Any, result: Any) -> None:
    """Write the positions of least squared error plus price into `result`; the machine starts in state 0.

    Args:
        values: (n,) float32.
        samples: (length,) float32.
        prices: (contexts, length) float32, in units of squared error.
        contexts: (n,) integers.
        machine: (states, 2) of `following`, 4 states at least.
        result: (n,) int32.
    """
    padding = -len(samples) % 4
    samples = np.pad(samples, (0, padding))
    prices = np.pad(prices, ((0, 0), (0, padding)), constant_values=np.inf)
    state = 0
    for first in range(0, len(values), _BLOCK):
        part = slice(first, first + _BLOCK)
        state = _cheapest_block(values[part], samples, prices, contexts[part], machine, state, result[part])


@compiled
def _cheapest_block(values, samples, prices, contexts, machine, start, result):
    """The cheapest path from a state on (Viterbi's algorithm); returns the state that it ends in."""
    states = len(machine)
    # To every state lead two others, one by each half of a set: of the even set to the lower half of the states, of the
    # odd set to the upper half. Loops that do one thing each become vector code.
    from_low = np.empty(states, np.uint32)
    from_high = np.empty(states, np.uint32)
    for state in range(states):
        from_low[machine[state, 0]] = state
        from_high[machine[state, 1]] = state
    cost = np.full(states, np.float32(np.inf), np.float32)
    cost[start] = 0
    low = np.empty(states, np.float32)
    high = np.empty(states, np.float32)
    chosen = np.empty((len(values), 4), np.int32)  # the best sample of each subset
    arrived = np.empty((len(values), states), np.bool_)  # by the high half
    costs = np.empty(len(samples), np.float32)
    for i in range(len(values)):
        least = _best_of_subsets(values[i], samples, prices[contexts[i]], costs, chosen[i])
        for state in range(states):
            low[state] = cost[from_low[state]]
            high[state] = cost[from_high[state]]
        for state in range(states // 2):
            low[state] += least[0]
            high[state] += least[2]
        for state in range(states // 2, states):
            low[state] += least[1]
            high[state] += least[3]
        for state in range(states):
            cost[state] = min(low[state], high[state])
        row = arrived[i]
        for state in range(states):
            row[state] = high[state] < low[state]
        if i % _OFTEN == 0:
            cost -= cost.min()  # small numbers, which float32 adds exactly enough
    end = state = int(np.argmin(cost))
    for i in range(len(values) - 1, -1, -1):
        half = 2 if arrived[i, state] else 0
        state = int(from_high[state] if half else from_low[state])
        result[i] = chosen[i, half | state & 1]
    return end


@compiled
def _best_of_subsets(value, samples, prices, costs, chosen):
    """The least squared error plus price in each subset; writes the sample of it into `chosen`."""
    for position in range(len(samples)):
        gap = value - samples[position]
        costs[position] = gap * gap + prices[position]
    a = b = c = d = np.float32(np.inf)
    for position in range(0, len(samples) - 3, 4):
        if costs[position] < a:
            a = costs[position]
            chosen[0] = position
        if costs[position + 1] < b:
            b = costs[position + 1]
            chosen[1] = position + 1
        if costs[position + 2] < c:
            c = costs[position + 2]
            chosen[2] = position + 2
        if costs[position + 3] < d:
            d = costs[position + 3]
            chosen[3] = position + 3
    return a, b, c, d
