"""Corrected statistics, against their formulas."""

import copy

import pytest
import torch
from networks import two_norms
from torch import nn

import tenreo
from tenreo.errors import TenreoError

RECIPE = tenreo.Recipe(4, tenreo.Uniform(20.0), include=("3",), refine=0)


def pair(norm=True):
    dense = two_norms(norm)
    small = copy.deepcopy(dense)
    tenreo.compress_(small, RECIPE)
    return small, dense


def inputs_of(model, layer, x):
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0]


def test_matching_is_the_formula():
    small, dense = pair()
    x = torch.randn(32, 3, 8, 8)
    done = tenreo.match_statistics_(small, dense, [x])
    assert (done.batchnorms, done.biases, done.images) == (2, 0, 32)
    vd, md = torch.var_mean(inputs_of(dense, dense[4], x), dim=(0, 2, 3), correction=0)
    vc, mc = torch.var_mean(inputs_of(small, small[4], x), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(small[4].running_var, dense[4].running_var * vc / vd, rtol=1e-4, atol=1e-5)
    wanted = mc + (dense[4].running_mean - md) * (vc / vd).sqrt()
    torch.testing.assert_close(small[4].running_mean, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small[1].running_var, dense[1].running_var)  # before what is compressed


def test_matching_an_unchanged_model_changes_nothing():
    dense = two_norms()
    same = copy.deepcopy(dense)
    tenreo.match_statistics_(same, dense, size=8)
    for key, value in same.state_dict().items():
        torch.testing.assert_close(value, dense.state_dict()[key])


def test_calibration_is_the_moments_of_all_batches():
    small, _ = pair()
    x = torch.randn(30, 3, 8, 8)
    tenreo.calibrate_(small, x.split(8))
    first = inputs_of(small, small[1], x)
    var, mean = torch.var_mean(first, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(small[1].running_mean, mean)
    torch.testing.assert_close(small[1].running_var, var)


def test_without_batchnorm_the_bias_keeps_the_mean_over_the_deviation():
    small, dense = pair(norm=False)
    x = torch.randn(32, 3, 8, 8)
    done = tenreo.match_statistics_(small, dense, [x])
    assert (done.batchnorms, done.biases) == (0, 1)
    std, mean = torch.std_mean(inputs_of(dense, dense[5], x), dim=(0, 2, 3))
    std_small, mean_small = torch.std_mean(inputs_of(small, small[5], x), dim=(0, 2, 3))
    torch.testing.assert_close(mean_small / std_small, mean / std, rtol=1e-3, atol=1e-4)


def test_nothing_to_correct_is_said():
    dense = nn.Sequential(nn.Linear(64, 64, bias=False))
    small = copy.deepcopy(dense)
    tenreo.compress_(small, tenreo.Recipe(4, tenreo.Uniform(4.0), refine=0))
    before = copy.deepcopy(small.state_dict())
    done = tenreo.match_statistics_(small, dense, [torch.randn(4, 64)])
    assert "nothing to correct" in str(done)
    assert all(torch.equal(before[k], v) for k, v in small.state_dict().items())


def test_refuses_other_models_and_unknown_sizes():
    small, dense = pair()
    with pytest.raises(TenreoError, match="size of the model's input is not known"):
        tenreo.match_statistics_(small, dense)
    with pytest.raises(TenreoError, match="dense model has no BatchNorm2d"):
        tenreo.match_statistics_(small, nn.Sequential(nn.Conv2d(3, 64, 3)), size=8)
    with pytest.raises(TenreoError, match=r"does not take images of shape \[2, 5, 8, 8\]"):
        tenreo.match_statistics_(small, dense, [torch.randn(2, 5, 8, 8)])
