import itertools

import numpy as np
import pytest

from tenreo.codec.shape import MOST_MEMORY
from tenreo.codec.trellis import cheapest_path, following, is_path, path_bits, window_subsets


@pytest.mark.parametrize("memory", range(2, MOST_MEMORY + 1))
def test_two_transitions_lead_to_every_state_and_every_state_is_reachable(memory):
    machine = following(memory)
    assert (np.bincount(machine.reshape(-1)) == 2).all()
    assert (machine[:, 0] != machine[:, 1]).all()
    assert machine[::2].max() < 2**memory // 2 <= machine[1::2].min()  # the search relies on this
    reached = {0}
    for _ in range(2 * memory):
        reached |= set(machine[sorted(reached)].reshape(-1).tolist())
    assert len(reached) == 2**memory


# Squared free distance of Ungerboeck's codes for amplitude modulation, in squared distances of adjacent samples.
FREE = {2: 9, 3: 10, 4: 11, 5: 13, 6: 14, 7: 16, 8: 16}


@pytest.mark.parametrize("memory", FREE)
def test_the_free_distance_is_that_of_ungerboecks_codes(memory):
    machine = following(memory)
    states = len(machine)
    squared = np.array([0, 1, 4, 1])  # squared distance of two subsets by the difference of their numbers
    distance = {(0, int(machine[0, 1])): 4}
    best = 16  # parallel transitions: samples of the same subset
    # The code is linear, so it is enough to compare every path with the path of zeros.
    for _ in range(40):
        after = {}
        for (_, state), total in distance.items():
            for half in range(2):
                then = int(machine[state, half])
                reached = total + squared[2 * half + state % 2]
                if then == 0:
                    best = min(best, reached)
                elif reached < after.get((0, then), best):
                    after[0, then] = reached
        distance = {k: min(v, distance.get(k, v)) for k, v in after.items()}
    assert states == 2**memory and best == FREE[memory]


@pytest.mark.parametrize("memory", [2, 3, 4])
def test_no_path_is_cheaper(memory):
    random = np.random.default_rng(memory)
    machine = following(memory)
    values, samples = random.normal(size=5).astype(np.float32), np.linspace(-2, 2, 9, dtype=np.float32)
    prices = random.random((2, 9)).astype(np.float32)
    contexts = np.array([0, 1, 1, 0, 1], np.uint8)
    path = np.empty(5, np.int32)
    cheapest_path(values, samples, np.arange(9, dtype=np.int32), prices, contexts, machine, path)

    def cost(positions):
        state, total = 0, 0.0
        for i, p in enumerate(positions):
            if p % 2 != state % 2:
                return np.inf
            total += (values[i] - samples[p]) ** 2 + prices[contexts[i], p]
            state = machine[state, p // 2 % 2]
        return total

    assert cost(path) == pytest.approx(min(cost(p) for p in itertools.product(range(9), repeat=5)), abs=1e-5)


def test_a_path_of_several_blocks_is_continuous():
    values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    samples, machine = np.linspace(-4, 4, 33, dtype=np.float32), following(3)
    path = np.empty(len(values), np.int32)
    prices, contexts = np.zeros((1, 33), np.float32), np.zeros(len(values), np.uint8)
    cheapest_path(values, samples, np.arange(33, dtype=np.int32), prices, contexts, machine, path)
    state = 0
    for p in path.tolist():
        assert p % 2 == state % 2
        state = machine[state, p // 2 % 2]
    # The samples of each set are 0.5 apart: free choice within a set would have an error of 0.5^2 / 12.
    error = np.mean((values - samples[path]) ** 2)
    assert 10 * np.log10(0.5**2 / 12 / error) > 0.9


@pytest.mark.parametrize("memory", range(2, MOST_MEMORY + 1))
def test_the_bits_of_a_path_give_its_subsets_without_the_state_machine(memory):
    machine, draw = following(memory), np.random.default_rng(memory)
    state, positions = 0, []
    for index in draw.integers(0, 50, 400):
        positions.append(2 * index + state % 2)
        state = machine[state, index % 2]
    bits = path_bits(np.array(positions), memory)
    padded = np.concatenate([np.zeros(memory, np.int64), bits])
    windows = sum(padded[memory - i : len(padded) - i] << i for i in range(memory + 1))
    assert np.array_equal(window_subsets(memory)[windows], np.array(positions) % 4)
    assert is_path(np.array(positions, np.int32), memory)
    positions[300] += 1
    assert path_bits(np.array(positions), memory) is None
    assert not is_path(np.array(positions, np.int32), memory)
