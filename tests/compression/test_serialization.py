"""Conversion between models and the tensors of files, including files of earlier versions."""

import json
from dataclasses import replace

import pytest
import torch
from networks import convolutional, golden
from processes import DATA
from safetensors import safe_open
from torch import nn

import tenreo
from tenreo.codec.packing import unpack
from tenreo.compression.parametrization import curves, quantized_coefficients
from tenreo.errors import TenreoError
from tenreo.files.header import read_header
from tenreo.files.safetensors import read_tensors
from tenreo.planning.recipe import recipe_of


def test_positions_are_coded_once_and_again_after_a_change(tmp_path):
    model = convolutional()
    tenreo.compress_(model, tenreo.Recipe(4, tenreo.Uniform(8.0), refine=1))
    layers = [curve.weight for curve in curves(model)]
    coded = [layer.coded for layer in layers]
    tenreo.save(model, tmp_path / "m.safetensors")
    assert all(layer.coded is own and own is not None for layer, own in zip(layers, coded, strict=True))
    state = {key: value.flip(0) if key.endswith("positions") else value for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    tenreo.save(model, tmp_path / "n.safetensors")
    again = tenreo.load(tmp_path / "n.safetensors", convolutional()).state_dict()
    assert all(torch.equal(again[key], value) for key, value in state.items() if key.endswith("positions"))


def test_positions_that_no_trellis_leads_to_are_refused(tmp_path):
    """They used to end the process with a segmentation fault."""
    model = convolutional()
    tenreo.compress_(model, tenreo.Recipe(None, tenreo.TargetSize(60_000)))
    state = {key: value.flip(0) if key.endswith("positions") else value for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    with pytest.raises(TenreoError, match="not a path through the trellis"):
        tenreo.save(model, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "int8", "int6"])
def test_quantized_files_load_as_the_model_that_was_saved(tmp_path, precision):
    model = convolutional()
    recipe = tenreo.Recipe(4, tenreo.Uniform(8.0), refine=2, position_bits=8, precision=precision)
    tenreo.compress_(model, recipe)
    tenreo.save(model, tmp_path / "m.safetensors", recipe=recipe)
    again = tenreo.load(tmp_path / "m.safetensors", convolutional())
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    tenreo.save(again, tmp_path / "n.safetensors", recipe=recipe)
    assert (tmp_path / "n.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    error = (convolutional()[2].weight - model[2].weight).square().sum()
    record = read_header(tmp_path / "m.safetensors").layers["2"]
    assert record.errors.snr == pytest.approx(
        10 * torch.log10(convolutional()[2].weight.square().sum() / error).item(), abs=1e-3
    )
    assert (record.curve.length, record.curve.position_bits, record.curve.precision) == (256, 8, precision)


def test_dense_tensors_are_stored_in_half_precision(tmp_path):
    model = convolutional()
    recipe = tenreo.Recipe(4, tenreo.Uniform(8.0), refine=0, dense_dtype="float16")
    tenreo.compress_(model, recipe)
    model[1].running_var[3] = 1e6
    with pytest.raises(
        TenreoError, match=r"1.running_var: a value of 1e\+06 does not fit into float16; choose dense_dtype bfloat16"
    ):
        tenreo.save(model, tmp_path / "m.safetensors", recipe=recipe)
    assert not list(tmp_path.iterdir())
    model[1].running_var[3] = 1.0
    tenreo.save(model, tmp_path / "m.safetensors", recipe=recipe)
    again = tenreo.load(tmp_path / "m.safetensors", convolutional())
    assert torch.equal(again[0].weight, model[0].weight.half().float())


class Gate(nn.Module):
    """A module whose own parameter is called `weight`, next to a layer with a weight."""

    def __init__(self):
        super().__init__()
        self.weight, self.inner = nn.Parameter(torch.randn(64, 64)), nn.Linear(64, 64)

    def forward(self, x):
        return self.inner(x) @ self.weight


@pytest.mark.parametrize("make", [lambda: nn.Linear(64, 64), lambda: nn.Conv2d(8, 64, 3), Gate])
@pytest.mark.parametrize("pack", ["entropy", "plain"])
def test_a_weight_of_the_model_itself_is_saved_under_its_name(tmp_path, make, pack):
    model, path = make(), tmp_path / "m.safetensors"
    report = tenreo.compress_(model, tenreo.Recipe(4, tenreo.Uniform(2.0), include=("weight",), refine=0, pack=pack))
    assert [layer.name for layer in report.layers] == ["weight"]
    tenreo.save(model, path)
    assert path.stat().st_size == report.after.bytes and list(read_header(path).layers) == ["weight"]
    assert torch.equal(tenreo.load(path, make()).weight, model.weight)


def test_quantized_coefficients_are_those_that_a_file_stores(tmp_path):
    model = convolutional()
    tenreo.compress_(model, tenreo.Recipe(4, tenreo.Uniform(8.0), refine=0, precision="int6", pack="plain"))
    coefficients = model[2].parametrizations.weight.original
    stored = coefficients.detach().clone()
    with torch.no_grad():
        coefficients.add_(0.01 * torch.randn_like(coefficients))
    trained = coefficients.detach().clone()
    with quantized_coefficients(model):
        judged = coefficients.detach().clone()
        tenreo.save(model, tmp_path / "m.safetensors")
    tensors = read_tensors(tmp_path / "m.safetensors")
    codes = unpack(tensors["2.weight.coefficients"], 6, coefficients.numel())
    steps = judged[0, :64] / tensors["2.weight.scales"][0, 0].float()
    assert torch.equal(codes[:64] - 32, steps.round().long())
    assert torch.equal(coefficients, trained) and not torch.equal(judged, stored)


# precision of the coefficients -> dtype of the dense tensors
GOLDEN = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16", "int8": "float32", "int6": "float16"}


def content(path):
    """Return the header and the tensors of a file, without metadata that depend on the version of the format."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    for key in ("tenreo.checksums", "tenreo.source", "tenreo.version"):
        header["__metadata__"].pop(key, None)
    return json.dumps(header), data[start:]


@pytest.mark.parametrize("precision", GOLDEN)
def test_golden_files_come_back_byte_by_byte(tmp_path, precision):
    """Files written by an earlier version are byte-equal after loading and saving."""
    path = DATA / f"{precision}.safetensors"
    recipe = tenreo.Recipe(
        4, tenreo.Uniform(4.0), ("3", "6"), refine=3, position_bits=7, precision=precision,
        dense_dtype=GOLDEN[precision], pack="plain",
    )  # fmt: skip
    assert recipe_of(read_header(path)) == recipe
    tenreo.save(tenreo.load(path, golden()), tmp_path / "again.safetensors", recipe=recipe)
    assert content(tmp_path / "again.safetensors") == content(path)


@pytest.mark.parametrize("precision", GOLDEN)
def test_golden_files_equal_a_new_compression(precision):
    """The tolerance is 0.05 dB, because torch versions round differently."""
    header, model = read_header(DATA / f"{precision}.safetensors"), golden()
    report = tenreo.compress_(model, recipe_of(header))
    assert [x.name for x in report.layers] == list(header.layers) == ["3", "6"]
    for layer in report.layers:
        wanted = header.layers[layer.name]
        assert layer.snr == pytest.approx(wanted.errors.snr, abs=0.05)
        assert layer.snr_unrefined == pytest.approx(wanted.errors.snr_unrefined, abs=0.05)
        assert layer.curve == wanted.curve and wanted.positions == "packed"
    after = replace(report.after, bytes=header.size)  # the errors in the header may have fewer digits
    assert after == header.counts() and report.before == header.dense_counts(GOLDEN[precision])


@pytest.mark.parametrize("name", ["version3", "version4", "coded"])
def test_golden_files_of_a_given_size_come_back_byte_by_byte(tmp_path, name):
    """Positions are a path through a trellis: on cosines in version 3, otherwise on a ramp."""
    path, again = DATA / f"{name}.safetensors", tmp_path / "again.safetensors"
    recipe = recipe_of(read_header(path))
    tenreo.save(tenreo.load(path, golden()), again, recipe=recipe)
    assert content(again) == content(path)
    versions = [safe_open(file, framework="pt").metadata()["tenreo.version"] for file in (path, again)]
    assert versions == (["3", "3"] if name == "version3" else ["4", "5"])


def tied():
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    net[1].weight = net[0].weight
    return net


def test_tied_weights_are_written_once(tmp_path):
    net, path = tied(), tmp_path / "tied.safetensors"
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(2.0)))
    tenreo.save(net, path)
    assert path.stat().st_size < 64 * 64 * 4 + 64 * 64 * 4 + 8000
    again = tenreo.load(path, tied())
    x = torch.randn(2, 64)
    assert torch.equal(again(x), net(x)) and again[0].weight is again[1].weight
    untied = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(3)))
    with pytest.raises(TenreoError, match=r"missing.*1\.weight"):
        tenreo.load(path, untied)


def test_state_that_is_not_a_tensor_is_refused_before_writing(tmp_path):
    class Extra(torch.nn.Linear):
        def get_extra_state(self):
            return {"scale": 1.0}

    with pytest.raises(TenreoError, match=r"0\._extra_state is a dict; a file can store only tensors with values"):
        tenreo.save(torch.nn.Sequential(Extra(64, 64)), tmp_path / "extra.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_loaded_into_a_model_whose_layers_are_compressed(tmp_path):
    """It ended in an AttributeError of torch."""
    path, model = tmp_path / "m.safetensors", convolutional()
    tenreo.compress_(model, tenreo.Recipe(4, tenreo.Uniform(8.0), refine=0))
    tenreo.save(model, path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        TenreoError,
        match=r"m\.safetensors: cannot be loaded .*: 2: its weight is parametrized already .*tenreo\.expand_",
    ):
        tenreo.load(path, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(tenreo.load(path, tenreo.expand_(model))[2].weight, model[2].weight)
    normed = convolutional()
    nn.utils.parametrizations.weight_norm(normed[4])
    with pytest.raises(TenreoError, match=r"cannot be loaded .*: 4: its weight is parametrized already \(_WeightNorm"):
        tenreo.load(path, normed)
