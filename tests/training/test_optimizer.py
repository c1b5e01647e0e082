"""Tests of frozen parameters and parameter groups."""

import copy

import pytest
import torch
from networks import compressed
from torch import nn

import tenreo
from tenreo.errors import TenreoError
from tenreo.training.optimizer import frozen, make_optimizer
from tenreo.training.settings import Settings


@pytest.mark.parametrize("what", ["coefficients", "dense"])
def test_only_frozen_parameters_are_unchanged(what):
    net = compressed()
    before = copy.deepcopy(dict(net.named_parameters()))
    with frozen(net, what):
        optimizer = make_optimizer(net, Settings(optimizer="adamw"))
        net(torch.randn(4, 3, 12, 12)).square().sum().backward()
        optimizer.step()
    for name, p in net.named_parameters():
        unchanged = name.endswith("original") == (what == "coefficients")
        assert torch.equal(p, before[name]) == unchanged, name
    assert all(p.requires_grad for p in net.parameters())


def test_nothing_left_to_train_is_an_error():
    net = compressed()
    for p in net.parameters():
        p.requires_grad_(False)
    with (
        pytest.raises(TenreoError, match="freeze: given 'dense', which leaves no parameter"),
        frozen(net, "dense"),
    ):
        pass


def test_a_step_moves_the_weights_as_far_on_a_short_curve_as_on_a_long_one():
    torch.manual_seed(0)
    long = nn.Sequential(nn.Linear(256, 256, bias=False))
    short = copy.deepcopy(long)
    tenreo.compress_(long, tenreo.Recipe(4, tenreo.Uniform(2.0)))
    tenreo.compress_(short, tenreo.Recipe(None, tenreo.TargetSize(40_000)))
    direction = torch.randn(256, 256)
    moved = []
    for model in (long, short):
        before = model[0].weight.detach().clone()
        optimizer = make_optimizer(model, Settings(lr=0.1, momentum=0, weight_decay=0))
        for group in optimizer.param_groups:
            group["lr"] *= group["lr_scale"]
        (model[0].weight * (direction + before)).sum().backward()
        optimizer.step()
        moved.append(((model[0].weight - before).norm() / (0.1 * (direction + before).norm())).item())
    assert all(0.01 < distance < 1.5 for distance in moved), moved  # without the factor, 65,536 / length times as far


def test_weight_decay_applies_to_decoded_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256, bias=False))
    tenreo.compress_(model, tenreo.Recipe(None, tenreo.TargetSize(40_000)))
    before = model[0].weight.detach().clone()
    optimizer = make_optimizer(model, Settings(lr=0.1, momentum=0, weight_decay=0.5))
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_scale"]
    (0 * model[0].weight).sum().backward()
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), before * (1 - 0.1 * 0.5), rtol=1e-3, atol=1e-5)
