"""Limits on building a model that a file names."""

import json
import time

import pytest
import torch
from safetensors.torch import save_file

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.header import read_header
from tenreo.models import build_limits
from tenreo.models.build_limits import limited_by


@pytest.fixture
def named(tmp_path):
    """named(builder, kwargs): a file of one number that names a model."""

    def write(builder, kwargs):
        entries = {"tenreo.version": "2", "tenreo.model": json.dumps({"builder": builder, "kwargs": kwargs})}
        save_file({"x": torch.zeros(1)}, tmp_path / "m.safetensors", entries)
        return tmp_path / "m.safetensors"

    return write


@pytest.mark.parametrize(
    ("builder", "kwargs", "match"),
    [
        ("timm:vit_tiny_patch16_224", {"depth": 100_000}, "depth .* is 100000, but no dimension .* larger than 1"),
        ("timm:resnet18", {"layers": [100_000] * 4}, r"layers .* is \[100000, .* but no dimension"),
        ("timm:efficientnet_b0", {"channel_multiplier": 1e5}, "channel_multiplier .* no dimension"),
        ("timm:vit_tiny_patch16_224", {"depth": 2000}, "more than 1,010 modules, but the file contains only 1 tensors"),
        ("timm:resnet18", {"layers": [2000] * 4}, "more than 1,010 modules"),
        ("timm:convnext_tiny", {"depths": [9] * 4, "dims": [2000] * 4}, "does not fit the model; not expected: x"),
        ("timm:tiny_vit_5m_224", {"window_sizes": [800] * 4}, "takes more than 1 seconds to build"),
    ],
)
def test_a_small_file_cannot_name_a_model_that_takes_long_to_build(named, builder, kwargs, match, monkeypatch):
    monkeypatch.setattr(build_limits, "_SECONDS", 1.0 if "tiny_vit" in builder else 60.0)
    start = time.monotonic()
    with pytest.raises(TenreoError, match=match):
        tenreo.load(named(builder, kwargs))
    assert time.monotonic() - start < 50


def test_a_small_file_cannot_name_a_model_that_allocates_large_tensors(named):
    with limited_by(read_header(named("timm:resnet18", {}))):
        assert torch.zeros(2**20).sum() == 0
        for large in (
            lambda: torch.zeros(2**34),
            lambda: torch.arange(2.0**34),
            lambda: torch.outer(*torch.ones(2, 2**17)),
        ):
            with pytest.raises(TenreoError, match="timm:resnet18 computes a tensor of more than"):
                large()


def test_a_small_file_cannot_describe_large_layers(tmp_path):
    layer = {"shape": [2**20, 2**20], "groups": 2**16, "length": 4, "kept": 1, "positions": "coded"}
    tensors = {"x.weight.coefficients": torch.zeros(2**16, 1), "x.weight.positions": torch.zeros(9, dtype=torch.uint8)}
    model = {"builder": "timm:resnet18"}
    entries = {"tenreo.version": "3", "tenreo.model": json.dumps(model), "tenreo.layers": json.dumps({"x": layer})}
    save_file(tensors, tmp_path / "m.safetensors", entries)
    with pytest.raises(TenreoError, match="describes weights of 1,099,511,627,776 elements in a file of"):
        tenreo.load(tmp_path / "m.safetensors")
