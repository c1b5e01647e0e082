from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import cosine_matrix

import tenreo
from tenreo.codec.box_tree import sort_for_tree
from tenreo.codec.encode import quantize, refined
from tenreo.codec.nearest import move_to_nearest
from tenreo.codec.refine import fit
from tenreo.codec.shape import Precision
from tenreo.errors import TenreoError

ROUNDING, SQUARED_ROUNDING = 1e-6, 1e-13  # of float32 sums, and of float32 values: about 2^-43


def error(weight, encoded):
    return (weight.double() - tenreo.decode(encoded)).square().sum().item()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(2, 90), st.floats(0, 1), st.booleans())
def test_no_round_increases_the_error(seed, groups, columns, share, tied):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, columns, generator=generator)
    weight = weight.round() if tied else weight
    per_row = max(1, int(share * columns))
    before = tenreo.encode(weight, groups, per_row)
    errors = [error(weight, before)]
    for _ in range(4):
        before = refined(weight, before, 1)
        errors.append(error(weight, before))
        assert before.positions.min() >= 0 and before.positions.max() < before.length
    slack = SQUARED_ROUNDING * weight.square().sum().item()
    assert all(b <= a * (1 + ROUNDING) + slack for a, b in pairwise(errors)), errors
    last = error(weight, refined(weight, tenreo.encode(weight, groups, per_row), 5))
    assert last <= errors[0] * (1 + ROUNDING) + slack


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(20, 90), st.integers(1, 12))
def test_a_round_whose_step_was_too_long_is_repeated(seed, groups, columns, per_row):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, columns, generator=generator)
    wanted = paper = tenreo.encode(weight, groups, per_row)
    for _ in range(4):
        wanted = refined(weight, wanted, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenreo.codec.refine.STEP", 1e6)
        patch.setattr("tenreo.codec.refine.MIN_GAIN", -1.0)
        better = refined(weight, paper, 4)
    assert error(weight, better) <= error(weight, wanted) * (1 + ROUNDING)


@pytest.mark.parametrize("per_row", [5, 40, 64])
def test_fit_is_the_least_squares_solution(per_row):
    torch.manual_seed(0)
    matrix = torch.randn(3, 400, dtype=torch.float64)
    positions = torch.randint(0, 64, (400,), dtype=torch.int32)
    basis = cosine_matrix(64)[:per_row, positions.numpy()].T  # (columns, per_row)
    wanted = np.linalg.lstsq(basis, matrix.numpy().T, rcond=None)[0].T
    solution = fit(matrix, positions, torch.zeros(3, per_row, dtype=torch.float64), 64, iterations=300)
    np.testing.assert_allclose(solution, wanted, atol=1e-6)


@pytest.mark.parametrize("samples_per_tree", [1 << 20, 1000])
def test_trees_agree_with_torch(samples_per_tree, monkeypatch):
    monkeypatch.setattr("tenreo.codec.nearest.SAMPLES_PER_TREE", samples_per_tree)
    # Most chunks of 16 neighboring points are too far from most trees.
    monkeypatch.setattr("tenreo.codec.threads.CHUNK", 16)
    torch.manual_seed(0)
    for g, n, length in ((1, 50, 7), (4, 3000, 2000), (9, 500, 9000)):
        points, samples = torch.randn(n, g), torch.randn(length, g)
        sort_for_tree(points.numpy())
        start = torch.randint(0, length, (n,), dtype=torch.int32)
        wanted = torch.cdist(points.double(), samples.double()).square().min(1)
        by_tree, distances = start.clone(), torch.empty(n)
        move_to_nearest(samples.clone().numpy(), points.numpy(), by_tree.numpy(), distances.numpy())
        torch.testing.assert_close(distances.double(), wanted.values, rtol=1e-4, atol=1e-5)
        gaps = (points - samples[by_tree]).double().square().sum(1)
        torch.testing.assert_close(gaps, wanted.values, rtol=1e-4, atol=1e-5)


def test_reassigning_keeps_a_position_that_is_equally_near():
    encoded = tenreo.EncodedWeight(torch.zeros(2, 1), torch.tensor([4, 0, 2], dtype=torch.int32), 5, (2, 3))
    assert quantize(torch.zeros(2, 3), encoded, Precision.INT8).positions.tolist() == [4, 0, 2]


@pytest.mark.parametrize("weight", [torch.zeros(8, 8), torch.ones(8, 8), torch.eye(8)], ids=["zero", "constant", "few"])
@pytest.mark.parametrize("per_row", [1, 7, 16])
def test_degenerate_layers(weight, per_row):
    paper = tenreo.encode(weight, 4, per_row)
    better = refined(weight, paper, 12)
    assert torch.isfinite(better.coefficients).all()
    assert error(weight, better) <= error(weight, paper) + 1e-9
    if per_row == 16:
        torch.testing.assert_close(tenreo.decode(better), weight, atol=1e-5, rtol=1e-5)


def test_0_rounds_give_the_paper_and_12_rounds_reduce_the_error():
    weight = torch.from_numpy(np.random.default_rng(0).laplace(size=(4, 9000)).astype(np.float32))
    paper, none = tenreo.encode(weight, 4, 700), tenreo.encode(weight, 4, 700, refine=0)
    assert torch.equal(paper.positions, none.positions) and torch.equal(paper.coefficients, none.coefficients)
    better = tenreo.encode(weight, 4, 700, refine=12)
    assert better.coefficients.shape == paper.coefficients.shape
    assert error(weight, better) < error(weight, paper) / 3  # 5 dB
    again = tenreo.encode(weight, 4, 700, refine=12)
    assert torch.equal(better.positions, again.positions)
    assert torch.equal(better.coefficients, again.coefficients)


def test_transforming_long_curves_row_by_row_gives_the_same_error(monkeypatch):
    weight = torch.from_numpy(np.random.default_rng(0).laplace(size=(4, 9000)).astype(np.float32))
    wanted = error(weight, tenreo.encode(weight, 4, 700, refine=3))
    for module in ("cosine", "refine"):
        monkeypatch.setattr(f"tenreo.codec.{module}.LONG", 1)
    assert error(weight, tenreo.encode(weight, 4, 700, refine=3)) == pytest.approx(wanted, rel=0.01)


def test_rejects_negative_rounds():
    with pytest.raises(TenreoError, match="given -1 rounds"):
        tenreo.encode(torch.randn(8, 8), 4, 4, refine=-1)
