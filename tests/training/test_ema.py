"""Tests of the moving average against an explicit recursion."""

import copy

import torch
from networks import compressed
from torch import nn

from tenreo.training.ema import ExponentialMovingAverage


def test_average_follows_the_recursion_and_weights_are_restored():
    net = compressed()
    average = ExponentialMovingAverage(net, 0.3)
    expected = {n: p.detach().clone() for n, p in net.named_parameters()}
    for step in range(1, 5):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        average.update(net)
        decay = min(0.3, (1 + step) / (10 + step))
        for n, p in net.named_parameters():
            expected[n] = decay * expected[n] + (1 - decay) * p.detach()
    before = copy.deepcopy(net.state_dict())
    with average.applied(net):
        for n, p in net.named_parameters():
            torch.testing.assert_close(p.detach(), expected[n])
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_half_precision_is_averaged_in_float32():
    """0.001 of a difference is less than bfloat16 resolves, so the average would never move."""
    net = nn.Linear(2, 2).bfloat16()
    nn.init.ones_(net.weight)
    average = ExponentialMovingAverage(net, 0.999)
    average.steps = 10**6
    nn.init.constant_(net.weight, 2.0)
    for _ in range(1000):
        average.update(net)
    with average.applied(net):
        torch.testing.assert_close(net.weight.float(), torch.full((2, 2), 2 - 0.999**1000), rtol=2**-8, atol=0)
        assert net.weight.dtype == torch.bfloat16
