import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import tenreo
from tenreo.compression import curves
from tenreo.errors import TenreoError

RECIPE = tenreo.Recipe(4, tenreo.Uniform(2.0), refine=3)


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 64, 3, stride=2, padding=1, padding_mode="reflect", groups=2), nn.Conv2d(64, 64, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 64),
    ).eval()  # fmt: skip


X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def test_report_and_weights_agree_with_the_codec():
    net = model()
    dense = net[4].weight.detach().clone()
    report = tenreo.compress_(net, RECIPE)
    assert [x.name for x in report.layers] == ["4", "7"]
    decoded = tenreo.decode(tenreo.encode(dense, 4, 512, refine=3))
    assert torch.equal(net[4].weight, decoded)
    snr = 10 * torch.log10(dense.square().sum() / (dense - decoded).square().sum())
    assert report.layers[0].snr == pytest.approx(snr.item(), abs=1e-3)
    assert report.after.coefficients == 4 * 512 * 2 and report.after.positions == 2048
    assert report.after.bytes == report.before.bytes - 2 * 4096 * 4 + 4096 * 4 + 2 * 1024 * 10 // 8


def test_expand_gives_the_same_classes_and_outputs():
    net = model()
    before = [type(m) for m in net.modules()]
    tenreo.compress_(net, RECIPE)
    y = net(X)
    assert tenreo.expand_(net) is net
    assert [type(m) for m in net.modules()] == before
    assert set(net.state_dict()) == set(model().state_dict())
    assert torch.equal(net(X), y)


def test_only_coefficients_are_trained_and_positions_stay():
    net = model()
    tenreo.compress_(net, RECIPE)
    _, layer, curve = next(curves(net))
    positions = curve.positions.clone()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    before = layer.weight.detach().clone()
    net(X).square().sum().backward()
    optimizer.step()
    assert torch.equal(curve.positions, positions)
    assert not torch.equal(layer.weight, before)
    assert layer.parametrizations.weight.original.shape == (4, 512)


def test_assigning_a_weight_projects_it():
    net = model()
    tenreo.compress_(net, RECIPE)
    weight = net[4].weight.detach().clone()
    net[4].weight = weight  # what the curve can hold comes back as it was
    torch.testing.assert_close(net[4].weight, weight, atol=1e-6, rtol=1e-5)


def test_jobs_never_change_the_result():
    states = []
    for jobs in (1, 2, 5):
        net = model()
        tenreo.compress_(net, RECIPE, jobs=jobs)
        states.append(net.state_dict())
    for other in states[1:]:
        assert all(torch.equal(states[0][k], other[k]) for k in states[0])


def test_refuses_a_second_time_and_other_parametrizations():
    net = model()
    tenreo.compress_(net, RECIPE)
    with pytest.raises(TenreoError, match=r"already parametrized \(CurveWeight\); call tenreo.expand_"):
        tenreo.compress_(net, RECIPE)


def test_a_weight_that_is_not_finite_changes_nothing():
    net = model()
    with torch.no_grad():
        net[7].weight[0, 0] = torch.nan
    with pytest.raises(TenreoError, match="7: the weight holds NaN"):
        tenreo.compress_(net, RECIPE)
    assert not any(parametrize.is_parametrized(m) for m in net.modules())


def test_refuses_no_jobs():
    with pytest.raises(TenreoError, match="jobs: given 0"):
        tenreo.compress_(model(), RECIPE, jobs=0)


def test_a_frozen_weight_stays_frozen_and_double_stays_double():
    net = model().double()
    net[4].weight.requires_grad_(False)
    tenreo.compress_(net, RECIPE)
    original = net[4].parametrizations.weight.original
    assert not original.requires_grad and original.dtype == torch.float64


def test_autocast_decodes_in_float32():
    net = model()
    tenreo.compress_(net, RECIPE)
    with torch.autocast("cpu", torch.bfloat16):
        assert net[4].weight.dtype == torch.float32
        assert net(X).isfinite().all()
