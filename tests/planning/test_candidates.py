"""The curves with the smallest predicted error in a file of a given size."""

import itertools

import numpy as np
import pytest
from networks import convolutional

import tenreo
from tenreo.codec.shape import CurveShape, Precision
from tenreo.errors import TenreoError
from tenreo.planning.candidates import Candidate, candidates, choose
from tenreo.planning.plan import resolve


def test_the_error_for_an_unreachable_size_names_the_smallest_size():
    least = r"target_size: given 5,000, but the least is [\d,]+ bytes; give more, choose dense_dtype float16"
    with pytest.raises(TenreoError, match=least):
        resolve(tenreo.Recipe(None, tenreo.TargetSize(5000), dense_dtype="float32"), convolutional())


def test_the_choice_is_nearly_as_good_as_that_of_an_exhaustive_search():
    random, curve = np.random.default_rng(0), CurveShape(4, 1, 1, Precision.INT6)
    for _ in range(30):
        offered = [
            [Candidate(curve, int(b), float(a * np.exp(-b / 20))) for b in random.integers(1, 60, 5)]
            for a in random.random(4)
        ]  # fmt: skip
        weights = random.uniform(0.5, 2, 4)
        room = int(sum(min(o.bytes for o in each) for each in offered) * random.uniform(1, 4))
        cost = lambda chosen, w=weights: sum(w * [o.error for o in chosen])  # noqa: E731
        chosen = choose(offered, weights, room)
        assert sum(o.bytes for o in chosen) <= room
        best = min((c for c in itertools.product(*offered) if sum(o.bytes for o in c) <= room), key=cost)
        assert cost(chosen) <= 1.3 * cost(best)


def test_candidates_respect_the_settings_of_the_recipe():
    recipe = tenreo.Recipe(4, tenreo.TargetSize(10**6), position_bits=9, precision="int8")
    assert {(c.curve.groups, c.curve.length, c.curve.precision) for c in candidates(8192, recipe)} == {(4, 512, "int8")}
    assert candidates(8191, tenreo.Recipe(None, tenreo.TargetSize(10**6))) == []
