"""Compression: weights, report and counts agree, and a failure leaves the model unchanged."""

from copy import deepcopy
from dataclasses import replace
from itertools import product

import pytest
import torch
from networks import strided_and_grouped
from torch import nn
from torch.nn.utils import parametrize

import tenreo
from tenreo.errors import TenreoError

RECIPE = tenreo.Recipe(4, tenreo.Uniform(2.0), refine=3)


def test_report_and_weights_agree_with_the_codec():
    net = strided_and_grouped()
    dense = net[4].weight.detach().clone()
    report = tenreo.compress_(net, RECIPE)
    assert [x.name for x in report.layers] == ["4", "7"]
    decoded = tenreo.decode(tenreo.encode(dense, 4, 512, refine=3))
    assert torch.equal(net[4].weight, decoded)
    snr = 10 * torch.log10(dense.square().sum() / (dense - decoded).square().sum())
    assert report.layers[0].snr == pytest.approx(snr.item(), abs=1e-3)
    assert report.after.coefficients == 4 * 512 * 2 and report.after.positions == 2048
    packed = 4096 * 4 + 2 * 1024 * 10 // 8
    assert packed - 500 < report.after.weight_bytes < packed  # the positions are entropy-coded
    assert tenreo.compress_(strided_and_grouped(), replace(RECIPE, pack="plain")).after.weight_bytes == packed


def test_jobs_never_change_the_result():
    states = []
    for jobs in (1, 2, 5):
        net = strided_and_grouped()
        tenreo.compress_(net, RECIPE, jobs=jobs)
        states.append(net.state_dict())
    for other in states[1:]:
        assert all(torch.equal(states[0][k], other[k]) for k in states[0])


def test_compressing_a_layer_twice_is_refused():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    with pytest.raises(TenreoError, match=r"parametrized already \(CurveWeight\); tenreo.expand_"):
        tenreo.compress_(net, RECIPE)


def test_a_weight_that_is_not_finite_changes_nothing():
    net = strided_and_grouped()
    with torch.no_grad():
        net[7].weight[0, 0] = torch.nan
    with pytest.raises(TenreoError, match=r"plan: .*: 7\.weight contains NaN"):
        tenreo.compress_(net, RECIPE)
    assert not any(parametrize.is_parametrized(m) for m in net.modules())


def test_a_plan_made_without_values_does_not_excuse_them():
    recipe = replace(RECIPE, dense_dtype="float16")
    with torch.device("meta"):
        plan = tenreo.resolve(recipe, strided_and_grouped())
    for value, match in ((torch.nan, r"1\.running_var contains NaN"), (1e6, "does not fit into float16")):
        net = strided_and_grouped()
        net[1].running_var[0] = value
        with pytest.raises(TenreoError, match=match):
            tenreo.compress_(net, plan)
        assert not any(parametrize.is_parametrized(m) for m in net.modules())


def test_zero_jobs_are_refused():
    with pytest.raises(TenreoError, match="jobs: given 0"):
        tenreo.compress_(strided_and_grouped(), RECIPE, jobs=0)


def test_a_plan_of_another_model_is_refused():
    net = strided_and_grouped()
    plan = tenreo.resolve(RECIPE, net)
    other = torch.nn.Sequential(*strided_and_grouped()[:7], torch.nn.Linear(64, 32))
    with pytest.raises(TenreoError, match=r"7 has a weight of \[64, 64\] in the plan, the model has \[32, 64\]"):
        tenreo.compress_(other, plan)
    with pytest.raises(TenreoError, match=r"7 has a weight of .* the model has no such layer"):
        tenreo.compress_(net[:7], plan)
    tenreo.compress_(net, plan)
    with pytest.raises(TenreoError, match="parametrized already"):
        tenreo.compress_(net, plan)
    with torch.device("meta"):
        empty = strided_and_grouped()
    with pytest.raises(TenreoError, match="4: the weight is on the meta device"):
        tenreo.compress_(empty, plan)


@pytest.mark.parametrize("value", [6e4, 3e38, pytest.param(1e300, marks=pytest.mark.slow)])
def test_a_weight_out_of_range_is_named_and_changes_nothing(value):
    net = strided_and_grouped().to({6e4: torch.float16, 3e38: torch.float32, 1e300: torch.float64}[value])
    with torch.no_grad():
        net[7].weight.fill_(value)
    with pytest.raises(TenreoError, match=r"^7: .*range"):
        tenreo.compress_(net, RECIPE)
    assert not any(parametrize.is_parametrized(m) for m in net.modules())


@pytest.mark.parametrize(("allocate", "rows"), [(False, (1, 3)), (True, (3,))])
def test_the_number_of_torch_threads_changes_nothing(allocate, rows):
    """The number is also restored afterwards; torch splits one or three rows over threads, but not four."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(300, 200), nn.Linear(330, 210))
    states, before = [], torch.get_num_threads()
    try:
        for threads, groups in product((1, 3), rows):
            torch.set_num_threads(threads)
            model = deepcopy(dense)
            recipe = tenreo.Recipe(groups, tenreo.Uniform(3.0), refine=2, allocate=allocate)
            report = tenreo.compress_(model, recipe, jobs=2)
            assert torch.get_num_threads() == threads
            errors = [layer.squared_error for layer in report.layers]
            states.append((groups, errors, [t.tolist() for t in model.state_dict().values()]))
    finally:
        torch.set_num_threads(before)
    for groups in rows:
        same = [state for state in states if state[0] == groups]
        assert same[0] == same[1]
