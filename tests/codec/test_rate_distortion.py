import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tenreo
from tenreo.codec.cosine import idct
from tenreo.codec.encode import _matrix
from tenreo.codec.position_coding import decode_positions, encode_positions
from tenreo.codec.rate_distortion import _assigned, _classified, _fitted, _started, constrained, quantiles
from tenreo.codec.shape import Precision


def laplace(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=shape).astype(np.float32))


def start(weight, groups, price, memory):
    if groups == 1:
        return quantiles(weight, price, memory)
    length = min(128, weight.numel() // groups)
    return tenreo.encode(weight, groups, length, 2, length=length)


def squared_error(weight, encoded):
    return (weight.double() - tenreo.decode(encoded).double()).square().sum().item()


def bits(encoded, memory):
    """Of positions at their entropy, in a trellis at that of each set."""
    positions, total = encoded.positions.numpy(), 0.0
    for part in (positions[positions % 2 == 0], positions[positions % 2 == 1]) if memory else (positions,):
        counts = np.unique(part, return_counts=True)[1]
        total -= (counts * np.log2(counts / max(1, counts.sum()))).sum()
    return total


def cost(matrix, state, price, memory):
    """Squared error plus price times bits at the entropies of each class, and set of a trellis."""
    curve, total = idct(state.coefficients, state.frequencies.shape[1]).double(), 0.0
    positions = state.positions.numpy()
    for number in np.unique(state.contexts):
        members = positions[state.contexts == number]
        for part in (members[members % 2 == 0], members[members % 2 == 1]) if memory else (members,):
            counts = np.unique(part, return_counts=True)[1]
            total -= (counts * np.log2(counts / max(1, counts.sum()))).sum()
    return (matrix.double() - curve[:, state.positions]).square().sum().item() + price * total


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([(1, 0), (1, 2), (1, 5), (2, 0), (4, 0), (8, 0)]), st.floats(-9, 1), st.integers(0, 20),
    st.sampled_from([(8, 24), (16, 4, 3, 3), (40, 1, 5, 5), (1024,), (64, 96)]),
)  # fmt: skip
@example((1, 2), 0.0, 2, (40, 1, 5, 5))  # a fit in float32 raises the error by a third
def test_no_step_raises_error_plus_price_times_bits(kind, exponent, seed, shape):
    (groups, memory), price = kind, 2.0**exponent
    scales = np.exp(np.random.default_rng(seed).normal(size=(shape[0], *(1 for _ in shape[1:]))))
    weight = laplace(*shape, seed=seed) * torch.from_numpy(scales).float()
    begin = start(weight, groups, price, memory)
    matrix, scale = _matrix(weight, groups)
    price *= scale**2
    state = _assigned(matrix, _started(matrix, begin, scale), price, memory)  # the start is no path of a trellis
    state = _classified(state, weight[0].numel(), memory)
    costs = [cost(matrix, state, price, memory)]
    for _ in range(4):
        state = _fitted(matrix, state)
        costs.append(cost(matrix, state, price, memory))
        state = _assigned(matrix, state, price, memory)
        costs.append(cost(matrix, state, price, memory))
    assert all(after <= before * (1 + 1e-5) for before, after in pairwise(costs))


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_the_encoding_costs_no_more_than_its_start(groups):
    weight = laplace(64, 96)
    begin = start(weight, groups, 0.05, 0)
    costs = [squared_error(weight, e) + 0.05 * bits(e, 0) for e in (begin, constrained(weight, begin, 0.05, turns=4))]
    assert costs[1] < costs[0]


@pytest.mark.parametrize(("memory", "most"), [(0, 1.6), (3, 0.6), (7, 0.35)])
@pytest.mark.parametrize("price", [0.2, 0.04, 0.01])
def test_laplace_distributed_weights_are_near_shannons_bound(memory, most, price):
    weight = laplace(128, 1024)
    encoded = constrained(weight, quantiles(weight, price, memory), price, memory=memory)
    stream = encode_positions(encoded.positions, encoded.length, 1024, memory)
    assert torch.equal(decode_positions(stream, 2**17, encoded.length, 1024), encoded.positions)
    rate = (8 * len(stream) + 32 * encoded.coefficients.numel()) / 2**17
    snr = 10 * math.log10(weight.double().square().sum().item() / squared_error(weight, encoded))
    assert 1.8 < rate < 4.5
    assert 6.02 * rate + 0.63 - snr < most


@pytest.mark.parametrize(("groups", "least"), [(2, 1.0), (4, 0.3), (8, 0.1)])
def test_several_rows_gain_over_packed_bits(groups, least):
    weight = laplace(64, 512)
    begin = tenreo.encode(weight, groups, 256, 6, length=256)
    error, packed = squared_error(weight, begin), 8 * 32768 // groups
    encoded = constrained(weight, begin, 2 * math.log(2) / groups * error / 32768, turns=6)
    stream = 8 * len(encode_positions(encoded.positions, 256, 512))
    # In dB at equal bits, if 6.02 dB cost a bit per weight.
    gain = 10 * math.log10(error / squared_error(weight, encoded)) + 6.02 * (packed - stream) / 32768
    assert gain > least


@pytest.mark.parametrize("factor", [1e-20, 1e15])
@pytest.mark.parametrize("memory", [0, 4])
def test_the_size_of_the_numbers_changes_nothing(factor, memory):
    weight = laplace(32, 64)
    plain, scaled = (
        constrained(w, quantiles(w, price, memory), price, memory=memory)
        for w, price in ((weight, 0.05), (weight * factor, 0.05 * factor**2))
    )
    relative = [squared_error(w, e) / w.double().square().sum().item() for w, e in
                ((weight, plain), (weight * factor, scaled))]  # fmt: skip
    assert relative[1] == pytest.approx(relative[0], rel=0.02)


@pytest.mark.parametrize("memory", [0, 2, 7])
@pytest.mark.parametrize(
    "weight",
    [torch.zeros(8, 8), torch.full((8, 8), 0.25), torch.ones(1), torch.tensor([1.0, -1.0]), torch.eye(20) * 1e4],
    ids=["zeros", "constant", "one", "two", "sparse"],
)
def test_unusual_weights(weight, memory):
    for price in (1e-6, 1.0, 1e6):
        encoded = constrained(weight, quantiles(weight, price, memory), price, memory=memory)
        row = max(1, weight.numel() // len(weight))
        stream = encode_positions(encoded.positions, encoded.length, row, memory)
        assert torch.equal(decode_positions(stream, weight.numel(), encoded.length, row), encoded.positions)
        assert torch.isfinite(tenreo.decode(encoded)).all()
        # All at the nearest of two samples would be as good as this, or better.
        assert squared_error(weight, encoded) <= weight.square().sum() + 20 * price * weight.numel()


def test_coefficients_have_the_precision_that_is_asked_for():
    weight = laplace(64, 512)
    encoded = constrained(weight, start(weight, 4, 0.1, 0), 0.1, precision=Precision.INT8)
    again = replace(encoded, coefficients=tenreo.codec.precision.fake_quantize(encoded.coefficients, Precision.INT8))
    assert torch.equal(again.coefficients, encoded.coefficients)
