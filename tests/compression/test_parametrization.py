"""Compressed layers: what decodes, what is trained, and plain layers again."""

import torch
from networks import strided_and_grouped

import tenreo
from tenreo.compression.parametrization import Curve, curves, quantized_coefficients

RECIPE = tenreo.Recipe(4, tenreo.Uniform(2.0), refine=3)
X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def test_expand_gives_the_same_classes_and_outputs():
    net = strided_and_grouped()
    before = [type(m) for m in net.modules()]
    tenreo.compress_(net, RECIPE)
    y = net(X)
    assert tenreo.expand_(net) is net
    assert [type(m) for m in net.modules()] == before
    assert set(net.state_dict()) == set(strided_and_grouped().state_dict())
    assert torch.equal(net(X), y)


def test_only_coefficients_are_trained_and_positions_stay():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    curve = next(curves(net))
    positions = curve.weight.positions.clone()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    before = curve.layer.weight.detach().clone()
    net(X).square().sum().backward()
    optimizer.step()
    assert torch.equal(curve.weight.positions, positions)
    assert not torch.equal(curve.layer.weight, before)
    assert curve.coefficients.shape == (4, 512)


def test_assigning_a_weight_projects_it():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    weight = net[4].weight.detach().clone()
    net[4].weight = weight  # what the curve can hold comes back as it was
    torch.testing.assert_close(net[4].weight, weight, atol=1e-6, rtol=1e-5)


def test_a_frozen_weight_stays_frozen_and_double_stays_double():
    net = strided_and_grouped().double()
    net[4].weight.requires_grad_(False)
    tenreo.compress_(net, RECIPE)
    original = net[4].parametrizations.weight.original
    assert not original.requires_grad and original.dtype == torch.float64


def test_autocast_decodes_in_float32():
    net = strided_and_grouped()
    tenreo.compress_(net, RECIPE)
    with torch.autocast("cpu", torch.bfloat16):
        assert net[4].weight.dtype == torch.float32
        assert net(X).isfinite().all()


def test_curves_are_the_compressed_layers():
    net = strided_and_grouped()
    assert list(curves(net)) == []
    report = tenreo.compress_(net, RECIPE)
    found = list(curves(net))
    assert all(isinstance(curve, Curve) for curve in found) and [c.name for c in found] == ["4", "7"]
    for curve, layer in zip(found, report.layers, strict=True):
        assert curve.layer is net[int(curve.name)]
        assert curve.coefficients is curve.layer.parametrizations.weight.original
        assert any(curve.coefficients is p for p in net.parameters())
        assert curve.record == layer.record and curve.weight.curve == layer.curve


def test_coefficients_are_quantized_for_a_while():
    net = strided_and_grouped()
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(2.0), refine=0, precision="bfloat16"))
    coefficients = next(curves(net)).coefficients
    with torch.no_grad():
        coefficients.add_(torch.randn_like(coefficients))
    before = coefficients.detach().clone()
    with quantized_coefficients(net):
        assert torch.equal(coefficients, before.bfloat16().float()) and not torch.equal(coefficients, before)
    assert torch.equal(coefficients, before)
