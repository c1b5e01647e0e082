"""Targets, allocation and light files: what is promised is what lies on the disk."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import tenreo
from tenreo.checkpoint import _file_tensors
from tenreo.compression import as_stored
from tenreo.core.allocation import _falling, allocate
from tenreo.core.packing import unpack
from tenreo.errors import TenreoError
from tenreo.header import read_header
from tenreo.models import build
from tenreo.plan import file_size, resolve
from tenreo.target import Option, options, smallest_growth, spread


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv2d(128, 64, 1),
        nn.Flatten(), nn.Linear(64, 100), nn.Linear(100, 41),
    ).eval()  # fmt: skip


def test_target_parameters_finds_the_smallest_growth():
    model = build("mobilenet_v2", device="meta")
    plan = resolve(tenreo.Recipe(4, tenreo.TargetParameters(2_000_000)), model)
    assert isinstance(plan.recipe.rate, tenreo.Progressive) and plan.after.parameters <= 2_000_000
    gentler = tenreo.Recipe(4, tenreo.Progressive(plan.recipe.strength * 0.998))
    assert resolve(gentler, model).after.parameters > 2_000_000
    assert resolve(plan.recipe, model) == plan  # what is said can be typed
    with pytest.raises(TenreoError, match=r"given 900,000, .* the least is 1,0"):
        resolve(tenreo.Recipe(4, tenreo.TargetParameters(900_000)), model)


def test_smallest_growth_is_rounded_to_the_fitting_side():
    for edge in (0.123456, 0.5, 17.00001, 1e-4):
        found = smallest_growth(lambda growth, edge=edge: growth >= edge)
        assert edge <= found <= edge * 1.0011
    assert smallest_growth(lambda growth: False) is None


@pytest.mark.parametrize("refine", [0, 2])
@pytest.mark.parametrize("other", ["float32", "float16"])
def test_the_file_is_as_large_as_was_asked_for(tmp_path, refine, other):
    model = net()
    groups = 4 if refine == 0 else None
    recipe = tenreo.Recipe(groups, tenreo.TargetSize(60_000), refine=refine, other=other)
    plan = resolve(recipe, model)
    promised = file_size(plan, model)
    report = tenreo.compress_(model, plan)
    tenreo.save(model, tmp_path / "m.safetensors", recipe=plan.recipe)
    size = (tmp_path / "m.safetensors").stat().st_size
    assert 0.93 * 60_000 < size <= promised <= 60_000
    header = read_header(tmp_path / "m.safetensors")
    assert header.counts() == report.after and header.dense_counts() == report.before
    assert sum(layer.bytes_after for layer in report.layers) == report.after.weight_bytes


def test_a_size_out_of_reach_says_the_least():
    with pytest.raises(
        TenreoError, match=r"target_size: given 5,000, but the least is [\d,]+ bytes; give more, --other"
    ):
        resolve(tenreo.Recipe(None, tenreo.TargetSize(5000)), net())


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "int8", "int6"])
def test_light_files_load_as_what_was_compressed(tmp_path, precision):
    model = net()
    recipe = tenreo.Recipe(4, tenreo.Uniform(8.0), refine=2, position_bits=8, coefficients=precision)
    tenreo.compress_(model, recipe)
    tenreo.save(model, tmp_path / "m.safetensors", recipe=recipe)
    again = tenreo.load(tmp_path / "m.safetensors", net())
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    tenreo.save(again, tmp_path / "n.safetensors", recipe=recipe)
    assert (tmp_path / "n.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    noise = (net()[2].weight - model[2].weight).square().sum()
    entry = read_header(tmp_path / "m.safetensors").layers["2"]
    assert entry.snr == pytest.approx(
        10 * torch.log10(net()[2].weight.square().sum() / noise).item(), abs=1e-3
    )
    assert (entry.length, entry.position_bits, entry.precision) == (256, 8, precision)


def test_what_is_left_dense_in_half_precision(tmp_path):
    model = net()
    with torch.no_grad():
        model[1].running_var[3] = 1e6
    recipe = tenreo.Recipe(4, tenreo.Uniform(8.0), refine=0, other="float16")
    tenreo.compress_(model, recipe)
    with pytest.raises(
        TenreoError, match=r"1.running_var: a value of 1e\+06 does not fit into float16; say --other"
    ):
        tenreo.save(model, tmp_path / "m.safetensors", recipe=recipe)
    assert not list(tmp_path.iterdir())
    model[1].running_var[3] = 1.0
    tenreo.save(model, tmp_path / "m.safetensors", recipe=recipe)
    again = tenreo.load(tmp_path / "m.safetensors", net())
    assert torch.equal(again[0].weight, model[0].weight.half().float())


def test_names_beyond_ascii_count_as_they_are_written(tmp_path):
    model = nn.ModuleDict({"名" * 60 + str(i): nn.Linear(64, 64) for i in range(20)})
    recipe = tenreo.Recipe(None, tenreo.TargetSize(70_000), refine=1, include=("*",))
    tenreo.compress_(model, recipe)
    tenreo.save(model, tmp_path / "m.safetensors", recipe=recipe)
    assert 60_000 < (tmp_path / "m.safetensors").stat().st_size <= 70_000


def test_a_model_that_is_a_layer_says_how_to_save_it(tmp_path):
    layer = nn.Linear(64, 64)
    tenreo.compress_(layer, tenreo.Recipe(4, tenreo.Uniform(2.0), refine=0))
    with pytest.raises(TenreoError, match=r"save nn\.Sequential\(layer\)"):
        tenreo.save(layer, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_training_is_judged_by_what_is_stored():
    model = net()
    tenreo.compress_(model, tenreo.Recipe(4, tenreo.Uniform(8.0), refine=0, coefficients="int6"))
    coefficients = model[2].parametrizations.weight.original
    stored = coefficients.detach().clone()
    with torch.no_grad():
        coefficients.add_(0.01 * torch.randn_like(coefficients))
    trained = coefficients.detach().clone()
    with as_stored(model):
        judged = coefficients.detach().clone()
        tensors = _file_tensors(model, None)
    codes = unpack(tensors["2.weight.coefficients"], 6, coefficients.numel())
    steps = judged[0, :64] / tensors["2.weight.scales"][0, 0].float()
    assert torch.equal(codes[:64] - 32, steps.round().long())
    assert torch.equal(coefficients, trained) and not torch.equal(judged, stored)


def test_a_full_disk_is_one_line_and_leaves_no_file(tmp_path):
    code = (
        "import resource, tenreo, torch\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: tenreo.save(torch.nn.Linear(100, 100), 'm.safetensors')\n"
        "except tenreo.TenreoError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "m.safetensors: can not be written" in done.stdout and not done.stderr
    assert not list(tmp_path.iterdir())


def test_spread_is_as_good_as_trying_everything():
    random = np.random.default_rng(0)
    for _ in range(30):
        offered = [
            [Option(4, 1, 1, "int6", int(b), float(a * np.exp(-b / 20))) for b in random.integers(1, 60, 5)]
            for a in random.random(4)
        ]  # fmt: skip
        weights = random.uniform(0.5, 2, 4)
        room = int(sum(min(o.bytes for o in each) for each in offered) * random.uniform(1, 4))
        cost = lambda chosen, w=weights: sum(w * [o.error for o in chosen])  # noqa: E731
        chosen = spread(offered, weights, room)
        assert sum(o.bytes for o in chosen) <= room
        best = min((c for c in itertools.product(*offered) if sum(o.bytes for o in c) <= room), key=cost)
        assert cost(chosen) <= 1.3 * cost(best)


def test_options_keep_to_what_the_recipe_says():
    recipe = tenreo.Recipe(4, tenreo.TargetSize(10**6), position_bits=9, coefficients="int8")
    assert {(o.groups, o.length, o.precision) for o in options(8192, recipe)} == {(4, 512, "int8")}
    assert options(8191, tenreo.Recipe(None, tenreo.TargetSize(10**6))) == []


def test_allocation_equalises_slopes():
    spectra = [np.exp(-np.arange(400) / 50.0), np.exp(-np.arange(400) / 200.0) / 4]
    kept = allocate(spectra, [100, 100], [400, 400])
    assert sum(kept) == 200
    assert spectra[0][kept[0]] == pytest.approx(spectra[1][kept[1]], rel=0.05)
    assert allocate(spectra, [100, 100], [400, 102]) == [98, 102]
    flat = [np.ones(100), np.zeros(100)]
    assert allocate(flat, [20, 20], [100, 100]) == [30, 10]  # never less than half


def test_the_hull_falls_and_keeps_the_energy():
    values = np.random.default_rng(0).random(500)
    hull = _falling(values)
    assert (np.diff(hull) <= 1e-12).all() and hull.sum() == pytest.approx(values.sum())
    assert (np.cumsum(hull) >= np.cumsum(values) - 1e-9).all()


def test_allocating_keeps_the_counts_and_lowers_the_error():
    recipe = tenreo.Recipe(4, tenreo.Progressive(2.0), refine=2)
    reports = []
    for allocated in (False, True):
        model = net()
        with torch.no_grad():  # a layer of low rank is easy, its bits serve better elsewhere
            model[2].weight.copy_(model[2].weight[:1].expand_as(model[2].weight) + 0.01 * model[2].weight)
        reports.append(tenreo.compress_(model, tenreo.Recipe(4, recipe.rate, refine=2, allocate=allocated)))
    plain, spread_out = reports
    assert plain.after.coefficients == spread_out.after.coefficients
    relative = lambda r: sum(x.noise / x.signal for x in r.layers)  # noqa: E731
    assert relative(spread_out) < 0.9 * relative(plain)


def test_importance_moves_coefficients():
    def kept(importance):
        recipe = tenreo.Recipe(4, tenreo.Progressive(2.0), refine=0, allocate=True, importance=importance)
        return {x.name: x.kept for x in tenreo.compress_(net(), recipe).layers}

    assert kept({"4": 5.0})["4"] > kept({})["4"]
    with pytest.raises(TenreoError, match="importance: pattern 'nothing' matches no"):
        kept({"nothing": 2.0})
