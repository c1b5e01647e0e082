import threading
import time

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenreo.codec.chain import chain
from tenreo.errors import TenreoError


def points(kind, g, n, seed):
    random = np.random.default_rng(seed)
    matrix = random.laplace(size=(g, n))
    if kind == "tied":
        matrix = np.round(matrix)
    elif kind == "constant":
        matrix[:] = 0.25
    elif kind == "sparse":
        matrix *= random.random((g, n)) < 0.1
    elif kind == "duplicate":
        matrix = matrix[:, random.integers(0, max(1, n // 5), n)]
    elif kind == "tiny":  # squares underflow, so different points are at distance zero
        matrix *= 1e-24
    elif kind == "huge":  # squares overflow, so all points are at distance infinity
        matrix *= 1e30
    return matrix.astype(np.float32)


KINDS = ["random", "tied", "constant", "sparse", "duplicate", "tiny", "huge"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from([1, 2, 3, 4, 8, 16]), st.integers(1, 400), st.integers(0, 99))
def test_equals_brute_force(kind, g, n, seed):
    matrix = points(kind, g, n, seed)
    np.testing.assert_array_equal(chain(matrix), oracle.chain(matrix))


@pytest.mark.parametrize("kind", KINDS)
def test_equals_brute_force_with_a_deep_tree_that_is_rebuilt(kind):
    matrix = points(kind, 4, 3000, 0)
    np.testing.assert_array_equal(chain(matrix), oracle.chain(matrix))


def test_the_matrix_is_not_changed_and_need_not_be_contiguous():
    matrix = points("random", 8, 300, 1)
    copy = matrix.copy()
    np.testing.assert_array_equal(chain(matrix[::2]), oracle.chain(matrix[::2]))
    np.testing.assert_array_equal(matrix, copy)


def test_releases_the_gil():
    chain(points("random", 4, 10, 0))
    worker = threading.Thread(target=chain, args=(points("random", 8, 20_000, 0),))
    worker.start()
    ticks = 0
    while worker.is_alive():
        time.sleep(0.001)
        ticks += 1
    assert ticks > 5


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.zeros((3, 0)), np.zeros(3)])
def test_rejects_other_shapes(bad):
    with pytest.raises(TenreoError, match=r"needs \(rows, columns\)"):
        chain(bad)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rejects_values_that_are_not_finite(bad):
    with pytest.raises(TenreoError, match="contains NaN or infinity"):
        chain(np.array([[0, bad]], np.float32))
