"""Ramps against a literal matrix of their three functions."""

import numpy as np
import pytest
import torch

from tenreo.codec.encode import EncodedWeight, decode, project
from tenreo.codec.ramp import decode_ramp, fit_ramp, most_level
from tenreo.codec.shape import Basis, CurveShape


def functions(length):
    """The three functions of a ramp, (3, length)."""
    zeros = [0] if length % 2 else [0, 0]
    most = (length - len(zeros)) // 2
    level = np.array([*range(-most, 0), *zeros, *range(1, most + 1)], float)
    return np.stack([np.ones(length), level / most, np.sign(level)])


@pytest.mark.parametrize("length", [3, 4, 5, 6, 101, 1000])
def test_samples_are_sums_of_three_functions(length):
    coefficients = torch.tensor([[0.3, 2.0, -0.1]], dtype=torch.float64)
    samples = decode_ramp(coefficients, torch.arange(length), length)
    np.testing.assert_allclose(samples.numpy(), coefficients.numpy() @ functions(length), atol=1e-12)
    assert most_level(length) == (length - 1) // 2


def test_levels_are_exact_on_the_longest_ramp():
    length = 2**24
    most = most_level(length)
    ends = torch.tensor([0, 1, length // 2 - 1, length // 2, length - 2, length - 1])
    step = torch.tensor([[0.0, float(most), 0.0]])
    values = decode_ramp(step, ends, length)[0].double()
    wanted = torch.tensor([-most, 1 - most, 0, 0, most - 1, most], dtype=torch.float64)
    torch.testing.assert_close(values, wanted, rtol=1e-7, atol=0)


@pytest.mark.parametrize("length", [9, 10, 200])
def test_the_fit_is_the_least_squares_solution(length):
    random = np.random.default_rng(length)
    positions = torch.from_numpy(random.integers(0, length, 50).astype(np.int32))
    row = torch.from_numpy(random.normal(size=50))
    start = torch.zeros(1, 3, dtype=torch.float64)
    matrix = functions(length)[:, positions.numpy()].T
    wanted = np.linalg.lstsq(matrix, row.numpy(), rcond=None)[0]
    np.testing.assert_allclose(fit_ramp(row, positions, start, length, offset=True)[0], wanted, atol=1e-8)
    wanted = np.linalg.lstsq(matrix[:, 1:], row.numpy(), rcond=None)[0]
    np.testing.assert_allclose(fit_ramp(row, positions, start, length, offset=False)[0], [0, *wanted], atol=1e-8)


def test_a_fit_to_equal_positions_keeps_what_they_do_not_determine():
    start = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    positions, row = torch.full((5,), 4, dtype=torch.int32), torch.full((5,), 0.25, dtype=torch.float64)
    torch.testing.assert_close(fit_ramp(row, positions, start, 9, offset=False), start)  # level 0: nothing to fit


def test_decoding_is_differentiable_and_projection_inverts_it():
    positions = torch.tensor([0, 3, 4, 4, 5, 9], dtype=torch.int32)
    coefficients = torch.tensor([[0.5, 2.0, 0.25]], dtype=torch.float64, requires_grad=True)

    def weight(c):
        return decode(EncodedWeight(c, positions, 10, (2, 3), 0, Basis.RAMP))

    assert torch.autograd.gradcheck(weight, coefficients)
    shape = CurveShape(1, 10, 3, basis=Basis.RAMP)
    torch.testing.assert_close(project(weight(coefficients).detach(), positions, shape), coefficients.detach())
