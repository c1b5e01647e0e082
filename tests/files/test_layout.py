"""The layout of files: predicted sizes, header bytes, names and counts match the files that are written."""

import pytest
import torch
from networks import convolutional
from safetensors.torch import save_file
from torch import nn

import tenreo
from tenreo.codec.shape import CurveShape, Precision
from tenreo.files.header import read_header
from tenreo.files.layout import SUFFIXES, file_size, header_bytes, layer_tensors, split_name
from tenreo.files.records import LayerRecord
from tenreo.files.safetensors import DTYPES, record
from tenreo.planning.file_estimate import FileEstimate
from tenreo.planning.plan import resolve


@pytest.mark.parametrize("refine", [0, 2])
@pytest.mark.parametrize("dense_dtype", ["float32", "float16"])
def test_the_file_has_the_requested_size(tmp_path, refine, dense_dtype):
    model = convolutional()
    groups = 4 if refine == 0 else None
    recipe = tenreo.Recipe(groups, tenreo.TargetSize(60_000), refine=refine, dense_dtype=dense_dtype)
    plan = resolve(recipe, model)
    estimate = FileEstimate(plan.recipe, model).file_size(plan.layers)
    report = tenreo.compress_(model, plan)
    tenreo.save(model, tmp_path / "m.safetensors", recipe=plan.recipe)
    size = (tmp_path / "m.safetensors").stat().st_size
    # With refinement, a price search comes close to the size; without it, the estimate of the plan is an upper bound.
    assert 0.93 * 60_000 < size <= 60_000 and (refine > 0 or size <= estimate <= 60_000)
    header = read_header(tmp_path / "m.safetensors")
    assert header.counts() == report.after and header.dense_counts(dense_dtype) == report.before
    assert sum(layer.bytes_after for layer in report.layers) == report.after.weight_bytes


def test_names_with_non_ascii_characters_have_their_size_in_utf8(tmp_path):
    model = nn.ModuleDict({"名" * 60 + str(i): nn.Linear(64, 64) for i in range(20)})
    recipe = tenreo.Recipe(None, tenreo.TargetSize(70_000), refine=1, include=("*",))
    tenreo.compress_(model, recipe)
    tenreo.save(model, tmp_path / "m.safetensors", recipe=recipe)
    assert 60_000 < (tmp_path / "m.safetensors").stat().st_size <= 70_000


def test_headers_are_equal_to_those_of_the_safetensors_library(tmp_path):
    tensors = {f"{name}.{i}": torch.zeros((i,) * i, dtype=dtype) for i in range(4) for dtype, name in DTYPES.items()}
    tensors["名前"] = torch.zeros(2, 3)
    metadata = {"key": 'a "quoted" \\ value\n'}
    save_file(tensors, tmp_path / "m.safetensors", metadata)
    written = (tmp_path / "m.safetensors").read_bytes()
    records = {name: record(tensor) for name, tensor in tensors.items()}
    assert written.startswith(header_bytes(records, metadata))
    assert len(written) == file_size(records, metadata)


def test_names_are_split_into_layer_and_suffix():
    for suffix in SUFFIXES:
        assert split_name(f"layer1.0.conv{suffix}") == ("layer1.0.conv", suffix)
    assert split_name("layer1.0.conv.weight") == ("layer1.0.conv.weight", "")


@pytest.mark.parametrize("precision", Precision)
def test_the_tensors_of_a_layer_have_the_bytes_of_its_curve_shape(precision):
    curve = CurveShape(4, 300, 140, precision)
    for positions, more in (("packed", 0), ("coded", 5)):
        tensors = layer_tensors(LayerRecord((40, 50), curve, positions=positions))
        assert sum(tensor.bytes for tensor in tensors.values()) == curve.bytes(2000) + more
    old = layer_tensors(LayerRecord((40, 50), curve, positions="int32"))[SUFFIXES[0]]
    assert (old.dtype, old.shape) == ("I32", (500,))


def test_estimated_counts_are_those_of_the_plan():
    """Counts that are updated layer by layer are equal to the counts of the complete plan."""
    model = convolutional()
    for include in (("2",), ("2", "4"), ("*",)):
        recipe = tenreo.Recipe(4, tenreo.Uniform(4.0), include, precision="int8", dense_dtype="bfloat16")
        plan = resolve(recipe, model)
        found = FileEstimate(recipe, model).after(plan.layers)
        assert found == plan.after and found.weights == sum(x.numel for x in plan.compressed)
