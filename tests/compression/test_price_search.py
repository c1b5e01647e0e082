"""Search for the price that reaches a file size: on formulas, and on real files."""

import copy

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from networks import convolutional
from processes import here
from torch import nn

import tenreo
from tenreo.compression.price_search import search_price
from tenreo.errors import TenreoError
from tenreo.files.header import read_header


@given(st.floats(0.2, 8), st.floats(-6, 6), st.floats(0.4, 1.2))
@example(bits=1.25, away=5.0, steepness=1.125)  # at the first prices, all weights are zeros
def test_the_search_converges_if_bytes_fall_with_the_logarithm_of_the_price(bits, away, steepness):
    """The simulated file has 10,000 weights and 2,000 bytes of other data; the search starts far from the solution."""
    tried = []

    def encode(price):
        tried.append(price)
        return 2000 + max(0, int(10_000 / 8 * (4 - steepness * torch.tensor(price).log2().item() / 2)))

    limit = 2000 + int(10_000 / 8 * bits)
    price = search_price(encode, limit, 10_000, 4.0**away)
    assert price in tried and 0.99 * limit <= encode(price) <= limit and len(tried) < 14


@given(st.floats(0.2, 4), st.floats(-12, 12))
def test_the_search_stops_when_a_file_cannot_grow(most, away):
    """The simulated file of 10,000 weights has at most the given bits per weight, fewer than the limit allows."""
    tried = []

    def encode(price):
        tried.append(price)
        return 2000 + int(10_000 / 8 * min(most, max(0.0, 4 - torch.tensor(price).log2().item() / 2)))

    price = search_price(encode, 2000 + 10_000, 10_000, 4.0**away)
    assert price in tried and encode(price) == 2000 + int(10_000 / 8 * most) and len(tried) < 9


def test_the_limit_holds_if_sizes_jump_and_an_impossible_limit_is_refused():
    def encode(price):
        return 3000 if price < 1 else 1000

    price = search_price(encode, 2000, 10_000, 1e-3)
    assert price >= 1
    with pytest.raises(TenreoError, match=r"target_size: no price leads to 500 bytes; allow more"):
        search_price(encode, 500, 10_000, 1.0)


@pytest.mark.parametrize("size", [40_000, 60_000, 90_000])
def test_files_have_the_requested_size(tmp_path, size):
    model, path = convolutional(), tmp_path / "m.safetensors"
    recipe = tenreo.Recipe(None, tenreo.TargetSize(size), dense_dtype="float16")
    report = tenreo.compress_(model, recipe)
    tenreo.save(model, path, recipe=recipe)
    assert 0.98 * size - 500 < path.stat().st_size <= size
    header = read_header(path)
    assert header.counts() == report.after and all(x.curve.groups == 1 and x.curve.memory for x in report.layers)
    again = tenreo.load(path, convolutional())
    assert torch.equal(again[6].weight, model[6].weight)
    stored = [layer.errors.snr for layer in header.layers.values()]  # rounded to six digits
    assert [layer.snr for layer in report.layers] == pytest.approx(stored, rel=1e-5)


