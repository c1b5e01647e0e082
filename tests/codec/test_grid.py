"""Grids of dense tensors, and their stream: rounding, idempotence, size, and damaged streams."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenreo.codec.grid import Grid, decode_levels, encode_levels, grid_of
from tenreo.errors import TenreoError


def rounded(tensor, grid):
    return grid.values(grid.levels(tensor.double())).to(tensor.dtype)


def same_through_stream(*pairs):
    stream = encode_levels(pairs)
    decoded = decode_levels(stream, [(tensor.numel(), grid.logarithmic) for grid, tensor in pairs])
    for (grid, tensor), values in zip(pairs, decoded, strict=True):
        assert torch.equal(values.to(tensor.dtype).reshape(tensor.shape), rounded(tensor, grid))
    return len(stream)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-4, 0.2), st.sampled_from([1, 7, 64, 1000]), st.floats(1e-6, 1e6))
def test_rounding_is_as_fine_as_the_step_and_happens_once(seed, step, size, scale):
    tensor = scale * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    grid = grid_of(tensor, step)
    once = rounded(tensor, grid)
    typical = tensor.abs().kthvalue(math.ceil(0.75 * size)).values.item()
    assert (tensor - once).abs().max() <= step * typical * 1.001  # half of a step that is at most twice as large
    assert grid_of(once, step) == grid and torch.equal(rounded(once, grid), once)
    same_through_stream((grid, tensor))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-4, 0.2), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
@example(seed=476685, step=0.0032536532890830023, dtype=torch.bfloat16)  # the next finer step changes nothing, too
def test_variances_stay_positive_and_zeros_stay_zero(seed, step, dtype):
    generator = torch.Generator().manual_seed(seed)
    variances = (10 * torch.randn(200, generator=generator)).exp().to(dtype)
    variances[::7] = 0
    grid = grid_of(variances, step, logarithmic=True)
    once = rounded(variances, grid)
    assert ((once == 0) == (variances == 0)).all()
    positive = variances > 0
    tolerance = 2 * step + 2.0 ** (-6 if dtype == torch.bfloat16 else -20)
    assert ((once[positive] / variances[positive]).double().log().abs() <= tolerance).all()
    assert grid_of(once, step, logarithmic=True) == grid and torch.equal(rounded(once, grid), once)
    same_through_stream((grid, variances))


def test_integers_and_flags_are_lossless():
    counter, flags = torch.tensor(123_456), torch.rand(50) < 0.5
    index = torch.arange(49 * 49).reshape(49, 49) % 13
    for tensor in (counter, flags, index, torch.zeros(0), torch.tensor([-5, 3], dtype=torch.int8)):
        assert torch.equal(rounded(tensor, grid_of(tensor, 0.1)), tensor)
    same_through_stream(*((grid_of(x, 0.1), x) for x in (counter, flags, index, torch.zeros(0))))
    assert grid_of(torch.tensor([2**40, 1]), 0.1) is None


def test_values_without_a_grid_have_none():
    assert grid_of(torch.tensor([1.0, math.nan]), 0.01) is None
    assert grid_of(torch.tensor([1e-3] * 9 + [1e30]), 0.01) is None
    assert grid_of(torch.zeros(5), 0.01) == Grid(0) and grid_of(torch.tensor([40, 24]), 1.0) == Grid(3)
    assert grid_of(torch.tensor([1e-290] * 99, dtype=torch.float64), 0.01) is not None


def test_the_stream_takes_little_more_than_the_entropy():
    tensor = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    grid = grid_of(tensor, 0.02)
    levels = grid.levels(tensor.double())
    share = levels.unique(return_counts=True)[1].double() / levels.numel()
    entropy = -(share * share.log2()).sum().item() * levels.numel() / 8
    assert entropy < same_through_stream((grid, tensor)) < 1.05 * entropy
    assert same_through_stream((Grid(1), torch.zeros(20_000))) < 250


def test_small_tensors_have_finer_steps():
    single, many = torch.tensor([1.0 / 3]), torch.full((1000,), 1.0 / 3)
    assert (rounded(single, grid_of(single, 0.1)) - 1 / 3).abs() < 0.01
    assert (rounded(many, grid_of(many, 0.1)) - 1 / 3).abs().max() > 0.01


def test_damaged_streams_are_refused():
    stream = encode_levels([(Grid(-4), torch.linspace(-1, 1, 40))])
    for i in range(len(stream)):
        damaged = stream.copy()
        damaged[i] ^= 1 << i % 8
        with pytest.raises(TenreoError, match="dense tensors: the stream has"):
            decode_levels(damaged, [(40, False)])
    for wrong, sizes in ((stream[:3], [(40, False)]), (stream, [(10**12, False)]), (stream, [(39, False)])):
        with pytest.raises(TenreoError, match="dense tensors: the stream has"):
            decode_levels(wrong, sizes)
    longer = np.concatenate([stream, np.zeros(9, np.uint8)])
    with pytest.raises(TenreoError, match="an invalid code"):
        decode_levels(longer, [(40, False)])
    far = encode_levels([(Grid(1001), torch.zeros(1))])
    with pytest.raises(TenreoError, match=r"a step of 2\^1001"):
        decode_levels(far, [(1, False)])
