"""The search for a file whose ONNX model has a given size."""

import copy

import pytest
import torch
from torch import nn

import tenreo
from tenreo.errors import TenreoError
from tenreo.exporting.onnx_size import compress_for_onnx

X = torch.randn(3, 243, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_the_onnx_model_has_the_target_size(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(243, 800), nn.ReLU(), nn.Linear(800, 300)).eval()

    def attempt(recipe):
        model = copy.deepcopy(net)
        tenreo.compress_(model, recipe)
        return tenreo.export(model, tmp_path / "model.onnx", inputs=X, small=True).bytes, model

    made = compress_for_onnx(tenreo.Recipe(None, tenreo.TargetSize(160_000)), attempt)
    assert 155_000 <= tenreo.export(made, tmp_path / "again.onnx", inputs=X, small=True).bytes <= 160_000


def test_sizes_that_no_model_has_are_refused():
    target = tenreo.Recipe(None, tenreo.TargetSize(10_000))
    with pytest.raises(TenreoError, match="the rest of the ONNX model alone needs more"):
        compress_for_onnx(target, lambda recipe: (100_000, None))
    with pytest.raises(TenreoError, match="for: onnx needs --target-size"):
        compress_for_onnx(tenreo.Recipe(4, tenreo.Uniform(2.0)), lambda recipe: (1, None))
