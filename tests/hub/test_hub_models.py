"""Models of the hub in timm's layout as sources of compress: only named repositories are downloaded."""

from pathlib import Path

import pytest
import torch
from processes import here, refused

from tenreo.errors import TenreoError
from tenreo.files.header import read_header
from tenreo.hub.cards import card_text
from tenreo.models.dense_weights import open_dense

timm = pytest.importorskip("timm")


def test_a_repository_of_timm_is_compressed_and_its_weights_are_found_again(hub, inside, monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=5).eval()
    timm.models.save_for_hf(model, "dense", safe_serialization=True)
    (inside / "dense/README.md").write_text("---\nlicense: mit\n---\n")
    hub.repositories["user/net"] = {path.name: path.read_bytes() for path in (inside / "dense").iterdir()}
    hub.repositories["user/net"]["code.py"] = b"raise SystemExit"
    words = ("compress", "-g", 4, "-r", 4, "--refine", 0, "--no-match-statistics", "--include", "conv_head")
    here(*words, "--model", "hf-hub:user/net", "-o", "small.safetensors")
    header = read_header(Path("small.safetensors"))
    assert (header.info.weights, header.info.license) == ("hf-hub:user/net", "mit")
    text = card_text(Path("small.safetensors"))
    assert "base_model: user/net\n" in text and "model: hf-hub:user/net\n" in text
    assert not [path for _, path in hub.calls if "code.py" in path]
    hub.calls.clear()
    dense = open_dense(header)
    assert all(torch.equal(value, dense.state_dict()[name]) for name, value in model.state_dict().items())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(inside / "empty"))
    with pytest.raises(TenreoError, match="which are not on this machine; download them with tenreo pull user/net"):
        open_dense(header)
    assert not hub.calls  # a file that names a repository downloads nothing
    error = refused(*words, "--model", "hf-hub:user/nothing", "-o", "x.safetensors")
    assert "user/nothing cannot be downloaded: there is no such repository" in error
