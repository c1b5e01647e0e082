"""Torchvision's architectures, their names and weights."""

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from tenreo.errors import TenreoError
from tenreo.vision.architectures import build, default_info
from tenreo.vision.names import architecture_names, check_architecture
from tenreo.vision.weights import with_weights


def test_weights_files(tmp_path):
    model = build("resnet18", 5, "none")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pth")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        loaded, info = with_weights("resnet18", str(tmp_path / name))
        assert info.classes == 5 and torch.equal(loaded.fc.weight, model.fc.weight)
    with pytest.raises(TenreoError, match=r"missing: layer1\.2\.conv1\.weight, .*77 more; these are names of resnet18"):
        with_weights("resnet34", str(tmp_path / "w.pth"))
    with pytest.raises(TenreoError, match="neither a file, nor none, nor one of IMAGENET1K_V1"):
        with_weights("resnet18", "IMAGENET22K")
    with pytest.raises(TenreoError, match="no classification architecture 'resnet51'"):
        with_weights("resnet51", "none")


def test_weights_that_can_not_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(
        TenreoError, match=r"https://.*resnet18-.*\.pth can not be downloaded.*put resnet18-.*none for random weights"
    ):
        with_weights("resnet18", None)


def test_names_are_torchvisions():
    assert list(architecture_names()) == torchvision.models.list_models(module=torchvision.models)


def test_a_misspelled_name_is_told_what_there_is():
    check_architecture("resnet50")
    with pytest.raises(TenreoError, match=r"arch: .*no classification architecture 'resnet51'; such as .*resnet50"):
        check_architecture("resnet51")
    with pytest.raises(TenreoError, match=r"'fcn_resnet50'; such as .*mobilenet_v2"):  # it segments
        check_architecture("fcn_resnet50")


@pytest.mark.parametrize("arch", ["resnet50", "mobilenet_v2", "vit_b_16", "inception_v3"])
def test_the_info_of_an_architecture_is_that_of_its_weights(arch):
    info = default_info(arch)
    weights = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"]
    preset = weights.transforms()
    assert (info.arch, info.classes, info.weights) == (arch, len(weights.meta["categories"]), "IMAGENET1K_V1")
    assert (info.preprocess.resize, info.preprocess.crop) == (preset.resize_size[0], preset.crop_size[0])
    assert (list(info.preprocess.mean), list(info.preprocess.std)) == (preset.mean, preset.std)
    assert info.preprocess.interpolation == preset.interpolation.value


def test_compressed_weights_and_those_of_another_architecture_are_refused(saved_file):
    with pytest.raises(TenreoError, match="is compressed already; give the dense weights"):
        with_weights("resnet18", str(saved_file[2]))
    with pytest.raises(TenreoError, match="holds resnet18, given the architecture resnet34"):
        with_weights("resnet34", str(saved_file[2]))


def test_random_weights_follow_their_seed():
    first, again, other = (with_weights("mobilenet_v2", "none", seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["classifier.1.weight"], other["classifier.1.weight"])
