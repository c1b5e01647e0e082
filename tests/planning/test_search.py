"""Targets: the growth for a total, and the curves that serve best in a size."""

import itertools

import numpy as np
import pytest
from networks import convolutional

import tenreo
from tenreo.codec.shape import CurveShape, Precision
from tenreo.errors import TenreoError
from tenreo.models.architectures import build
from tenreo.planning.plan import resolve
from tenreo.planning.rates import rate_number
from tenreo.planning.search import Candidate, candidates, choose, smallest_growth


def test_target_parameters_finds_the_smallest_growth():
    model = build("mobilenet_v2", device="meta")
    plan = resolve(tenreo.Recipe(4, tenreo.TargetParameters(2_000_000)), model)
    assert isinstance(plan.recipe.rate, tenreo.Progressive) and plan.after.parameters <= 2_000_000
    gentler = tenreo.Recipe(4, tenreo.Progressive(rate_number(plan.recipe.rate) * 0.998))
    assert resolve(gentler, model).after.parameters > 2_000_000
    assert resolve(plan.recipe, model) == plan  # what is said can be typed
    with pytest.raises(TenreoError, match=r"given 900,000, .* the least is 1,0"):
        resolve(tenreo.Recipe(4, tenreo.TargetParameters(900_000)), model)


def test_smallest_growth_is_rounded_to_the_fitting_side():
    for edge in (0.123456, 0.5, 17.00001, 1e-4):
        found = smallest_growth(lambda growth, edge=edge: growth >= edge)
        assert edge <= found <= edge * 1.0011
    assert smallest_growth(lambda growth: False) is None


def test_a_size_out_of_reach_says_the_least():
    least = r"target_size: given 5,000, but the least is [\d,]+ bytes; give more, choose dense_dtype float16"
    with pytest.raises(TenreoError, match=least):
        resolve(tenreo.Recipe(None, tenreo.TargetSize(5000)), convolutional())


def test_choosing_is_as_good_as_trying_everything():
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


def test_candidates_keep_to_what_the_recipe_says():
    recipe = tenreo.Recipe(4, tenreo.TargetSize(10**6), position_bits=9, precision="int8")
    assert {(c.curve.groups, c.curve.length, c.curve.precision) for c in candidates(8192, recipe)} == {(4, 512, "int8")}
    assert candidates(8191, tenreo.Recipe(None, tenreo.TargetSize(10**6))) == []
