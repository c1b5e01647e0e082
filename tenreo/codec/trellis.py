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

from tenreo.codec.compiled import compiled

_BLOCK = 1 << 16  # columns whose paths are kept in memory; at its end, the cheapest one is decided for
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
    state = 0
    for first in range(0, len(values), _BLOCK):
        part = slice(first, first + _BLOCK)
        state = _cheapest_block(values[part], samples, prices, contexts[part], machine, state, result[part])


@compiled
def _cheapest_block(values, samples, prices, contexts, machine, start, result):
    """The cheapest path from a state on (Viterbi's algorithm); returns the state that it ends in."""
    states = len(machine)
    previous = np.empty((states, 2), np.int64)  # 2 * state + half, of the two that lead to a state
    filled = np.zeros(states, np.int64)
    for state in range(states):
        for half in range(2):
            after = machine[state, half]
            previous[after, filled[after]] = 2 * state + half
            filled[after] += 1
    cost = np.full(states, np.float32(np.inf), np.float32)
    cost[start] = 0
    after_cost = np.empty(states, np.float32)
    chosen = np.empty((len(values), 4), np.int32)  # the best sample of each subset
    arrived = np.empty((len(values), states), np.uint8)  # by which of the two
    least = np.empty(4, np.float32)
    for i in range(len(values)):
        _best_of_subsets(values[i], samples, prices[contexts[i]], least, chosen[i])
        for state in range(states):
            a, b = previous[state, 0], previous[state, 1]
            first = cost[a >> 1] + least[(a & 1) << 1 | (a >> 1) & 1]  # subset 2 * half + set
            second = cost[b >> 1] + least[(b & 1) << 1 | (b >> 1) & 1]
            arrived[i, state] = second < first
            after_cost[state] = min(first, second)
        lowest = after_cost.min()
        for state in range(states):
            cost[state] = after_cost[state] - lowest  # small numbers, which float32 adds exactly enough
    end = state = int(np.argmin(cost))
    for i in range(len(values) - 1, -1, -1):
        step = previous[state, arrived[i, state]]
        state = step >> 1
        result[i] = chosen[i, (step & 1) << 1 | state & 1]
    return end


@compiled
def _best_of_subsets(value, samples, prices, least, chosen):
    """The sample of each subset with the least squared error plus price."""
    for subset in range(4):
        least[subset] = np.float32(np.inf)
        for position in range(subset, len(samples), 4):
            gap = value - samples[position]
            cost = gap * gap + prices[position]
            if cost < least[subset]:
                least[subset] = cost
                chosen[subset] = position
