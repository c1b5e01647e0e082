"""Bisection against boundaries that are known."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenreo.planning.bisection import bisect


@given(st.floats(-100, 100), st.booleans())
def test_the_boundary_is_found_from_either_side(boundary, rising):
    if rising:
        value = bisect(lambda x: x >= boundary, -101.0, 101.0)
        assert boundary <= value <= boundary + 1e-13
    else:
        value = bisect(lambda x: x <= boundary, 101.0, -101.0)
        assert boundary - 1e-13 <= value <= boundary


@given(st.floats(0.01, 50), st.floats(0.0, 100.0))
def test_the_search_stops_at_the_tolerance(tolerance, boundary):
    calls = []
    value = bisect(lambda x: calls.append(x) or x >= boundary, 0.0, 100.0, tolerance=tolerance)
    assert boundary <= value <= boundary + tolerance or value == 100.0
    assert len(calls) == math.ceil(math.log2(100 / tolerance))


@pytest.mark.parametrize(("holds", "expected"), [(lambda x: False, 1.0), (lambda x: True, 2.0**-50)])
def test_conditions_without_a_boundary_give_the_ends(holds, expected):
    assert bisect(holds, 0.0, 1.0, steps=50) == expected
