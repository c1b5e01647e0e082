"""Whatever `compress_` makes and `save` writes, `load` reads: random models, degenerate weights, any target."""

import copy
import pickle
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_model, random_recipe
from torch import nn

import tenreo
from tenreo.codec.shape import MOST_LEVELS, Positions
from tenreo.compression.parametrization import curves
from tenreo.errors import TenreoError
from tenreo.files.header import read_header
from tenreo.files.records import ModelInfo
from tenreo.planning.recipe import recipe_of


def weights(model):
    return [curve.layer.weight for curve in curves(model)]


def check_round_trip(dense, recipe, path):
    """Compress, save and load a model; return the report, or None if it is refused with a clear message."""
    model = copy.deepcopy(dense)
    try:
        report = tenreo.compress_(model, recipe)
    except TenreoError as error:
        assert str(error)
        return None
    tenreo.save(model, path)
    loaded = tenreo.load(path, copy.deepcopy(dense))
    assert all(
        torch.equal(a, b) and torch.isfinite(b).all() for a, b in zip(weights(model), weights(loaded), strict=True)
    )
    assert not isinstance(recipe.rate, tenreo.TargetSize) or path.stat().st_size <= recipe.rate.bytes
    return report


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 2**32))
def test_random_models_at_random_targets_are_read_as_they_were_written(tmp_path_factory, seed):
    random = Random(seed)
    dense = random_model(random)
    check_round_trip(dense, random_recipe(random, dense), tmp_path_factory.getbasetemp() / "random.safetensors")


def test_a_generous_size_gives_no_more_samples_than_a_file_may_have(tmp_path):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10))
    report = check_round_trip(dense, tenreo.Recipe(None, tenreo.TargetSize(20_000)), tmp_path / "m.safetensors")
    assert report.layers[0].curve.length < MOST_LEVELS / 4 and report.snr > 90  # more samples would only take time


VALUES = {
    "ones": lambda w: torch.ones_like(w), "1e30": lambda w: torch.full_like(w, 1e30),
    "1e-30": lambda w: torch.full_like(w, 1e-30), "denormal": lambda w: torch.full_like(w, -3e-39),
    "zeros": torch.zeros_like, "narrow": lambda w: 1 + w * 1e-6, "narrow and large": lambda w: -1e30 * (1 + w * 1e-5),
    "two neighbors": lambda w: torch.where(w > 0, 1.0, 0.99999994), "tiny": lambda w: w * 1e-43,
    "one outlier": lambda w: w.index_fill(0, torch.tensor(3), 1e20),
    "one nonzero": lambda w: torch.eye(32) * (w > 0.12),
    "different scales": lambda w: torch.cat([w[:16] * 1e25, w[16:] * 1e-25]), "signs": torch.sign,
}  # fmt: skip
CONSTANT = ("ones", "1e30", "1e-30", "denormal", "zeros")


@pytest.mark.parametrize("values", VALUES)
def test_degenerate_weights_fit_into_a_given_size(tmp_path, values):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(32, 32))
    dense[0].weight.data = VALUES[values](dense[0].weight.data)
    report = check_round_trip(
        dense, tenreo.Recipe(None, tenreo.TargetSize(3500), include=("0",)), tmp_path / "m.safetensors"
    )
    assert report.layers[0].snr > 15
    if values in CONSTANT:
        assert report.layers[0].squared_error == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_degenerate_weights_of_other_dtypes_fit_into_a_given_size(tmp_path, dtype):
    torch.manual_seed(0)
    for scale in (torch.finfo(dtype).smallest_normal, 1.0):
        dense = nn.Sequential(nn.Linear(32, 32)).to(dtype)
        dense[0].weight.data *= scale
        report = check_round_trip(
            dense, tenreo.Recipe(None, tenreo.TargetSize(3500), include=("0",)), tmp_path / "m.safetensors"
        )
        assert report is not None and report.layers[0].curve.length > 4


def test_a_weight_whose_curve_exceeds_its_dtype_is_named():
    dense = nn.Sequential(nn.Linear(64, 64))
    dense[0].weight.data /= dense[0].weight.data.abs().max() / 3e38
    recipe = tenreo.Recipe(None, tenreo.TargetSize(7000))
    assert tenreo.compress_(copy.deepcopy(dense), recipe).snr > 40  # a ramp hardly reaches beyond the values
    dense[0].weight.data[0, 0] = torch.finfo(torch.float32).max
    with pytest.raises(TenreoError, match=r"^0: encode: given values up to 3.4e\+38, whose curve exceeds the range"):
        tenreo.compress_(dense, recipe)


