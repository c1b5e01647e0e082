import math
from concurrent.futures import CancelledError
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tenreo
from tenreo.codec.encode import scaled_matrix
from tenreo.codec.position_coding import decode_positions, encode_positions
from tenreo.codec.precision import fake_quantize
from tenreo.codec.rate_distortion import (
    _squared_error,
    choose_path,
    choose_zeros,
    classify,
    fit_curve,
    trellis_quantize,
    uniform_quantizer,
)
from tenreo.codec.shape import Basis, Precision
from tenreo.codec.threads import Task, ThreadPool


def laplace(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=shape).astype(np.float32))


def quantize(weight, price, memory, precision=Precision.FLOAT32):
    return trellis_quantize(weight, price, memory, precision)


def squared_error(weight, encoded):
    return (weight.double() - tenreo.decode(encoded).double()).square().sum().item()


def cost(matrix, state, price):
    """Squared error plus price times bits, at the entropies of each class and set."""
    index, samples = state.positions.numpy() // 2, state.samples().double()
    far = index - state.length // 4
    far = np.where(far < 0, -1 - far, far)  # distance from the middle of the set
    plain = np.maximum(np.frexp(far)[1] - 5, 0)  # bits of the distance after the first five
    symbols = 2 * ((far >> plain) + 1000 * plain) + (index >= state.length // 4)
    total = float(plain.sum())
    for number in np.unique(state.contexts):
        for parity in (0, 1):
            members = symbols[(state.contexts == number) & (state.positions.numpy() % 2 == parity)]
            counts = np.unique(members, return_counts=True)[1]
            total -= (counts * np.log2(counts / max(1, counts.sum()))).sum()
    return (matrix.double() - samples[state.positions]).square().sum().item() + price * total


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([2, 3, 5, 7]), st.floats(-9, 1), st.integers(0, 20),
    st.sampled_from([(8, 24), (16, 4, 3, 3), (40, 1, 5, 5), (1024,), (64, 96)]),
)  # fmt: skip
@example(2, 0.0, 2, (40, 1, 5, 5))  # a fit in float32 increases the error by a third
def test_no_step_increases_the_squared_error_plus_price_times_bits(memory, exponent, seed, shape):
    price = 2.0**exponent
    scales = np.exp(np.random.default_rng(seed).normal(size=(shape[0], *(1 for _ in shape[1:]))))
    weight = laplace(*shape, seed=seed) * torch.from_numpy(scales).float()
    matrix, scale = scaled_matrix(weight, 1)
    price *= scale**2
    start = uniform_quantizer(matrix, scale, price, weight.dtype)
    state = choose_zeros(matrix, start, start.coefficients.float(), price, memory)
    state = choose_path(matrix, state, price, memory)
    state = classify(state, weight[0].numel())
    costs = [cost(matrix, state, price)]
    assert costs[0] == pytest.approx(_squared_error(matrix, state) + price * state.bits())
    for _ in range(4):
        state = fit_curve(matrix, state)
        costs.append(cost(matrix, state, price))
        state = choose_path(matrix, state, price, memory)
        costs.append(cost(matrix, state, price))
    seldom = price * 0.02 * state.frequencies.size  # symbols that do not occur keep a part of the probability
    assert all(after <= before * (1 + 1e-5) + seldom for before, after in pairwise(costs))


@pytest.mark.parametrize(("memory", "most"), [(3, 0.6), (7, 0.35)])
@pytest.mark.parametrize("price", [0.2, 0.04, 0.01])
def test_laplace_distributed_weights_are_near_shannons_bound(memory, most, price):
    weight = laplace(128, 1024)
    encoded = quantize(weight, price, memory)
    stream = encode_positions(encoded.positions, encoded.length, 1024, memory, Basis.RAMP)
    assert torch.equal(decode_positions(stream, 2**17, encoded.length, 1024, Basis.RAMP), encoded.positions)
    rate = (8 * len(stream) + 32 * encoded.coefficients.numel()) / 2**17
    snr = 10 * math.log10(weight.double().square().sum().item() / squared_error(weight, encoded))
    assert 1.8 < rate < 4.5
    assert 6.02 * rate + 0.63 - snr < most


