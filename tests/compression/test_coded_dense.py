"""Dense tensors of files of a given size: rounded in memory and in the file alike, and small."""

import copy
import math
from functools import cache

import pytest
import torch
from networks import convolutional, two_norms
from torch import nn

import tenreo
from tenreo.files.header import read_header

RECIPE = tenreo.Recipe(None, tenreo.TargetSize(20_000))


class Mixed(nn.Module):
    """A layer that is compressed, and parameters and buffers of many kinds that are not."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.linear = nn.Linear(64, 64, dtype=dtype)
        self.norm = nn.BatchNorm1d(64, dtype=dtype)
        self.table = nn.Parameter(torch.randn(7, 3, dtype=dtype))
        self.temperature = nn.Parameter(torch.tensor(4.6052, dtype=dtype))
        self.register_buffer("frequencies", 10_000.0 ** -torch.linspace(0, 1, 16, dtype=dtype))
        self.register_buffer("mask", torch.full((4, 4), -math.inf, dtype=dtype).triu(1))
        self.register_buffer("index", torch.arange(49).reshape(7, 7) % 13)
        self.register_buffer("flags", torch.arange(5) % 2 == 0)
        self.register_buffer("large", torch.tensor([2**40, -3]))
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.copy_((4 * torch.randn(64)).exp())
            self.norm.running_var[5] = 0
            self.norm.num_batches_tracked.fill_(123_456)

    def forward(self, x):
        return self.norm(self.linear(x))


@cache
def small_norms(size):
    """The compressed network of two convolutions, and the report."""
    model = two_norms()
    return model, tenreo.compress_(model, tenreo.Recipe(None, tenreo.TargetSize(size)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_kind_of_tensor_comes_back(tmp_path, dtype):
    torch.manual_seed(0)
    dense = Mixed(dtype).eval()
    small = copy.deepcopy(dense)
    tenreo.compress_(small, tenreo.Recipe(None, tenreo.TargetSize(6000)))
    tenreo.save(small, tmp_path / "m.safetensors")
    again = tenreo.load(tmp_path / "m.safetensors", Mixed(dtype).eval())
    before, state = dense.state_dict(), again.state_dict()
    for name, value in small.state_dict().items():
        assert torch.equal(state[name], value) and state[name].dtype == value.dtype, name
    exact = ("frequencies", "mask", "index", "flags", "large", "norm.num_batches_tracked")
    assert all(torch.equal(state[name], before[name]) for name in exact)
    variance, rounded = before["norm.running_var"].double(), state["norm.running_var"].double()
    assert rounded[5] == 0 and (rounded[variance > 0] / variance[variance > 0]).log().abs().max() < 0.05
    assert abs(state["temperature"].item() / 4.6052 - 1) < 0.005
    header = read_header(tmp_path / "m.safetensors")
    assert {"norm.running_var", "index", "flags", "table"} <= header.coded.keys()
    assert {"frequencies", "mask", "large"} <= header.tensors.keys()
    assert header.dense_counts().parameters == sum(p.numel() for p in dense.parameters()) + 128 + 32
    assert set(header.dense_shapes()) == set(before)


def test_a_file_that_is_read_and_written_again_does_not_change(tmp_path):
    """Also after a correction, whose statistics the file rounds, and at sizes that make the step coarser."""
    for size in (6000, 15_000):
        small = copy.deepcopy(small_norms(size)[0])
        with torch.no_grad():
            for norm in (small[1], small[4]):
                norm.running_mean += 0.01 * torch.randn(64)
                norm.running_var *= 1 + 0.1 * torch.rand(64)
        tenreo.save(small, tmp_path / "1.safetensors")
        tenreo.save(tenreo.load(tmp_path / "1.safetensors", two_norms()), tmp_path / "2.safetensors")
        assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()
        assert (tmp_path / "1.safetensors").stat().st_size <= size


def test_layers_with_other_parametrizations_are_rounded_in_memory_and_in_the_file(tmp_path):
    def build():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
        nn.utils.parametrizations.weight_norm(net[2])
        return net

    net, path = build(), tmp_path / "m.safetensors"
    tenreo.compress_(net, tenreo.Recipe(None, tenreo.TargetSize(40_000)))
    tenreo.save(net, path)
    loaded = tenreo.load(path, build())
    assert all(torch.equal(x, y) for x, y in zip(net.parameters(), loaded.parameters(), strict=True))


def test_rounding_is_as_fine_as_the_layers(tmp_path):
    """Three times the bytes of the layers make dense tensors as much finer as their weights."""
    errors = []
    for size in (6000, 15_000):
        dense, (small, report) = two_norms(), small_norms(size)
        error = (small[4].weight - dense[4].weight).norm() / dense[4].weight.norm()
        difference = (small[0].weight - dense[0].weight).norm() / dense[0].weight.norm()
        errors.append(difference.item() * 10 ** (report.snr / 20))
        assert error < 0.1 * 10 ** (-report.snr / 20)
    assert max(errors) < 0.1 and max(errors) / min(errors) < 4


def test_another_number_format_can_be_chosen(tmp_path):
    coded, half = convolutional(), convolutional()
    tenreo.compress_(coded, RECIPE)
    tenreo.compress_(half, tenreo.Recipe(None, tenreo.TargetSize(40_000), dense_dtype="float16"))
    tenreo.save(half, tmp_path / "half.safetensors")
    assert not read_header(tmp_path / "half.safetensors").coded
    assert torch.equal(half[0].weight, convolutional()[0].weight)  # only the file has 16 bits
    assert not torch.equal(coded[0].weight, convolutional()[0].weight)
    assert tenreo.Recipe(4, tenreo.Uniform(2.0)).dense_dtype == "float32" and RECIPE.dense_dtype == "coded"


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("uniform", (7268,)),  # one layer is all zeros at a price, and needs 2 kB at any lower one
        ("outliers", (16_000,)),
        ("sparse", (8000,)),
        pytest.param("uniform", (5000, 8100, 16_000, 50_000), marks=pytest.mark.slow),
        pytest.param("outliers", (5000, 50_000), marks=pytest.mark.slow),
        pytest.param("sparse", (5100, 16_000), marks=pytest.mark.slow),
        pytest.param("constant rows", (8100, 16_000), marks=pytest.mark.slow),
    ],
)
def test_a_size_is_met_whatever_the_weights(tmp_path, kind, sizes):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(128, 256), nn.Linear(256, 128))
    with torch.no_grad():
        if kind == "outliers":
            dense[0].weight[:10] *= 50
        elif kind == "sparse":
            dense[0].weight *= torch.rand(256, 128) < 0.1
        elif kind == "constant rows":
            dense[0].weight[:] = torch.randn(256, 1)
    for size in sizes:
        model = copy.deepcopy(dense)
        tenreo.compress_(model, tenreo.Recipe(None, tenreo.TargetSize(size)))
        tenreo.save(model, tmp_path / "m.safetensors")
        assert 0.99 * size <= (tmp_path / "m.safetensors").stat().st_size <= size


class Inner(nn.Module):
    """A module with a buffer named `dense` and a layer; the test registers it under the name `tenreo`."""

    def __init__(self, dense):
        super().__init__()
        self.linear = nn.Linear(64, 64)
        if isinstance(dense, nn.Parameter):
            self.dense = dense
        else:
            self.register_buffer("dense", dense)

    def forward(self, x):
        return self.linear(x)


@pytest.mark.parametrize("dense", [torch.rand(5), torch.arange(5), nn.Parameter(torch.rand(5))])
@pytest.mark.parametrize(
    "recipe", [tenreo.Recipe(None, tenreo.TargetSize(6000)), tenreo.Recipe(4, tenreo.Uniform(2.0))]
)
def test_a_tensor_with_the_name_of_the_stream_is_refused(tmp_path, dense, recipe):
    model = nn.Sequential()
    model.add_module("tenreo", Inner(dense))
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(tenreo.TenreoError, match=r"^plan: tenreo.dense is .*; rename the module or the tensor$"):
        tenreo.compress_(model, recipe)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    with pytest.raises(tenreo.TenreoError, match=r"^save: tenreo.dense is "):
        tenreo.save(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
