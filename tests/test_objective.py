"""Losses, averages and freezing against formulas written out."""

import copy

import pytest
import torch
from test_decoding import network

from tenreo.averaging import Average
from tenreo.errors import TenreoError
from tenreo.objective import objective
from tenreo.optimisation import frozen, make_optimizer
from tenreo.settings import Settings


def test_label_smoothing_spreads_a_share_of_the_label():
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    target = 0.8 * torch.eye(5)[labels] + 0.2 / 5
    expected = -(target * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()
    found = objective(logits, labels, None, Settings(label_smoothing=0.2))
    torch.testing.assert_close(found, expected)


def test_distillation_mixes_in_the_softened_divergence():
    logits, teacher, labels = torch.randn(6, 5), torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    p, q = (teacher / 3).softmax(1), (logits / 3).softmax(1)
    divergence = (p * (p / q).log()).sum() / 6
    plain = objective(logits, labels, None, Settings())
    found = objective(logits, labels, teacher, Settings(distill=True, temperature=3, distill_weight=0.25))
    torch.testing.assert_close(found, 0.75 * plain + 0.25 * 9 * divergence)
    alone = objective(logits, labels, logits, Settings(distill=True, distill_weight=1.0))
    assert alone.abs() < 1e-6


def test_average_follows_the_written_out_recursion_and_is_put_back():
    net = network()
    average = Average(net, 0.3)
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


@pytest.mark.parametrize("what", ["coefficients", "others"])
def test_frozen_parameters_stay_and_all_others_move(what):
    net = network()
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
    net = network()
    for p in net.parameters():
        p.requires_grad_(False)
    with (
        pytest.raises(TenreoError, match="freeze: given 'others', which leaves nothing"),
        frozen(net, "others"),
    ):
        pass


@pytest.mark.parametrize(
    "bad",
    [
        {"optimizer": "adam"}, {"augment": "much"}, {"freeze": "all"}, {"label_smoothing": 1.0}, {"ema": -0.1},
        {"clip": -1.0}, {"temperature": 0.0}, {"distill_weight": 1.5}, {"save_every": -1},
    ],
)  # fmt: skip
def test_settings_out_of_range(bad):
    with pytest.raises(TenreoError, match=next(iter(bad))):
        Settings(**bad)
