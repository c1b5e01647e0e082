import pytest
import torch
from hub_server import running_hub
from torch import nn

import tenreo
from tenreo.files.records import ModelInfo, Preprocess


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server with the calls of the hub, which huggingface_hub uses instead of the real one; its cache is empty."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with running_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


@pytest.fixture
def compressed():
    """A compressed model without a name, and its recipe."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)).eval()
    tenreo.compress_(model, tenreo.Recipe(4, tenreo.Uniform(2.0), include=("*",), refine=0))
    return model


@pytest.fixture
def small_file(tmp_path, compressed):
    """The file of the compressed model, whose info names a data set of ten classes."""
    path = tmp_path / "small.safetensors"
    tenreo.save(compressed, path, ModelInfo(classes=10, preprocess=Preprocess(8, 8), license="mit"))
    return path
