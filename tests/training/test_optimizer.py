"""What is trained, and what is not."""

import copy

import pytest
import torch
from networks import compressed

from tenreo.errors import TenreoError
from tenreo.training.optimizer import frozen, make_optimizer
from tenreo.training.settings import Settings


@pytest.mark.parametrize("what", ["coefficients", "dense"])
def test_frozen_parameters_stay_and_all_others_move(what):
    net = compressed()
    before = copy.deepcopy(dict(net.named_parameters()))
    with frozen(net, what):
        optimizer = make_optimizer(net, Settings(optimizer="adamw"))
        net(torch.randn(4, 3, 12, 12)).square().sum().backward()
        optimizer.step()
    for name, p in net.named_parameters():
        stays = name.endswith("original") == (what == "coefficients")
        assert torch.equal(p, before[name]) == stays, name
    assert all(p.requires_grad for p in net.parameters())


def test_nothing_left_to_train_is_an_error():
    net = compressed()
    for p in net.parameters():
        p.requires_grad_(False)
    with (
        pytest.raises(TenreoError, match="freeze: given 'dense', which leaves nothing"),
        frozen(net, "dense"),
    ):
        pass