@pytest.mark.parametrize("bits", [pytest.param(1.0, marks=pytest.mark.slow), 3.0])
def test_large_layers_are_encoded_about_once(bits):
    """Layers of a different kind: rows of different scales, filters with their energy in one place, many zeros."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(4)))
    with torch.no_grad():
        model[0].weight *= torch.exp(torch.randn(512, 1))
        model[1].weight *= torch.exp(-(torch.arange(512) - 512 * torch.rand(512, 1)).abs() / 50)
        model[2].weight *= torch.rand(512, 512) < 0.2
    limit, encoded = int(bits / 8 * 4 * 512 * 512), []
    report = tenreo.compress_(model, tenreo.Recipe(None, tenreo.TargetSize(limit)), progress=encoded.append)
    assert sum(layer.numel for layer in encoded) <= 1.5 * 4 * 512 * 512
    assert 0.99 * limit <= report.after.bytes <= limit


def test_more_bytes_and_importance_lower_the_error():
    def errors(size, **options):
        report = tenreo.compress_(convolutional(), tenreo.Recipe(None, tenreo.TargetSize(size), **options))
        return {layer.name: layer.squared_error for layer in report.layers}

    plain, larger, weighed = errors(60_000), errors(80_000), errors(60_000, importance={"6": 100.0})
    assert all(larger[name] < plain[name] for name in plain)
    assert weighed["6"] < plain["6"] and weighed["2"] > plain["2"]


@pytest.mark.parametrize(("nonzero", "fraction"), [(1.0, 0.2), (1.0, 0.8), (0.3, 0.1), (0.3, 0.5)])
def test_the_plan_predicts_the_file_up_to_the_most_precise_one(nonzero, fraction):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10))
    with torch.no_grad():
        model[0].weight.normal_()
        model[0].weight *= torch.rand(256, 128) < nonzero
    plan = tenreo.resolve(tenreo.Recipe(None, tenreo.TargetFraction(fraction)), model)
    report = tenreo.compress_(model, plan)
    assert plan.after.bytes == pytest.approx(report.after.bytes, rel=0.02 if nonzero == 1 else 0.06)
    assert plan.compressed[0].errors.snr == pytest.approx(report.layers[0].errors.snr, abs=2)


def test_a_dry_run_needs_no_values():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 128, 3), nn.Conv2d(128, 64, 1))
    plan = tenreo.resolve(tenreo.Recipe(None, tenreo.TargetSize(60_000)), model)
    assert 58_000 < plan.after.bytes < 60_500


def test_an_accuracy_is_reached_with_the_fewest_bytes(tmp_path):
    """A stricter target gives a larger file."""
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 40, 3), nn.BatchNorm2d(40), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 60),
    )  # fmt: skip
    images = torch.randn(64, 3, 12, 12)
    dense.train()(images)
    dense.eval()
    sizes = []
    for rate in (tenreo.TargetKl(1e-3), tenreo.TargetKl(1e-5), tenreo.TargetAgreement(100)):
        net = copy.deepcopy(dense)
        reached = tenreo.compress_to_(net, tenreo.Recipe(None, rate), images)
        p, q = dense(images).log_softmax(1), net(images).log_softmax(1)
        kl = (p.exp() * (p - q)).sum(1).mean().item()
        assert reached.agreement.kl == pytest.approx(kl, rel=1e-3, abs=1e-7)
        holds = kl <= rate.kl if isinstance(rate, tenreo.TargetKl) else reached.agreement.agreement == 100
        assert holds and "64 images" in reached.compared_on
        sizes.append(reached.report.after.bytes)
    assert sizes[0] < sizes[1]
    with pytest.raises(TenreoError, match=r"call tenreo\.compress_to_ instead"):
        tenreo.compress_(copy.deepcopy(dense), tenreo.Recipe(None, tenreo.TargetKl(0.1)))
    with pytest.raises(TenreoError, match="images: given 'photos', needs a tensor"):
        tenreo.compress_to_(copy.deepcopy(dense), tenreo.Recipe(None, tenreo.TargetKl(0.1)), "photos")
    with pytest.raises(TenreoError, match="target_kl: needs entropy-coded positions"):
        tenreo.Recipe(4, tenreo.TargetKl(0.1))


def test_a_price_per_bit_has_no_ratio_before_refinement(tmp_path):
    """The quantizer that the search starts from has another size than the result, so their errors do not compare."""
    path = tmp_path / "m.safetensors"
    report = tenreo.compress_(model := convolutional(), tenreo.Recipe(None, tenreo.TargetSize(60_000)))
    tenreo.save(model, path)
    header = read_header(path)
    assert report.snr_unrefined is None and report.to_dict()["snr_unrefined"] is None
    assert report.layers[0].to_dict()["snr_unrefined"] is None and header.snr_unrefined is None
    shown = here("inspect", path, "--layers").stdout
    assert "SNR before refinement" not in shown and "SNR of compressed weights" in shown
    tenreo.compress_(model := convolutional(), tenreo.Recipe(4, tenreo.TargetSize(60_000)))
    tenreo.save(model, path)
    assert "SNR before refinement" in here("inspect", path).stdout
