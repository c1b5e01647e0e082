"""The smallest progressive growth that reaches a total."""

import pytest

import tenreo
from tenreo.errors import TenreoError
from tenreo.models.builders import build_model
from tenreo.planning.growth import smallest_growth
from tenreo.planning.plan import resolve
from tenreo.planning.recipe import Strategy


def test_target_parameters_finds_the_smallest_growth():
    model = build_model("torchvision:mobilenet_v2", device="meta")
    plan = resolve(tenreo.Recipe(4, tenreo.TargetParameters(2_000_000)), model)
    assert isinstance(plan.recipe.rate, tenreo.Progressive) and plan.after.parameters <= 2_000_000
    assert plan.strategy is Strategy.GROWTH
    gentler = tenreo.Recipe(4, tenreo.Progressive(plan.recipe.rate.number * 0.998))
    assert resolve(gentler, model).after.parameters > 2_000_000
    assert resolve(plan.recipe, model) == plan  # the plan's recipe reproduces the plan
    with pytest.raises(TenreoError, match=r"given 900,000, .* the least is 1,0"):
        resolve(tenreo.Recipe(4, tenreo.TargetParameters(900_000)), model)


def test_the_smallest_growth_is_rounded_to_the_fitting_side():
    for edge in (0.123456, 0.5, 17.00001, 1e-4):
        growth = smallest_growth(lambda growth, edge=edge: growth >= edge)
        assert edge <= growth <= edge * 1.0011
    assert smallest_growth(lambda growth: False) is None
