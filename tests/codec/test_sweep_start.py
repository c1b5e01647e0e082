from itertools import pairwise

import numpy as np
import pytest
import torch
from oracle import cosine_matrix

import tenreo
from tenreo.codec.box_tree import partition
from tenreo.codec.encode import refined
from tenreo.codec.sweep_start import sweeps


def laplace(groups, columns):
    return torch.from_numpy(np.random.default_rng(0).laplace(size=(groups, columns)).astype(np.float32))


@pytest.mark.parametrize("parts", [1, 2, 7, 64, 100, 999, 1000])
def test_parts_have_equal_sizes_and_do_not_overlap(parts):
    points = np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32)
    order = partition(points.copy(), parts, False)
    assert sorted(order) == list(range(1000))
    bounds = np.arange(parts + 1) * 1000 // parts
    boxes = [(points[order[a:b]].min(0), points[order[a:b]].max(0)) for a, b in pairwise(bounds)]
    low, high = (np.stack(corners) for corners in zip(*boxes, strict=True))
    apart = (low[:, None] > high).any(2) | (high[:, None] < low).any(2)
    assert (apart | np.eye(parts, dtype=bool)).all()


@pytest.mark.parametrize("groups", [2, 3, 4])
@pytest.mark.parametrize("length", [2000, 1001])
def test_positions_are_near_the_columns(groups, length):
    matrix, per_row = torch.randn(groups, 2000, generator=torch.Generator().manual_seed(0)), 70
    coefficients, positions = sweeps(matrix, per_row, length)
    assert coefficients.shape == (groups, per_row) and positions.dtype == torch.int32
    assert positions.min() >= 0 and positions.max() < length
    curve = torch.from_numpy(coefficients.double().numpy() @ cosine_matrix(length)[:per_row])
    own = (matrix - curve[:, positions]).square().sum(0).mean()
    nearest = torch.cdist(matrix.T.double(), curve.T).square().min(1).values.mean()
    shuffled = (matrix - curve[:, positions.roll(1)]).square().sum(0).mean()
    assert nearest <= own < 2.2 * nearest + 0.01 and own < shuffled / 4


def test_each_sweep_passes_through_one_cell():
    """If the columns are on parallel lines, each sweep follows one of them."""
    centers = torch.tensor([[-3.0, -1.0, 1.0, 3.0]])
    heights = torch.linspace(-5, 5, 25)
    matrix = torch.stack([heights.repeat(4), centers[0].repeat_interleave(25)])
    coefficients, positions = sweeps(matrix, 5, 100)
    assert torch.equal(coefficients[0], torch.zeros(5).index_fill_(0, torch.tensor([4]), coefficients[0, 4]))
    assert torch.equal(positions // 25, torch.arange(4).repeat_interleave(25)) or torch.equal(
        positions // 25, 3 - torch.arange(4).repeat_interleave(25)
    )


@pytest.mark.parametrize("matrix", [torch.zeros(4, 100), torch.ones(4, 100), torch.eye(4).repeat(1, 25)])
def test_degenerate_columns(matrix):
    coefficients, positions = sweeps(matrix, 10, 100)
    assert torch.isfinite(coefficients).all() and positions.min() >= 0 and positions.max() < 100


@pytest.mark.parametrize(
    "groups, columns, per_row, gain", [(2, 20_000, 400, 2.0), (3, 20_000, 800, 0.8), (4, 20_000, 800, 0.1)]
)
def test_refinement_from_sweeps_has_a_smaller_error(groups, columns, per_row, gain, monkeypatch):
    weight = laplace(groups, columns)
    paper = tenreo.encode(weight, groups, per_row)
    snr = lambda e: 10 * torch.log10(weight.square().sum() / (weight - tenreo.decode(e)).square().sum())  # noqa: E731
    from_sweeps = refined(weight, paper, 12)
    monkeypatch.setattr("tenreo.codec.refine.SWEEP_RATIOS", {})
    assert snr(from_sweeps) > snr(refined(weight, paper, 12)) + gain


def test_sweeps_never_increase_the_error_of_structured_weights():
    """The chain represents columns on a circle exactly, so refinement must not prefer sweeps."""
    angles = torch.linspace(0, 2 * torch.pi, 6000)
    weight = torch.stack([angles.cos(), angles.sin()])[
        :, torch.randperm(6000, generator=torch.Generator().manual_seed(0))
    ]
    paper, better = (tenreo.encode(weight, 2, 40, refine=rounds) for rounds in (0, 12))
    error = lambda e: (weight - tenreo.decode(e)).square().sum()  # noqa: E731
    assert error(better) <= error(paper)


def test_splits_avoid_runs_of_repeated_values():
    points = np.random.default_rng(0).standard_normal((64_000, 8)).astype(np.float32)
    points[np.abs(points) < 1] = 0
    mixed = []
    for repeated in (False, True):
        order = partition(points.copy(), 1000, repeated)
        assert sorted(order) == list(range(64_000))
        zeros = (points[order].reshape(1000, 64, 8) == 0).mean(1)
        mixed.append(((zeros > 0) & (zeros < 1)).mean())
    assert mixed[1] < 0.8 * mixed[0]