def uniform_snr(values, bits):
    """SNR in dB of the finest uniform quantizer whose order-0 entropy is at most `bits` per value."""

    def entropy(step):
        counts = np.unique(np.round(values / step), return_counts=True)[1] / len(values)
        return -(counts * np.log2(counts)).sum()

    steps = np.abs(values).max() * 2.0 ** np.arange(1, -24, -0.02)
    low, high = 0, len(steps)  # steps[low] has few bits
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if entropy(steps[middle]) <= bits else (low, middle)
    error = values - np.round(values / steps[low]) * steps[low]
    return 10 * np.log10((values**2).sum() / (error**2).sum())


RANDOM = np.random.default_rng(0)
DISTRIBUTIONS = {
    "outliers": RANDOM.normal(size=2**14) * np.where(np.arange(2**14) % 819 == 0, 50, 1),
    "one huge": RANDOM.normal(size=2**14) + 1e5 * (np.arange(2**14) == 7),
    "heavy tails": RANDOM.standard_t(1.5, size=2**14),
    "sparse": RANDOM.normal(size=2**14) * (RANDOM.random(2**14) < 0.1),
    "uniform": RANDOM.random(2**14) - 0.5,
    "positive": 3 + 0.1 * RANDOM.normal(size=2**14),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_no_distribution_is_worse_than_with_a_uniform_quantizer_and_more_bits_are_better(name):
    values = DISTRIBUTIONS[name].astype(np.float32).astype(float)
    weight, before = torch.from_numpy(values.astype(np.float32)).reshape(64, 256), (0.0, -math.inf)
    for rate in (0.3, 0.7) if name == "sparse" else (0.7, 2, 4, 6):  # of the uniform quantizer at the same price
        noise = (values**2).mean() * 10 ** (-uniform_snr(values, rate) / 10)
        encoded = quantize(weight, 1.4 * noise, 7)
        stream = encode_positions(encoded.positions, encoded.length, 256, 7, Basis.RAMP)
        assert torch.equal(decode_positions(stream, 2**14, encoded.length, 256, Basis.RAMP), encoded.positions)
        bits = (8 * len(stream) + 32 * 3) / 2**14
        snr = 10 * math.log10((values**2).sum() / squared_error(weight, encoded))
        assert snr > uniform_snr(values, bits) - 0.3
        assert bits > before[0] and snr > before[1]
        before = bits, snr


@pytest.mark.parametrize("factor", [1e-20, 1e15])
def test_the_relative_error_does_not_depend_on_the_scale_of_the_weight(factor):
    weight = laplace(32, 64)
    plain, scaled = (quantize(w, price, 4) for w, price in ((weight, 0.05), (weight * factor, 0.05 * factor**2)))
    relative = [squared_error(w, e) / w.double().square().sum().item() for w, e in
                ((weight, plain), (weight * factor, scaled))]  # fmt: skip
    assert relative[1] == pytest.approx(relative[0], rel=0.02)


@pytest.mark.parametrize("memory", [2, 7])
@pytest.mark.parametrize(
    "weight",
    [torch.zeros(8, 8), torch.full((8, 8), 0.25), torch.ones(1), torch.tensor([1.0, -1.0]), torch.eye(20) * 1e4],
    ids=["zeros", "constant", "one", "two", "sparse"],
)
def test_unusual_weights(weight, memory):
    for price in (1e-6, 1.0, 1e6):
        encoded = quantize(weight, price, memory)
        row = max(1, weight.numel() // len(weight))
        stream = encode_positions(encoded.positions, encoded.length, row, memory, Basis.RAMP)
        assert torch.equal(decode_positions(stream, weight.numel(), encoded.length, row, Basis.RAMP), encoded.positions)
        assert torch.isfinite(tenreo.decode(encoded)).all()
        # Using only the nearest of two samples for every column would cost at most this.
        assert squared_error(weight, encoded) <= weight.square().sum() + 20 * price * weight.numel()


def test_coefficients_have_the_requested_precision():
    encoded = quantize(laplace(64, 512), 0.1, 3, Precision.INT8)
    again = replace(encoded, coefficients=fake_quantize(encoded.coefficients, Precision.INT8))
    assert torch.equal(again.coefficients, encoded.coefficients)


def test_a_stopped_pool_cancels_the_search_for_a_path():
    weight, pool = laplace(8, 8), ThreadPool(1)
    pool.stop()
    with pytest.raises(CancelledError):
        trellis_quantize(weight, 0.1, task=Task(pool))