@pytest.mark.parametrize(("groups", "pack"), [(None, "plain"), (4, "entropy")])
def test_the_scale_of_the_weights_does_not_change_the_choice_of_candidates(groups, pack):
    def curves(scale):
        torch.manual_seed(0)
        dense = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 128), nn.Linear(128, 256))
        for layer in dense:
            layer.weight.data *= scale
        recipe = tenreo.Recipe(groups, tenreo.TargetSize(20_000), pack=pack)
        return [layer.curve for layer in tenreo.resolve(recipe, dense).layers]

    assert curves(1e-30) == curves(1.0) == curves(1e30)


@pytest.mark.parametrize("precision", ["int8", "int6"])
def test_the_scale_of_the_weights_does_not_change_the_error_of_integers(precision):
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    errors = []
    for scale in (2.0**-100, 1.0, 2.0**100):
        decoded = tenreo.decode(tenreo.encode(weight * scale, 4, 64, precision=precision))
        errors.append((weight - decoded / scale).square().sum().item())
    assert errors == pytest.approx([errors[1]] * 3)


def test_a_file_that_could_not_be_read_again_is_not_written(tmp_path):
    names = tuple(f"{i:0250}" for i in range(50_000))  # a header of more than 10 MB
    with pytest.raises(
        TenreoError, match=r"could not be read again: .* has a header of 12,.* needs at most 10,000,000"
    ):
        tenreo.save(
            nn.Sequential(nn.Linear(4, 4)), tmp_path / "m.safetensors", ModelInfo(classes=50_000, class_names=names)
        )
    assert not (tmp_path / "m.safetensors").exists()


def dense_heavy():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 64), nn.BatchNorm1d(64), nn.Linear(64, 60))


SMALL = tenreo.Recipe(None, tenreo.TargetSize(20_000), dense_dtype="float16")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), nn.DataParallel])
def test_a_file_without_a_given_recipe_has_that_of_the_compression(tmp_path, copied):
    model, path = dense_heavy(), tmp_path / "m.safetensors"
    report = tenreo.compress_(model, SMALL)
    tenreo.save(copied(model), path)
    assert report.after.bytes == path.stat().st_size <= 20_000
    header = read_header(path)
    assert recipe_of(header) == SMALL and header.tensors["4.weight"].dtype == "F16" and header.counts() == report.after
    again = tmp_path / "again.safetensors"
    tenreo.save(tenreo.load(path, dense_heavy()), again)
    assert again.read_bytes() == path.read_bytes()
    tenreo.save(model, again, recipe=replace(SMALL, dense_dtype="float32"))
    assert again.stat().st_size > path.stat().st_size
    tenreo.save(tenreo.expand_(model), again)
    assert recipe_of(read_header(again)) is None and read_header(again).tensors["4.weight"].dtype == "F32"


def test_a_second_compression_decides_what_is_remembered(tmp_path):
    model, path = dense_heavy(), tmp_path / "m.safetensors"
    tenreo.compress_(model, tenreo.Recipe(4, tenreo.Uniform(2.0), include=("0",)))
    plain = tenreo.Recipe(4, tenreo.Uniform(2.0), include=("2",), pack="plain", dense_dtype="bfloat16")
    report = tenreo.compress_(model, plain)
    tenreo.save(model, path)
    assert recipe_of(read_header(path)) == plain and report.after.bytes == path.stat().st_size
    assert read_header(path).layers["0"].positions == Positions.PACKED


@pytest.mark.parametrize("rate", [tenreo.Uniform(2.0), tenreo.TargetParameters(12_000), tenreo.TargetSize(25_000)])
def test_a_plan_foresees_the_size_of_the_file(rate):
    recipe = tenreo.Recipe(4, rate)
    plan = tenreo.resolve(recipe, dense_heavy())
    assert plan.after.bytes - 2500 < tenreo.compress_(dense_heavy(), recipe).after.bytes <= plan.after.bytes
